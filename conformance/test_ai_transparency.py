"""Everything that we publish before the rules of HL7 AI Transparency, and those rules before publications that break them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from conformance.ai_transparency import broken_rules
from provenance.as_fhir import imaging_study, wado_endpoint
from provenance.signing import SigningKey
from tests.builders_objects import stated_objects, written_objects
from tests.builders_provenance import publish
from tests.peers.fhir_validators import validate

Json = dict[str, Any]
PUBLISHED = publish(SigningKey.generate())


def _with(kind: str, change: Callable[[Json], object], nth: int = 0) -> list[Json]:
    resources = copy.deepcopy(PUBLISHED.resources)
    change([one for one in resources if one["resourceType"] == kind][nth])
    return resources


WRONG = {
    "lacks the label": _with("Patient", lambda one: one["meta"]["security"].pop()),
    "lacks the tag": _with("ImagingStudy", lambda one: one["meta"].pop("tag")),
    "digits only": _with("Device", lambda one: one.update(id="12")),
    "Device.type": _with("Device", lambda one: one["type"]["coding"][0].update(code="software")),
    "0 Devices": [one for one in PUBLISHED.resources if one["resourceType"] != "Device"],
    "one format": _with("DocumentReference", lambda one: one.pop("category")),
    "about no Device": _with("DocumentReference", lambda one: one.update(subject={"reference": "Patient/x"})),
    "generation parameters": _with("DocumentReference", lambda one: one["type"]["coding"][0].update(code="x"), 2),
    "union over its series": _with("ImagingStudy", lambda one: one["modality"].append(one["modality"][0])),
    "other instances than it lists": _with("ImagingStudy", lambda one: one["series"][0]["instance"].pop()),
    "sum over its series": _with("ImagingStudy", lambda one: one.update(numberOfInstances=1)),
    "as urn:oid": _with("ImagingStudy", lambda one: one["identifier"][0].update(value="1.2.3")),
    "type ACSN": _with("ImagingStudy", lambda one: one["identifier"].append({"value": "A1"})),
    "not AIAST": _with("Provenance", lambda one: one.pop("reason")),
    "not CREATE": _with("Provenance", lambda one: one["activity"]["coding"][0].update(code="UPDATE")),
    "names no ImagingStudy": _with("Provenance", lambda one: one["target"].pop(0)),
    "one type author": _with("Provenance", lambda one: one["agent"][0]["type"]["coding"].append({"code": "performer"})),
    "role Artificial-Intelligence": _with("Provenance", lambda one: one["agent"][0].pop("role")),
    "2 agents are Devices": _with("Provenance", lambda one: one["agent"].append(one["agent"][0])),
    "both entities with role derivation": _with("Provenance", lambda one: one["entity"].pop()),
    "leads to a resource": _with("Provenance", lambda one: one["entity"][0]["what"].update(reference="ImagingStudy/real")),
    "targetFormat": _with("Provenance", lambda one: one["signature"][0].update(targetFormat="application/json")),
    "sigFormat": _with("Provenance", lambda one: one["signature"][0].update(sigFormat="image/png")),
    "not signed": _with("Provenance", lambda one: one.pop("signature")),
    "outside the publication": _with("ImagingStudy", lambda one: one.update(basedOn=[{"reference": "ServiceRequest/real"}])),
}


@pytest.mark.requirement("FHIR-PUB-003")
def test_what_we_publish_keeps_the_rules() -> None:
    assert broken_rules(PUBLISHED.resources) == []


@pytest.mark.requirement("FHIR-PUB-003")
@pytest.mark.parametrize(("sentence", "resources"), WRONG.items(), ids=WRONG)
def test_the_rules_find_what_breaks_them(sentence: str, resources: list[Json]) -> None:
    assert any(sentence in found for found in broken_rules(resources)), broken_rules(resources)


@pytest.mark.requirement("FHIR-PUB-004")
@pytest.mark.peer("fhir-validators")
def test_an_endpoint_is_valid_r4_and_the_study_refers_to_it() -> None:
    stated = stated_objects(written_objects())
    endpoint = wado_endpoint(stated, "https://pacs.example/dicom-web")
    assert [error for error in validate(endpoint) if "Code 'AIAST'" not in error] == []
    assert imaging_study(stated, [endpoint])["endpoint"] == [{"reference": f"Endpoint/{endpoint['id']}"}]
    assert "endpoint" not in imaging_study(stated)
