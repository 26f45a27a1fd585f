"""Input of the main job: a Synthea patient that is given a series' patient identifier and hippocampal volumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MEASUREMENT = "https://veraicon.dev/fhir/CodeSystem/measurement"
HOSPITAL = "http://hospital.example/mrn"


def patient_bundle(
    synthea: Path, patient_id: str, volumes_mm3: dict[str, float], *, measured: str = "2020-01-18"
) -> dict[str, Any]:
    """Return a Synthea transaction Bundle whose patient also carries `patient_id` and the given volumes."""
    bundle: dict[str, Any] = json.loads(synthea.read_text(encoding="utf-8"))
    patient = next(entry for entry in bundle["entry"] if entry["resource"]["resourceType"] == "Patient")
    patient["resource"]["identifier"].append({"system": HOSPITAL, "value": patient_id})
    for kind, value in volumes_mm3.items():
        bundle["entry"].append(_observation(kind, value, patient["fullUrl"], measured))
    return bundle


def small_bundle(patient_id: str, volumes_mm3: dict[str, float], *, measured: str = "2020-01-18") -> dict[str, Any]:
    """Return a small Bundle of one patient with the given identifier and volumes."""
    url = "urn:uuid:6ba7b810-9dad-41d1-80b4-00c04fd430c8"
    patient = {
        "resourceType": "Patient",
        "identifier": [{"system": HOSPITAL, "value": patient_id}],
        "name": [{"family": "Canary"}],
    }
    entries = [{"fullUrl": url, "resource": patient, "request": {"method": "POST", "url": "Patient"}}]
    entries += [_observation(kind, value, url, measured) for kind, value in volumes_mm3.items()]
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def _observation(kind: str, value: float, subject: str, measured: str) -> dict[str, Any]:
    return {
        "resource": {
            "resourceType": "Observation",
            "status": "final",
            "code": {"coding": [{"system": MEASUREMENT, "code": kind}], "text": kind},
            "subject": {"reference": subject},
            "effectiveDateTime": measured,
            "valueQuantity": {"value": value, "unit": "mm3", "system": "http://unitsofmeasure.org", "code": "mm3"},
        },
        "request": {"method": "POST", "url": "Observation"},
    }
