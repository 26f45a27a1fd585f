"""Small FHIR R4 resources and stores for tests of the adapter, and of what stands on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlmodel import create_engine

from domain.identifiers import PatientIdentifier, SeriesUid, StudyUid
from domain.series import ImagingSeries
from fhir_adapter.json_text import parse_json
from fhir_adapter.local.tables import create_tables
from fhir_adapter.store import RawResource

SALT = b"a site's secret of 32 bytes, here"
SCAN = datetime(2020, 3, 15, 9, 30, tzinfo=UTC)
LOINC, SNOMED, UCUM = "http://loinc.org", "http://snomed.info/sct", "http://unitsofmeasure.org"
MRN = "http://hospital.example/mrn"
EPOCH_TEXT = "2020-03-01T08:00:00Z"


def patient(identity: str = "p1", *, mrn: str = "MRN-1", **more: Any) -> dict[str, Any]:
    """Return a Patient with one identifier."""
    return {
        "resourceType": "Patient",
        "id": identity,
        "identifier": [{"system": MRN, "value": mrn}],
        "birthDate": "1950-02-03",
        "gender": "female",
        **more,
    }


def concept(code: str, display: str, system: str = LOINC) -> dict[str, Any]:
    """Return a CodeableConcept with one coding."""
    return {"coding": [{"system": system, "code": code, "display": display}]}


def observation(identity: str = "o1", *, of: str = "p1", **more: Any) -> dict[str, Any]:
    """Return a BMI of 27.50 kg/m2, observed and issued on 2020-03-01."""
    body = {
        "resourceType": "Observation",
        "id": identity,
        "status": "final",
        "code": concept("39156-5", "Body mass index"),
        "subject": {"reference": f"Patient/{of}"},
        "effectiveDateTime": EPOCH_TEXT,
        "issued": EPOCH_TEXT,
        "valueQuantity": parse_json(
            '{"value": 27.50, "unit": "kg/m2", "system": "http://unitsofmeasure.org", "code": "kg/m2"}'
        ),
    }
    return without_none({**body, **more})


def condition(identity: str = "c1", *, of: str = "p1", **more: Any) -> dict[str, Any]:
    """Return an active, confirmed Condition with onset and record on 2020-03-01."""
    base = "http://terminology.hl7.org/CodeSystem"
    body = {
        "resourceType": "Condition",
        "id": identity,
        "clinicalStatus": concept("active", "Active", f"{base}/condition-clinical"),
        "verificationStatus": concept("confirmed", "Confirmed", f"{base}/condition-ver-status"),
        "code": concept("230690007", "Stroke", SNOMED),
        "subject": {"reference": f"Patient/{of}"},
        "onsetDateTime": EPOCH_TEXT,
        "recordedDate": EPOCH_TEXT,
    }
    return without_none({**body, **more})


def research_consent(identity: str = "k1", *, of: str = "p1", status: str = "active", **more: Any) -> dict[str, Any]:
    """Return a Consent to research."""
    body = {
        "resourceType": "Consent",
        "id": identity,
        "status": status,
        "scope": concept("research", "Research", "http://terminology.hl7.org/CodeSystem/consentscope"),
        "category": [concept("59284-0", "Consent")],
        "patient": {"reference": f"Patient/{of}"},
        "policyRule": {"text": "site policy"},
    }
    return without_none({**body, **more})


def without_none(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resource without elements that were set to None: a test takes an element out that way."""
    return {name: value for name, value in body.items() if value is not None}


def raw(*resources: Mapping[str, Any]) -> list[RawResource]:
    """Return resources as a store gives them."""
    return [RawResource(resource) for resource in resources]


def series_of(value: str, system: str = MRN) -> ImagingSeries:
    """Return a series of one patient, of a study that no ImagingStudy names."""
    return ImagingSeries(StudyUid("1.2.3"), SeriesUid("1.2.3.4"), PatientIdentifier(value, system), "MR", SCAN, ())


def transaction(*resources: Mapping[str, Any], method: str = "PUT") -> dict[str, Any]:
    """Return a transaction that writes the resources; with POST, each under a urn:uuid made of its id."""
    entries = []
    for resource in resources:
        kind, identity = resource["resourceType"], resource["id"]
        url = f"{kind}/{identity}" if method == "PUT" else kind
        entry = {"resource": resource, "request": {"method": method, "url": url}}
        entries.append({"fullUrl": f"urn:uuid:{identity}", **entry} if method == "POST" else entry)
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


@contextmanager
def embedded_engine(folder: Path) -> Iterator[Engine]:
    """Give a database with the store's tables, and close it."""
    engine = create_engine(f"sqlite:///{folder / 'fhir.db'}")
    try:
        create_tables(engine)
        yield engine
    finally:
        engine.dispose()


def synthea_bundles(folder: Path) -> list[dict[str, Any]]:
    """Return the Bundles of a folder that hold a Patient, in the order of their names."""
    bundles = [parse_json(path.read_bytes()) for path in sorted(folder.glob("*.json"))]
    return [b for b in bundles if any(e["resource"]["resourceType"] == "Patient" for e in b["entry"])]
