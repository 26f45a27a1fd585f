"""The book of patient merges: which identifier stands for one that is no longer used."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Session, col, select

from domain.errors import ResourceNotFound
from domain.identifiers import PatientIdentifier, derive_uuid
from fhir_adapter.hl7v2.merging import Merge
from veraicon.hl7v2.tables import MergeRow
from veraicon.recall.outputs import aware

# A merge of a merge happens; a longer chain is a mistake.
_LONGEST_CHAIN = 20


def merge_id_of(row: MergeRow) -> str:
    """Return the name of a merge for commands, which says nothing about the patient."""
    return str(derive_uuid("merge", row.retired_system, row.retired_value, row.message_id))


def _is_outdated(session: Session, merge: Merge, at: datetime) -> bool:
    """Return whether a newer message merged the retired identifier elsewhere, or said that it is in use."""
    about = sa.or_(
        sa.and_(col(MergeRow.retired_system) == merge.retired.system, col(MergeRow.retired_value) == merge.retired.value),
        sa.and_(col(MergeRow.survivor_system) == merge.retired.system, col(MergeRow.survivor_value) == merge.retired.value),
    )
    return any(aware(row.noted_at) > at for row in session.exec(select(MergeRow).where(about)))


class MergeBook:
    """Keeps merges; the newest about an identifier counts.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        The site's migrated database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def note(self, merges: Iterable[Merge], message_id: str, at: datetime) -> bool:
        """Keep what one message merged, all of it or nothing; False where newer messages say otherwise about each of them.

        A survivor is in use: should an earlier message have retired it, then that is over, which also keeps circles out.

        Parameters
        ----------
        merges : iterable of Merge
        message_id : str
        at : datetime
            When the message came: one that was left behind does not undo what newer ones said.
        """
        noted = False
        with Session(self._engine) as session:
            for merge in merges:
                if _is_outdated(session, merge, at):
                    continue
                kept = session.get(MergeRow, (merge.survivor.system, merge.survivor.value))
                if kept is not None and aware(kept.noted_at) <= at:
                    session.delete(kept)
                session.merge(
                    MergeRow(
                        retired_system=merge.retired.system,
                        retired_value=merge.retired.value,
                        survivor_system=merge.survivor.system,
                        survivor_value=merge.survivor.value,
                        message_id=message_id,
                        noted_at=at,
                    )
                )
                noted = True
            session.commit()
        return noted

    def all(self) -> list[MergeRow]:
        """Return every merge that counts, the last first."""
        with Session(self._engine) as session:
            return list(session.exec(select(MergeRow).order_by(col(MergeRow.noted_at).desc())))

    def undo(self, merge_id: str) -> None:
        """Forget a merge: both identifiers are in use again. The message that announced it is not done again.

        Raises
        ------
        ResourceNotFound
            If there is none of this id.
        """
        row = next((one for one in self.all() if merge_id_of(one) == merge_id), None)
        if row is None:
            raise ResourceNotFound(
                found="a merge id that is not in the book",
                allowed="an id as `veraicon merge list` shows it",
                action="list the merges, and check that --config names the same database",
            )
        with Session(self._engine) as session:
            session.delete(row)
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
