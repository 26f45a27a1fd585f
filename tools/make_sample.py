"""Makes the sample study of `veraicon demo`: our own generator draws it from requested volumes, with no person behind it.

Run: python tools/make_sample.py
"""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from dicom_node.holding.files import to_part10
from dicom_node.writing import SeriesIdentity, write_series
from domain.clinical import ClinicalContext
from domain.generation import GeneratedVolume, GenerationRequest
from domain.identifiers import PatientIdentifier, SeriesUid, StudyUid, derive_fhir_id, derive_uid
from domain.series import ImagingSeries
from domain.volume import Volume
from multimodal.concepts import MEASUREMENT_SYSTEM
from veraicon.asking import asked_fact
from veraicon.model import SiteModel
from veraicon.publishing import SYNTHETIC_PATIENTS

_NAME = "veraicon-sample"
_SEED = 2026
_SHAPE = (36, 50, 35)
_IMAGED_AT = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
_DRAWN = {"hippocampus-anterior-volume": 1750.0, "hippocampus-posterior-volume": 1600.0}
_RECORDED = {"hippocampus-anterior-volume": 1500.0, "hippocampus-posterior-volume": 1450.0}
_SAMPLE = Path(__file__).resolve().parents[1] / "veraicon" / "sample"


def main() -> None:
    """Write the series and the Bundle."""
    identity = SeriesIdentity.for_request(
        _NAME, patient_system=SYNTHETIC_PATIENTS, issuer="", created_at=_IMAGED_AT, software_version="0.1.0"
    )
    shutil.rmtree(_SAMPLE, ignore_errors=True)
    (_SAMPLE / "series").mkdir(parents=True)
    for number, ds in enumerate(write_series(_draw(), identity, source=_no_source()), start=1):
        (_SAMPLE / "series" / f"{number:02d}.dcm").write_bytes(to_part10(ds))
    (_SAMPLE / "patient.json").write_text(json.dumps(_bundle(identity.patient.value), indent=1) + "\n", encoding="utf-8")


def _draw() -> GeneratedVolume:
    asked = tuple(asked_fact(kind, value) for kind, value in _DRAWN.items())
    nobody = ClinicalContext("", None, None, _IMAGED_AT, (), "")
    like = Volume(np.zeros(_SHAPE, np.float32), np.eye(4)[[2, 1, 0, 3]], "", "MR")
    model = SiteModel("hippocampus-t1", device="cpu", threads=2)
    request = GenerationRequest(
        request_id=_NAME,
        series_uid=SeriesUid(derive_uid(_NAME, "no-source")),
        series_digest="",
        model=model.card.name,
        seed=_SEED,
        guidance=1.0,
        sampler_steps=8,
        requested_at=_IMAGED_AT,
        requested_by=_NAME,
        asked=asked,
    )
    return model.generate(request, model.encode(nobody, asked, None), like=like, cancelled=lambda: False)


def _no_source() -> ImagingSeries:
    uid = derive_uid(_NAME, "no-source")
    return ImagingSeries(StudyUid(uid), SeriesUid(uid), PatientIdentifier(""), "MR", _IMAGED_AT, ())


def _bundle(patient_id: str) -> dict[str, Any]:
    patient = {
        "resourceType": "Patient",
        "identifier": [{"system": SYNTHETIC_PATIENTS, "value": patient_id}],
        "name": [{"family": "SYNTHETIC", "given": ["Sample"]}],
    }
    resources = [patient] + [_observation(kind, value) for kind, value in _RECORDED.items()]
    return {"resourceType": "Bundle", "type": "transaction", "entry": [_entry(resource) for resource in resources]}


def _observation(kind: str, value: float) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": MEASUREMENT_SYSTEM, "code": kind}]},
        "subject": {"reference": f"Patient/{derive_fhir_id(_NAME, 'Patient')}"},
        "effectiveDateTime": "2026-01-10",
        "valueQuantity": {"value": value, "unit": "mm3", "system": "http://unitsofmeasure.org", "code": "mm3"},
    }


def _entry(resource: dict[str, Any]) -> dict[str, Any]:
    kind = resource["resourceType"]
    name = kind if kind == "Patient" else resource["code"]["coding"][0]["code"]
    marked = {
        **resource,
        "id": derive_fhir_id(_NAME, name),
        "meta": {"security": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST"}]},
    }
    return {"resource": marked, "request": {"method": "PUT", "url": f"{kind}/{marked['id']}"}}


if __name__ == "__main__":
    main()
