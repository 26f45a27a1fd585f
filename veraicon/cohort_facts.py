"""A pulled cohort as a table of clinical facts for building training sets: one JSON line for each fact, without identifiers.

Resources stay on disk: the files are indexed by patient once, then each patient is read, checked for consent and converted
alone.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from domain.clinical import ClinicalContext, ClinicalFact
from domain.errors import ConsentMissing, PeerAnswerInvalid, RequestInvalid, VerificationFailed
from fhir_adapter.clinical.consent import require_consent
from fhir_adapter.clinical.context import clinical_context
from fhir_adapter.json_text import parse_json
from fhir_adapter.search import own_reference, split_reference
from fhir_adapter.server.bulk_files import private_file
from fhir_adapter.store import RawResource
from veraicon.cohorts import Cohort, read_cohort, require_unchanged


@dataclass
class FactsReport:
    """What became of a cohort: counts only.

    Attributes
    ----------
    patients : int
        In the table.
    excluded : counter
        Patients that are not, by reason.
    left_out : counter
        Resources that gave no fact, by reason.
    """

    patients: int = 0
    facts: int = 0
    excluded: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Place:
    path: Path
    offset: int
    length: int


def write_facts(
    folders: Sequence[Path], target: Path, *, salt: bytes, as_of: datetime | None = None, with_text: bool = False
) -> FactsReport:
    """Write the facts of a cohort to `target`, whole or not at all.

    Parameters
    ----------
    folders : sequence of Path
        A cohort, then what was pulled since (``--since``), in that order: later versions replace earlier ones, and what the
        server lists as deleted is gone.
    salt : bytes
        Secret of this site: tokens of patients are the same in each table of ours, and tell nothing.
    as_of : datetime or None
        Facts count as of this time; None: the time of the last export.
    with_text : bool
        Also values in free text, which can name people.

    Raises
    ------
    RequestInvalid, VerificationFailed
        If a folder holds no complete cohort, the folders are of several servers, or it cannot be told what was deleted.
    """
    cohorts = [(read_cohort(folder), folder) for folder in folders]
    for cohort, folder in cohorts:
        require_unchanged(cohort, folder)
    if len({cohort.server for cohort, _ in cohorts}) != 1:
        raise RequestInvalid(found="cohorts of several servers", allowed="folders of one server", action="write one table each")
    moment = as_of or datetime.fromisoformat(cohorts[-1][0].transaction_time)
    report = FactsReport()
    part = target.with_name(f".{target.name}.part")
    with io.TextIOWrapper(private_file(part), encoding="utf-8") as stream:
        by_patient, medications = _by_patient(cohorts, report)
        for reference, places in sorted(by_patient.items()):
            rows = _rows(reference, places, medications, cohorts[0][0].server, salt, moment, with_text, report)
            stream.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(target)
    return report


def _rows(
    reference: str,
    places: Sequence[_Place],
    medications: Mapping[str, RawResource],
    server: str,
    salt: bytes,
    moment: datetime,
    with_text: bool,
    report: FactsReport,
) -> list[dict[str, Any]]:
    context = _context(reference, places, medications, server, salt, moment, report)
    if context is None:
        return []
    token = hmac.new(salt, f"cohort token\n{server}\n{reference}".encode(), hashlib.sha256).hexdigest()[:24]
    report.patients += 1
    report.left_out.update({one.reason: one.count for one in context.left_out})
    rows = [row for fact in context.facts for row in _row(token, fact, moment, with_text, report)]
    report.facts += len(rows)
    return rows


def _context(
    reference: str,
    places: Sequence[_Place],
    medications: Mapping[str, RawResource],
    server: str,
    salt: bytes,
    moment: datetime,
    report: FactsReport,
) -> ClinicalContext | None:
    """Return what is known of a patient; None, with the reason counted, where they are not used."""
    held = [_read(place) for place in places]
    patients = [one for one in held if one.reference == reference]
    if not patients:
        report.excluded["no Patient resource in the export"] += 1
        return None
    consents = [one for one in held if one.resource_type == "Consent"]
    others = [one for one in held if one.resource_type not in ("Consent", "Patient")]
    try:
        consent = require_consent(patients[0], consents, now=datetime.now(UTC))
        return clinical_context(
            patients[0],
            others,
            as_of=moment,
            salt=salt,
            consent=consent,
            consents=consents,
            medications=medications,
            base_url=server,
        )
    except ConsentMissing as error:
        report.excluded[error.found] += 1
    except (PeerAnswerInvalid, RequestInvalid):
        report.excluded["a record that cannot be read as FHIR R4"] += 1
    return None


def _row(token: str, fact: ClinicalFact, moment: datetime, with_text: bool, report: FactsReport) -> Iterator[dict[str, Any]]:
    """No reference, no date, no narrative: a date becomes the days before the moment that the table is of."""
    coded = [{"system": one.system, "code": one.code} for one in fact.value_codings]
    is_text = isinstance(fact.value, str) and not coded
    if not fact.codings or (is_text and not with_text):
        report.left_out["free text" if fact.codings else "fact without a code"] += 1
        return
    days = None if fact.effective_at is None else (moment - fact.effective_at).days
    value: Any = fact.value if with_text or not isinstance(fact.value, str) else None
    yield {
        "patient": token,
        "codes": [{"system": one.system, "code": one.code} for one in fact.codings],
        "value": value,
        "value_codes": coded,
        "unit": fact.unit,
        "days_before": days,
        "body_site": [{"system": one.system, "code": one.code} for one in fact.body_site if one.code],
        "interpretation": [one.code for one in fact.interpretation],
        "verification": fact.verification,
        "negated": fact.negated,
    }


def _by_patient(
    cohorts: Iterable[tuple[Cohort, Path]], report: FactsReport
) -> tuple[dict[str, list[_Place]], dict[str, RawResource]]:
    """Return where the resources of each patient are, and the Medications, which are nobody's and few."""
    held: dict[str, tuple[str, _Place]] = {}
    for cohort, folder in cohorts:
        for file in cohort.files:
            path = folder / file.name
            if file.of.kind == "output":
                held.update(_indexed(path, cohort.server, frozenset(file.arrived.bad_lines if file.arrived else ()), report))
        for file in cohort.files:
            if file.of.kind == "deleted":
                for reference in _deleted(folder / file.name, cohort.server):
                    held.pop(reference, None)
    by_patient: dict[str, list[_Place]] = defaultdict(list)
    medications: dict[str, RawResource] = {}
    for reference, (owner, place) in held.items():
        if owner:
            by_patient[owner].append(place)
        elif reference.startswith("Medication/"):
            medications[reference] = _read(place)
        else:
            report.left_out["resource of no patient"] += 1
    return by_patient, medications


def _indexed(path: Path, server: str, bad: frozenset[int], report: FactsReport) -> Iterator[tuple[str, tuple[str, _Place]]]:
    offset = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            place, offset = _Place(path, offset, len(line)), offset + len(line)
            if number in bad:
                report.left_out["line that is no such resource"] += 1
            elif line.strip():
                resource = RawResource(parse_json(line))
                yield resource.reference, (_owner(resource, server), place)


def _owner(resource: RawResource, server: str) -> str:
    if resource.resource_type == "Patient":
        return resource.reference
    named = resource.body.get("subject") or resource.body.get("patient")
    reference = named.get("reference") if isinstance(named, Mapping) else None
    owner = own_reference(reference, server) or ""
    return owner if owner.startswith("Patient/") else ""


def _deleted(path: Path, server: str) -> Iterator[str]:
    """References in the transaction Bundles that say what was deleted since.

    Raises
    ------
    VerificationFailed
        If a line cannot be read: what it deletes must not stay in a table.

    References
    ----------
    HL7 FHIR Bulk Data Access 2.0.0, "deleted".
    """
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield from _references_deleted(parse_json(line), server)
        except (ValueError, AttributeError, TypeError, KeyError, RequestInvalid) as error:
            raise VerificationFailed(
                found=f"line {number} of {path.name}, which does not say what was deleted",
                allowed="a transaction Bundle of DELETE requests with the URL Type/id",
                action="pull the cohort again, or have the server's export mended",
            ) from error


def _references_deleted(bundle: Any, server: str) -> list[str]:
    if bundle["resourceType"] != "Bundle":
        raise ValueError("no Bundle")
    requests = [entry["request"] for entry in bundle.get("entry") or ()]
    urls = [request["url"] for request in requests if request["method"] == "DELETE"]
    return ["/".join(split_reference(url.removeprefix(f"{server}/"))) for url in urls]


def _read(place: _Place) -> RawResource:
    with place.path.open("rb") as stream:
        stream.seek(place.offset)
        return RawResource(parse_json(stream.read(place.length)))
