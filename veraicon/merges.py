"""The book of patient merges: which identifier stands for one that is no longer used."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlmodel import Session

from domain.identifiers import PatientIdentifier
from fhir_adapter.hl7v2.merging import Merge
from veraicon.hl7v2.tables import MergeRow

# A merge of a merge happens; a longer chain is a mistake.
_LONGEST_CHAIN = 20


class MergeBook:
    """Keeps merges; the newest about an identifier counts.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        The site's migrated database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def note(self, merges: Iterable[Merge], message_id: str) -> None:
        """Keep what one message merged, all of it or nothing.

        A survivor is in use: should an earlier message have retired it, then that is over, which also keeps circles out.
        """
        now = datetime.now(UTC)
        with Session(self._engine) as session:
            for merge in merges:
                kept = session.get(MergeRow, (merge.survivor.system, merge.survivor.value))
                if kept is not None:
                    session.delete(kept)
                session.merge(
                    MergeRow(
                        retired_system=merge.retired.system,
                        retired_value=merge.retired.value,
                        survivor_system=merge.survivor.system,
                        survivor_value=merge.survivor.value,
                        message_id=message_id,
                        noted_at=now,
                    )
                )
            session.commit()

    def survivors(self, identifier: PatientIdentifier) -> tuple[PatientIdentifier, ...]:
        """Return what stands for an identifier now: along a chain of merges, the nearest first; empty where it is in use."""
        found: list[PatientIdentifier] = []
        with Session(self._engine) as session:
            while len(found) < _LONGEST_CHAIN:
                row = session.get(MergeRow, (identifier.system, identifier.value))
                if row is None:
                    break
                identifier = PatientIdentifier(row.survivor_value, row.survivor_system)
                if identifier in found:
                    break
                found.append(identifier)
        return tuple(found)
