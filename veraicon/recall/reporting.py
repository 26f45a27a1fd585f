"""The report of a recall, for programs (JSON) and for people (Markdown); written beside its notice whenever it goes on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from provenance.recall_notice import RecallReason
from veraicon.artifacts import BYTES, save
from veraicon.recall.executing import TITLES, Recaller
from veraicon.recall.outputs import SourceCopy, aware
from veraicon.recall.records import CopyState
from veraicon.recall.tables import RecalledRow, RecallRow


def report(recaller: Recaller, recall: RecallRow) -> dict[str, Any]:
    """Return how a recall stands; it names no patient."""
    copies = recaller.recalls.copies(recall.recall_id)
    outputs = [_output(recaller, recall, row) for row in recaller.recalls.outputs(recall.recall_id)]
    jobs = recaller.recalls.outputs(recall.recall_id, kind="job")
    cancelled = [row.request_id for row in jobs if not row.problem]
    sources = recaller.outputs.source_copies(recall.blocked_patients, recall.blocked_study)
    open_ones = [one for one in outputs if not one["done"]]
    return {
        "recall": recall.recall_id,
        "recalled_at": _iso(recall.recalled_at),
        "by": recall.by,
        "reason": recall.reason,
        "note": recall.note,
        "selection": recall.selection,
        "rejection_title": TITLES[RecallReason(recall.reason)],
        "state": "done" if recall.finished_at and not open_ones else "open",
        "finished_at": _iso(recall.finished_at) if not open_ones else None,
        "new_requests_refused": bool(recall.blocked_patients or recall.blocked_study) and recall.lifted_at is None,
        "counts": {
            "outputs": len(outputs),
            "instances": sum(one["instances"] for one in outputs),
            "outputs_done": sum(one["done"] for one in outputs),
            "fhir_withdrawn": sum(one["fhir_withdrawn"] for one in outputs),
            "jobs_cancelled": len(cancelled),
            "source_copies": len(sources),
            "copies": {state.words: count for state in CopyState if (count := Counter(c.state for c in copies)[state.value])},
        },
        "outputs": outputs,
        "jobs_cancelled": cancelled,
        "jobs_ended_before": [row.request_id for row in jobs if row.problem],
        "source_copies": [tell_source_copy(one) for one in sources],
    }


def tell_source_copy(copy: SourceCopy) -> dict[str, str]:
    """Return where a series of somebody whose consent was withdrawn went: nobody of us can call a folder."""
    return {
        "series": copy.series_uid,
        "recipient": copy.recipient,
        "protocol": copy.protocol,
        "sent_at": aware(copy.sent_at).isoformat(),
        "state": CopyState.BY_HAND.words,
    }


def _output(recaller: Recaller, recall: RecallRow, row: RecalledRow) -> dict[str, Any]:
    series = recaller.outputs.series(row.request_id)
    return {
        "request": row.request_id,
        "series": sorted(series),
        "instances": sum(len(instances) for instances in series.values()),
        "done": row.finished_at is not None,
        "hidden_here": row.hidden_at is not None,
        "fhir_withdrawn": row.fhir == "withdrawn",
        "fhir": row.fhir or None,
        "attestation": row.attestation or None,
        "problem": row.problem or None,
        "copies": [
            {
                "recipient": copy.recipient,
                "protocol": copy.protocol,
                "sent_at": _iso(copy.sent_at),
                "state": CopyState(copy.state).words,
                "detail": copy.detail,
                "asked_at": _iso(copy.asked_at),
            }
            for copy in recaller.recalls.copies(recall.recall_id, row.request_id)
        ],
    }


def write_report(recaller: Recaller, recall: RecallRow) -> dict[str, Any]:
    """Write ``report.json`` and ``report.md`` into the recall's folder, each whole or not at all; return the report."""
    told = report(recaller, recall)
    folder: Path = recaller.folder(recall.recall_id).folder
    save(folder / "report.json", BYTES, json.dumps(told, indent=1, ensure_ascii=False).encode())
    save(folder / "report.md", BYTES, in_markdown(told).encode())
    return told


def in_markdown(told: Mapping[str, Any]) -> str:
    """Return a report for people, with the text to send to whoever has to be told by hand."""
    counts = told["counts"]
    lines = [
        f"# Recall {told['recall']}",
        "",
        f"{told['recalled_at']}, by {told['by']}: {_why(told)}",
        "",
        f"State: **{told['state']}**. {counts['outputs_done']} of {counts['outputs']} outputs done, "
        f"{counts['instances']} instances, {counts['jobs_cancelled']} jobs cancelled.",
        "",
        "| copies | number |",
        "|---|---|",
        *(f"| {state} | {number} |" for state, number in counts["copies"].items()),
        "",
        "| request | recipient | by | sent | state | detail |",
        "|---|---|---|---|---|---|",
    ]
    for output in told["outputs"]:
        lines += [
            f"| {output['request']} | {_cell(one['recipient'])} | {one['protocol']} | {one['sent_at']} | {one['state']} "
            f"| {_cell(one['detail'])} |"
            for one in output["copies"]
        ]
    if told["source_copies"]:
        lines += ["", "| source series | recipient | by | sent | state |", "|---|---|---|---|---|"]
    lines += [
        f"| {one['series']} | {_cell(one['recipient'])} | {one['protocol']} | {one['sent_at']} | {one['state']} |"
        for one in told["source_copies"]
    ]
    problems = [f"- {output['request']}: {output['problem']}" for output in told["outputs"] if output["problem"]]
    lines += ["", "## Problems", "", *problems] if problems else []
    return "\n".join([*lines, *_letters(told), *_source_letters(told)]) + "\n"


def _letters(told: Mapping[str, Any]) -> list[str]:
    """The text for each recipient that nobody of us can call."""
    named: dict[str, list[str]] = {}
    for output in told["outputs"]:
        for copy in output["copies"]:
            if copy["state"] in (CopyState.BY_HAND.words, CopyState.REFUSED.words, CopyState.STILL_SHOWN.words):
                named.setdefault(f"{copy['recipient']} ({copy['protocol']})", []).extend(output["series"])
    lines: list[str] = []
    for recipient, series in named.items():
        lines += [
            "",
            f"## To be told by hand: {_cell(recipient)}",
            "",
            f"> We recall synthetic series that you got from us: {_why(told)} "
            "Please stop showing and using them, and confirm. The signed notice (notice.recall.jws) lists them. "
            "Series Instance UIDs:",
            ">",
            *(f"> - {uid}" for uid in dict.fromkeys(series)),
        ]
    return lines


def _source_letters(told: Mapping[str, Any]) -> list[str]:
    """The text for each folder that images of the person themselves were exported to."""
    named: dict[str, list[str]] = {}
    for copy in told["source_copies"]:
        named.setdefault(f"{copy['recipient']} ({copy['protocol']})", []).append(copy["series"])
    lines: list[str] = []
    for recipient, series in named.items():
        lines += [
            "",
            f"## To be told by hand: {_cell(recipient)}, images of the person",
            "",
            f"> You got images of a real person from us. {_why(told)} Please delete them and what was made of them, "
            "and confirm. Series Instance UIDs:",
            ">",
            *(f"> - {uid}" for uid in series),
        ]
    return lines


def _why(told: Mapping[str, Any]) -> str:
    return f"{RecallReason(told['reason']).words}. {told['note']}".strip()


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def _iso(moment: datetime | None) -> str | None:
    return aware(moment).isoformat() if moment is not None else None
