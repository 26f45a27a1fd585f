"""Writes the tables of docs/clinical_context.md: what of the Synthea patients and US Core examples becomes facts, what not.

Run: python tools/make_clinical_table.py FOLDER, the folder that holds synthea-r4 and us-core-examples
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from domain.clinical import ClinicalContext
from fhir_adapter.clinical.context import clinical_context
from fhir_adapter.clinical.statements import READERS
from fhir_adapter.json_text import parse_json
from fhir_adapter.store import RawResource

PAGE = Path(__file__).resolve().parents[1] / "docs" / "clinical_context.md"
BEGIN, END = "<!-- counts: made by tools/make_clinical_table.py -->", "<!-- end of counts -->"
_AFTER = datetime(2030, 1, 1, tzinfo=UTC)
_SALT = b"only counts are made of this, never a digest"
_SOMEBODY = {"resourceType": "Patient", "id": "somebody"}


def main() -> None:
    """Replace what stands between the two marker lines."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: make_clinical_table.py FOLDER")
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{tables(Path(sys.argv[1]))}{END}{after}", encoding="utf-8")


def tables(folder: Path) -> str:
    """Return the Markdown of all tables."""
    return "\n".join([*_synthea(folder / "synthea-r4"), "", *_us_core(folder / "us-core-examples"), ""])


def _synthea(folder: Path) -> Iterator[str]:
    yield "Synthea, as of 2030-01-01, one row for each patient:\n"
    yield "| Patient | Resources of types that state facts | Facts | Left out |"
    yield "|---|--:|--:|---|"
    total: Counter[str] = Counter()
    facts = resources = 0
    for number, bundle in enumerate(_bundles(folder), start=1):
        patient, rest = _of_one(bundle)
        context = _context(patient, rest)
        reasons = _reasons(context)
        total.update(reasons)
        facts, resources = facts + len(context.facts), resources + len(rest)
        yield f"| {number} | {len(rest)} | {len(context.facts)} | {_words(reasons)} |"
    yield f"| all | {resources} | {facts} | {_words(total)} |"


def _us_core(folder: Path) -> Iterator[str]:
    yield "US Core examples, each read alone as of 2030-01-01, one row for each type:\n"
    yield "| Type | Resources | Facts | Left out |"
    yield "|---|--:|--:|---|"
    resources: Counter[str] = Counter()
    facts: Counter[str] = Counter()
    left_out: dict[str, Counter[str]] = {}
    for path in sorted(folder.glob("*.json")):
        body = _of_somebody(parse_json(path.read_bytes()))
        kind = str(body["resourceType"])
        context = _context(_SOMEBODY, [body])
        resources[kind] += 1
        facts[kind] += len(context.facts)
        left_out.setdefault(kind, Counter()).update(_reasons(context))
    for kind in sorted(resources):
        yield f"| {kind} | {resources[kind]} | {facts[kind]} | {_words(left_out[kind])} |"
    everything = sum(left_out.values(), Counter[str]())
    yield f"| all | {resources.total()} | {facts.total()} | {everything.total()} parts |"


def _bundles(folder: Path) -> Iterator[list[dict[str, Any]]]:
    for path in sorted(folder.glob("*.json")):
        resources = [entry["resource"] for entry in parse_json(path.read_bytes())["entry"]]
        if any(resource["resourceType"] == "Patient" for resource in resources):
            yield resources


def _of_one(resources: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    everything = list(resources)
    patient = next(resource for resource in everything if resource["resourceType"] == "Patient")
    return patient, [_of(resource, patient) for resource in everything if resource["resourceType"] in READERS]


def _of_somebody(body: dict[str, Any]) -> dict[str, Any]:
    return _of(body, _SOMEBODY)


def _of(body: dict[str, Any], patient: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resource whose subject is the patient under its reference on a server; Bundles name it by urn:uuid."""
    subject = {"reference": f"Patient/{patient['id']}"}
    return {name: subject if name in ("subject", "patient") else value for name, value in body.items()}


def _context(patient: Mapping[str, Any], resources: Iterable[Mapping[str, Any]]) -> ClinicalContext:
    raw = [RawResource(resource) for resource in resources]
    return clinical_context(RawResource(patient), raw, as_of=_AFTER, salt=_SALT, consent="not checked")


def _reasons(context: ClinicalContext) -> Counter[str]:
    return Counter({entry.reason: entry.count for entry in context.left_out})


def _words(reasons: Mapping[str, int]) -> str:
    return "; ".join(f"{reason} ({count})" for reason, count in sorted(reasons.items())) or "nothing"


if __name__ == "__main__":
    main()
