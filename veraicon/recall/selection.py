"""Which outputs, and which jobs on their way, a recall is about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, or_, select

from dicom_node.archive import Archive
from domain.errors import RequestInvalid, UnreadableInstance, WeightsRejected
from domain.identifiers import PatientIdentifier
from generators.cards import bundle_folder, read_card
from veraicon.jobs import request_of
from veraicon.pipeline import JobState
from veraicon.recall.outputs import patient_token
from veraicon.recall.tables import OutputRow
from veraicon.sections import PairingSettings
from veraicon.tables import JobRow


@dataclass(frozen=True, slots=True)
class Selection:
    """What outputs have to fulfil, all of it; an empty value asks for nothing.

    Attributes
    ----------
    weights : str
        Name of a model, or ``sha256:`` digest of weights.
    patient_tokens : tuple of str
        Salted tokens of a source's patient, one for each system that the identifier may belong to.
    source_study : str
        Study Instance UID of the source.
    since, until : datetime or None
        When it was generated; aware, both included.
    """

    weights: str = ""
    patient_tokens: tuple[str, ...] = ()
    source_study: str = ""
    software: str = ""
    since: datetime | None = None
    until: datetime | None = None
    request_id: str = ""

    def __post_init__(self) -> None:
        if not any(
            (self.weights, self.patient_tokens, self.source_study, self.software, self.since, self.until, self.request_id)
        ):
            raise RequestInvalid(
                found="a recall of nothing in particular",
                allowed="--weights, --source-patient, --source-study, --software, --from, --to or --request",
                action="say what is to be taken back",
            )
        if self.since and self.until and self.since > self.until:
            raise RequestInvalid(
                found="a time span that ends before it begins", allowed="--from before --to", action="swap them"
            )

    def told(self) -> dict[str, Any]:
        """Return the selection for the notice and the report: salted tokens in place of a patient's identifier."""
        moments = {"from": self.since, "to": self.until}
        told: dict[str, Any] = {
            "weights": self.weights,
            "sourcePatient": list(self.patient_tokens),
            "sourceStudy": self.source_study,
            "software": self.software,
            "request": self.request_id,
        } | {name: moment.astimezone(UTC).isoformat() for name, moment in moments.items() if moment}
        return {name: value for name, value in told.items() if value}


def tokens_of(salt: bytes, identifier: str, system: str | None, pairing: PairingSettings) -> tuple[str, ...]:
    """Return the tokens that an identifier of a source's patient may have: of one system, or of each that the site knows."""
    systems = [system] if system is not None else ["", pairing.patient_id_system, *pairing.issuers.values()]
    return tuple(patient_token(salt, PatientIdentifier(identifier, one)) for one in dict.fromkeys(systems))


def selected_outputs(engine: sa.Engine, selection: Selection) -> list[OutputRow]:
    """Return the outputs that a selection means, the oldest first."""
    query = select(OutputRow).order_by(col(OutputRow.generated_at), col(OutputRow.request_id))
    if selection.weights:
        query = query.where(or_(OutputRow.weights_digest == selection.weights, OutputRow.model_name == selection.weights))
    if selection.patient_tokens:
        query = query.where(col(OutputRow.patient_token).in_(selection.patient_tokens))
    if selection.source_study:
        query = query.where(OutputRow.source_study_uid == selection.source_study)
    if selection.software:
        query = query.where(OutputRow.software_version == selection.software)
    if selection.since:
        query = query.where(col(OutputRow.generated_at) >= selection.since.astimezone(UTC))
    if selection.until:
        query = query.where(col(OutputRow.generated_at) <= selection.until.astimezone(UTC))
    if selection.request_id:
        query = query.where(OutputRow.request_id == selection.request_id)
    with Session(engine) as session:
        return list(session.exec(query).all())


def jobs_on_their_way(engine: sa.Engine, archive: Archive, selection: Selection, salt: bytes) -> list[JobRow]:
    """Return the jobs that have written nothing yet and would make what the selection means."""
    ended = [state.value for state in JobState if state.ended]
    query = select(JobRow).where(
        col(JobRow.state).not_in(ended), ~sa.exists().where(col(OutputRow.request_id) == col(JobRow.request_id))
    )
    with Session(engine) as session:
        rows: Sequence[JobRow] = session.exec(query.order_by(col(JobRow.created_at))).all()
    return [row for row in rows if all(_fulfils(row, archive, selection, salt))]


def _fulfils(job: JobRow, archive: Archive, selection: Selection, salt: bytes) -> Iterator[bool]:
    """Yield whether a job fulfils each condition; what it makes is made now, by this version."""
    now = datetime.now(UTC)
    if selection.request_id:
        yield job.request_id == selection.request_id
    if selection.software:
        yield selection.software == version("veraicon")
    if selection.since or selection.until:
        yield (selection.since or now) <= now <= (selection.until or now)
    if selection.weights:
        yield selection.weights in _weights_of(request_of(job).model)
    if selection.source_study:
        found = archive.find("SERIES", {"SeriesInstanceUID": [job.series_uid]}, counted=False)
        yield any(entity["StudyInstanceUID"] == selection.source_study for entity in found)
    if selection.patient_tokens:
        try:
            yield patient_token(salt, archive.series(job.series_uid).patient) in selection.patient_tokens
        except UnreadableInstance:
            yield True  # nobody knows whose it is: rather cancelled than sent


def _weights_of(model: str) -> set[str]:
    try:
        card = read_card(bundle_folder(model))
    except WeightsRejected:
        return {model}
    return {model, card.name, card.weights_digest}
