"""The migrations end at the tables that the code has."""

from __future__ import annotations

from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import dicom_node.tables
import fhir_adapter.local.tables
import veraicon.datasets.tables
import veraicon.recall.tables
import veraicon.tables
from veraicon.database import connect, migrate
from veraicon.settings import load_settings

_METADATA = [dicom_node.tables.metadata, fhir_adapter.local.tables.METADATA, veraicon.tables.metadata]


def test_a_migrated_database_has_the_tables_of_the_code(tmp_path: Path) -> None:
    engine = connect(load_settings(storage={"folder": str(tmp_path / "data")}))
    migrate(engine)
    options = {
        "version_table": "veraicon_schema",
        "include_name": lambda name, kind, _: kind != "table" or any(name in metadata.tables for metadata in _METADATA),
    }
    with engine.connect() as connection:
        for metadata in _METADATA:
            names = set(metadata.tables)
            options["include_name"] = lambda name, kind, _, names=names: kind != "table" or name in names
            assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
    engine.dispose()
