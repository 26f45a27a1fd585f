"""A recall step by step; each step is ticked off when it is done, and does no harm when it is done again.

    open -> cancel jobs -> sign the notice -> for each output: hide here, withdraw from the FHIR server, tell each copy

What cannot be reached now stays open, and `resume` goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import structlog
from pydicom import Dataset, dcmread

from dicom_node.holding.files import to_part10
from dicom_node.holding.headers import PARSE_ERRORS
from dicom_node.holding.rejecting import Rejection
from dicom_node.objects.rejection_note import NoteIdentity, rejection_note
from domain.errors import (
    JobNotFound,
    PeerError,
    PeerUnreachable,
    PublicationError,
    RequestInvalid,
    UnreadableInstance,
    VeraiconError,
)
from domain.identifiers import derive_uid
from provenance.recall_as_fhir import recall_provenance, recall_provenance_id
from provenance.recall_notice import NOTICE_SUFFIX, RecalledOutput, RecallReason, sign_notice
from veraicon import faults
from veraicon.artifacts import BYTES, ArtifactFolder
from veraicon.pipeline import JobState
from veraicon.publishing import PREPARED
from veraicon.recall.outputs import Outputs, aware
from veraicon.recall.records import CopyState, Recalls
from veraicon.recall.tables import RecalledCopyRow, RecalledRow, RecallRow
from veraicon.recall.telling import ask, place_of
from veraicon.recall.withdrawing import references_in, withdraw
from veraicon.wiring import Site

_log = structlog.get_logger(__name__)

# PS3.16 CID 7010 has no title for a consent that was withdrawn. That the data may not be kept any longer comes nearest: a PACS
# which heeds the title hides the note too, and may delete what it names.
TITLES = {
    RecallReason.QUALITY: "113001",
    RecallReason.SAFETY: "113037",
    RecallReason.CONSENT: "113039",
    RecallReason.OTHER: "113001",
}

OWN_ARCHIVE = "archive"


@dataclass(frozen=True)
class Recaller:
    """Carries recalls of one site through.

    Attributes
    ----------
    enter : callable
        Puts the signed notice into the transparency log.
    progress : callable
        Told after each output how many of how many are gone through.
    """

    site: Site
    outputs: Outputs
    recalls: Recalls
    enter: Callable[[str], object]
    progress: Callable[[int, int], None] = lambda _done, _total: None

    def folder(self, recall_id: str) -> ArtifactFolder:
        """Return the folder of a recall: its notice, the rejection notes, the report."""
        return ArtifactFolder(self.site.settings.storage.folder / "recalls" / recall_id)

    def carry_through(self, recall: RecallRow) -> bool:
        """Do everything of a recall that is not done yet; return whether nothing is left to be done by us."""
        self._cancel_jobs(recall)
        notice = self._notice(recall)
        rows = self.recalls.outputs(recall.recall_id)
        for number, row in enumerate(rows, start=1):
            if row.finished_at is None:
                self._one_output(recall, row, notice)
            self.progress(number, len(rows))
        done = self.recalls.finished(recall.recall_id)
        if done and recall.finished_at is None:
            self.recalls.tick(recall, finished_at=datetime.now(UTC))
        return done

    def ask_again(self, recall: RecallRow) -> None:
        """Let the next call ask those again that still showed what was recalled, refused the note, or could not be called."""
        again = {CopyState.STILL_SHOWN.value, CopyState.REFUSED.value, CopyState.BY_HAND.value}
        for copy in self.recalls.copies(recall.recall_id):
            if copy.state in again:
                self.recalls.tick(copy, state=CopyState.PENDING.value)
        waiting = {copy.request_id for copy in self.recalls.copies(recall.recall_id) if not CopyState(copy.state).ended}
        for row in self.recalls.outputs(recall.recall_id):
            if row.fhir_at is not None and self._stopped_while_writing(row):
                self.recalls.tick(row, fhir_at=None, finished_at=None)
                self.recalls.tick(recall, finished_at=None)
            # A copy may also have been handed out after the output was gone through.
            known = {(copy.recipient, copy.protocol) for copy in self.recalls.copies(recall.recall_id, row.request_id)}
            new = {(copy.recipient, copy.protocol) for copy in self.outputs.copies(row.request_id)} - known
            if row.request_id in waiting or new:
                self.recalls.tick(row, finished_at=None)
                self.recalls.tick(recall, finished_at=None)

    def _stopped_while_writing(self, row: RecalledRow) -> bool:
        """True of a job that was stopped after it had signed: its Bundle may land late, and the process die before it looks."""
        made = self.outputs.row(row.request_id)
        return made is not None and bool(made.provenance_reference) and self._job_state(row) == JobState.CANCELLED.value

    def _job_state(self, row: RecalledRow) -> str:
        try:
            return self.site.jobs.get(row.request_id).state
        except JobNotFound:
            return ""

    def _cancel_jobs(self, recall: RecallRow) -> None:
        """Stop what is on its way, outputs that are being published among them: `Outputs.leaving` refuses the rest."""
        for kind in ("job", "output"):
            for row in self.recalls.outputs(recall.recall_id, kind=kind):
                with suppress(RequestInvalid, JobNotFound):  # it has ended, or was no job of ours
                    self.site.jobs.cancel(row.request_id)
                if kind == "job":
                    self._settle_job(row)
        faults.reach("recall:cancelled")

    def _settle_job(self, row: RecalledRow) -> None:
        """Take a job that had written its instances before the recall began as the output that it is by now."""
        made = self.outputs.row(row.request_id)
        if made is not None:
            self.recalls.tick(row, kind="output", attestation=made.attestation, finished_at=None)
        elif row.finished_at is None:
            state = self._job_state(row)
            ended = "" if state == JobState.CANCELLED.value else f"it had ended before: {state or 'no job'}"
            self.recalls.tick(row, problem=ended, finished_at=datetime.now(UTC))

    def _notice(self, recall: RecallRow) -> str:
        """Sign what is recalled, keep it, and enter it in the log; a repeat signs the very same bytes."""
        recalled = []
        for row in self.recalls.outputs(recall.recall_id):
            series = self.outputs.series(row.request_id)
            study = derive_uid(row.request_id, "study")
            recalled.append(RecalledOutput(row.request_id, study, tuple(sorted(series)), row.attestation))
        jws = self.folder(recall.recall_id).once(
            f"notice{NOTICE_SUFFIX}",
            BYTES,
            lambda: sign_notice(
                self.site.key,
                recall_id=recall.recall_id,
                recalled_at=aware(recall.recalled_at),
                by=recall.by,
                reason=RecallReason(recall.reason),
                note=recall.note,
                selection=recall.selection,
                recalled=recalled,
            ).encode("ascii"),
        )
        faults.reach("recall:signed")
        if recall.notice_at is None:
            self.enter(jws.decode("ascii"))
            faults.reach("recall:logged")
            self.recalls.tick(recall, notice_at=datetime.now(UTC))
        return jws.decode("ascii")

    def _one_output(self, recall: RecallRow, row: RecalledRow, notice: str) -> None:
        """Take one output back as far as it goes now; what stands in the way is kept with it, and the next one is begun."""
        problems = []
        for step in (self._hide, self._withdraw, self._tell):
            try:
                step(recall, row, notice)
            except VeraiconError as error:  # the edge: kept with the output, shown, and tried again by `resume`
                problems.append(f"{error.code} {error.found}")
                _log.warning("a step of a recall failed", action="recall", request_id=row.request_id, code=error.code)
        copies = self.recalls.copies(recall.recall_id, row.request_id)
        done = not problems and all(CopyState(copy.state).ended for copy in copies)
        self.recalls.tick(row, problem="; ".join(problems))
        if done:
            self.recalls.finish_output(row)
        faults.reach("recall:output")

    def _hide(self, recall: RecallRow, row: RecalledRow, _notice: str) -> None:
        """Hide it in our own archive first, so that nobody fetches it while others are being told."""
        if row.hidden_at is not None:
            return
        series = self.outputs.series(row.request_id)
        uids = tuple(uid for instances in series.values() for _, uid in instances)
        title = TITLES[RecallReason(recall.reason)]
        self.site.archive.reject(Rejection(_note_uid(recall, row), title, uids), source=OWN_ARCHIVE)
        faults.reach("recall:hidden")
        self.recalls.tick(row, hidden_at=datetime.now(UTC))

    def _withdraw(self, recall: RecallRow, row: RecalledRow, notice: str) -> None:
        if row.fhir_at is not None:
            return
        prepared = self.site.jobs.artifacts(row.request_id).folder / f"prepared-attestation{PREPARED.suffix}"
        written = _references(prepared) if prepared.exists() else self._nothing_kept(row)
        withdrawn = self._withdraw_all(recall, row, notice, written)
        faults.reach("recall:fhir")
        self.recalls.tick(row, fhir_at=datetime.now(UTC), fhir="withdrawn" if withdrawn else "never written")
        # A step that was attesting meanwhile either wrote before this second look, or sees the tick and reopens the output.
        if not withdrawn and self._withdraw_all(recall, row, notice, written):
            self.recalls.tick(row, fhir="withdrawn")

    def _withdraw_all(self, recall: RecallRow, row: RecalledRow, notice: str, written: Sequence[str]) -> bool:
        if not written:
            return False
        superseded = next(one for one in written if one.startswith("Provenance/"))

        def provenance(targets: Sequence[str]) -> dict[str, object]:
            return recall_provenance(
                self.site.key,
                recall_id=recall.recall_id,
                request_id=row.request_id,
                recalled_at=aware(recall.recalled_at),
                by=recall.by,
                organization=self.site.settings.provenance.organization,
                reason=RecallReason(recall.reason),
                note=recall.note,
                notice_jws=notice,
                targets=targets,
                superseded=superseded,
            )

        return withdraw(self.site.fhir, written, recall_provenance_id(recall.recall_id, row.request_id), provenance)

    def _nothing_kept(self, row: RecalledRow) -> list[str]:
        """No resource, where the job has written none; what a job wrote and its folder has lost cannot be withdrawn.

        Raises
        ------
        UnreadableInstance
            If it is lost.
        """
        made = self.outputs.row(row.request_id)
        attested = made is not None and bool(made.provenance_reference)
        if attested and self.site.jobs.starting_with(row.request_id):  # files that `generate` wrote are in no FHIR server
            raise _lost("no Bundle in the folder of a job that has written its resources to the FHIR server")
        return []

    def _tell(self, recall: RecallRow, row: RecalledRow, _notice: str) -> None:
        """Send the note to each place that holds a copy and ask what became of it."""
        # Read after it was hidden here: whoever fetched it before is among them.
        self.recalls.note_copies(recall.recall_id, row.request_id, self.outputs.copies(row.request_id))
        waiting = [c for c in self.recalls.copies(recall.recall_id, row.request_id) if not CopyState(c.state).ended]
        if not waiting:
            return
        for copy in waiting:
            try:
                self._tell_one(recall, row, copy)
            except PeerUnreachable as error:
                self.recalls.tick(copy, state=CopyState.UNREACHABLE.value, detail=error.found, asked_at=datetime.now(UTC))
            except (PeerError, PublicationError) as error:
                self.recalls.tick(copy, state=CopyState.REFUSED.value, detail=error.found, asked_at=datetime.now(UTC))

    def _tell_one(self, recall: RecallRow, row: RecalledRow, copy: RecalledCopyRow) -> None:
        now = datetime.now(UTC)
        if copy.protocol == "archive":
            self.site.archive.land(to_part10(self._note(recall, row)), source=OWN_ARCHIVE, origin="generated")
            self.recalls.tick(copy, state=CopyState.HIDDEN.value, detail="hidden in our archive", asked_at=now)
            return
        place = place_of(self.site, copy.recipient, copy.protocol)
        if place is None:
            self.recalls.tick(copy, state=CopyState.BY_HAND.value, detail="no peer of the settings", asked_at=now)
            return
        note = self._note(recall, row)
        if copy.note_accepted_at is None:
            place.send(note)
            faults.reach("recall:note-sent")
            self.recalls.tick(copy, note_accepted_at=datetime.now(UTC))
        answer = ask(place, note, self.outputs.series(row.request_id))
        faults.reach("recall:asked")
        self.recalls.tick(copy, state=answer.state.value, detail=answer.words, asked_at=datetime.now(UTC))

    def _note(self, recall: RecallRow, row: RecalledRow) -> Dataset:
        """Return the rejection note of an output: written once, so that each place gets the same bytes.

        Raises
        ------
        UnreadableInstance
            If the job's folder no longer holds the instances.
        """
        identity = NoteIdentity(
            series_uid=derive_uid(recall.recall_id, row.request_id, "series"),
            instance_uid=_note_uid(recall, row),
            title=TITLES[RecallReason(recall.reason)],
            text=f"Recall {recall.recall_id}: {RecallReason(recall.reason).words}. {recall.note}".strip(),
            created_at=aware(recall.recalled_at),
            software_version=version("veraicon"),
        )
        folder = ArtifactFolder(self.folder(recall.recall_id).folder / "notes")
        codec = replace(BYTES, suffix=".dcm")
        content = folder.once(row.request_id, codec, lambda: to_part10(rejection_note(self._instances(row), identity)))
        try:
            return dcmread(BytesIO(content))
        except PARSE_ERRORS as error:
            raise _lost("a rejection note in the folder of the recall that cannot be read") from error

    def _instances(self, row: RecalledRow) -> list[Dataset]:
        """Return the headers of what the job has published, all of it."""
        outbox: Path = self.site.jobs.artifacts(row.request_id).folder / "series"
        try:
            found: list[Dataset] = [dcmread(path, stop_before_pixels=True) for path in sorted(outbox.glob("*.dcm"))]
            names = {(str(ds.SOPClassUID), str(ds.SOPInstanceUID)) for ds in found if ds.StudyInstanceUID}
        except (*PARSE_ERRORS, OSError) as error:
            raise _lost("an instance in the folder of the job that cannot be read") from error
        published = {one for instances in self.outputs.series(row.request_id).values() for one in instances}
        if names != published:
            raise _lost(f"{len(names & published)} of {len(published)} published instances in the folder of the job")
        return found


def _references(prepared: Path) -> list[str]:
    """Return ``Type/id`` of what a job wrote to the FHIR server.

    Raises
    ------
    UnreadableInstance
        If its folder holds something else by now.
    """
    try:
        references = references_in(PREPARED.read(prepared).bundle)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _lost("a Bundle in the folder of the job that cannot be read") from error
    if not any(one.startswith("Provenance/") for one in references):
        raise _lost("a Bundle without a Provenance in the folder of the job")
    return references


def _lost(found: str) -> UnreadableInstance:
    return UnreadableInstance(
        found=found,
        allowed="what the job has published, as it was",
        action="restore the storage folder from its backup, then resume the recall",
    )


def _note_uid(recall: RecallRow, row: RecalledRow) -> str:
    return derive_uid(recall.recall_id, row.request_id, "rejection-note")
