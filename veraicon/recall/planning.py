"""What a recall would do, and its beginning: the outputs and jobs that are meant, less those that were recalled before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlmodel import Session, col, select

from domain.errors import JobNotFound, RequestInvalid
from provenance.log_proof import RECALL_ENTRY
from provenance.recall_notice import RecallReason
from veraicon.recall.executing import Recaller
from veraicon.recall.outputs import Copy, Outputs, aware
from veraicon.recall.records import CopyState, Recalls
from veraicon.recall.reporting import tell_source_copy
from veraicon.recall.selection import Selection, jobs_on_their_way, selected_outputs
from veraicon.recall.tables import OutputRow, RecalledRow
from veraicon.recall.telling import place_of
from veraicon.tables import JobRow
from veraicon.wiring import Site


@dataclass(frozen=True)
class Plan:
    """What a selection means now.

    Attributes
    ----------
    outputs : tuple of OutputRow
        To be recalled.
    jobs : tuple of JobRow
        On their way, to be cancelled.
    before : tuple of str
        Request ids that the selection means and that an earlier recall has taken back.
    """

    selection: Selection
    outputs: tuple[OutputRow, ...]
    jobs: tuple[JobRow, ...]
    before: tuple[str, ...]


def recaller_of(site: Site, progress: Callable[[int, int], None] = lambda _done, _total: None) -> Recaller:
    """Return what carries the recalls of a site through."""
    return Recaller(site, site.outputs, Recalls(site.engine), partial(site.log.enter, RECALL_ENTRY), progress)


def plan(site: Site, selection: Selection) -> Plan:
    """Return what a selection means; nothing is changed."""
    with Session(site.engine) as session:
        before = set(session.exec(select(RecalledRow.request_id).where(col(RecalledRow.kind) == "output")).all())
    meant = selected_outputs(site.engine, selection)
    return Plan(
        selection,
        tuple(row for row in meant if row.request_id not in before),
        tuple(jobs_on_their_way(site.engine, site.archive, selection, site.salt)),
        tuple(row.request_id for row in meant if row.request_id in before),
    )


def unknown_sources(site: Site, selection: Selection, patient_id: str) -> list[str]:
    """Return the options of a selection that name a source of which we hold nothing and have made nothing: mistyped, perhaps.

    Parameters
    ----------
    patient_id : str
        What the tokens of the selection were made of; it is looked up in the archive, and not kept.
    """
    named = []
    if selection.patient_tokens:
        made = selected_outputs(site.engine, Selection(patient_tokens=selection.patient_tokens))
        named.append(("--source-patient", made, {"PatientID": [patient_id]}))
    if selection.source_study:
        made = selected_outputs(site.engine, Selection(source_study=selection.source_study))
        named.append(("--source-study", made, {"StudyInstanceUID": [selection.source_study]}))
    return [option for option, made, held in named if not made and not site.archive.find("STUDY", held, counted=False)]


def begin(site: Site, planned: Plan, *, reason: RecallReason, note: str, by: str) -> str:
    """Keep a plan as a recall, and return its id; from then on nothing of it leaves.

    Raises
    ------
    RequestInvalid
        If it has nothing to take back, or consent is withdrawn by nobody in particular.
    """
    selection = planned.selection
    if reason is RecallReason.CONSENT and not (selection.patient_tokens or selection.source_study):
        raise RequestInvalid(
            found="a withdrawn consent of nobody in particular",
            allowed="--source-patient or --source-study with the reason consent",
            action="name whose consent it is, so that nothing new is made of it",
        )
    if not planned.outputs and not planned.jobs and reason is not RecallReason.CONSENT:
        raise RequestInvalid(
            found=f"nothing to recall ({len(planned.before)} outputs that are meant were recalled before)",
            allowed="a selection with an output or a job on its way",
            action="see the outputs without --execute; `veraicon recall list` shows earlier recalls",
        )
    return Recalls(site.engine).open(
        selection,
        outputs=planned.outputs,
        jobs=[row.request_id for row in planned.jobs],
        reason=reason,
        note=note,
        by=by,
    )


def tell_plan(site: Site, planned: Plan) -> dict[str, Any]:
    """Return a plan for people and programs: every output, its state, its copies, and what would become of each."""
    return {
        "selection": planned.selection.told(),
        "outputs": [_tell_output(site, site.outputs, row) for row in planned.outputs],
        "jobs_to_cancel": [{"job": row.request_id, "state": row.state} for row in planned.jobs],
        "recalled_before": list(planned.before),
        "source_copies": [
            tell_source_copy(copy)
            for copy in site.outputs.source_copies(planned.selection.patient_tokens, planned.selection.source_study)
        ],
    }


def _tell_output(site: Site, outputs: Outputs, row: OutputRow) -> dict[str, Any]:
    series = outputs.series(row.request_id)
    return {
        "request": row.request_id,
        "state": _state(site, row.request_id),
        "generated_at": aware(row.generated_at).isoformat(),
        "study_uid": row.study_uid,
        "series": {uid: len(instances) for uid, instances in series.items()},
        "model": row.model_name,
        "weights": row.weights_digest,
        "software": row.software_version,
        "copies": [_tell_copy(site, copy) for copy in outputs.copies(row.request_id)],
    }


def _tell_copy(site: Site, copy: Copy) -> dict[str, Any]:
    if copy.protocol == "archive":
        would = "hide it in our archive"
    elif place_of(site, copy.recipient, copy.protocol) is not None:
        would = "send a rejection note and ask what is still shown"
    else:
        would = CopyState.BY_HAND.words
    return {
        "recipient": copy.recipient,
        "protocol": copy.protocol,
        "sent_at": copy.sent_at.isoformat(),
        "accepted": copy.accepted,
        "would": would,
    }


def _state(site: Site, request_id: str) -> str:
    try:
        return site.jobs.get(request_id).state
    except JobNotFound:
        return "no job"
