"""Alembic's entry: migrates on the connection that `veraicon.database.migrate` hands in."""

from __future__ import annotations

from alembic import context

import dicom_node.tables
import fhir_adapter.local.tables
import veraicon.tables

METADATA = [dicom_node.tables.metadata, fhir_adapter.local.tables.METADATA, veraicon.tables.metadata]

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table="veraicon_schema",
    include_name=lambda name, kind, _parents: kind != "table" or any(name in metadata.tables for metadata in METADATA),
)
with context.begin_transaction():
    context.run_migrations()
