from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from domain.errors import AttestationError
from provenance.as_dicom import embed, extract
from provenance.attest import attest
from provenance.report import Truth, VerificationReport
from provenance.signing import SigningKey
from provenance.statement import provenance_reference, sign_statement, to_claims
from provenance.verification import verify_instance, verify_provenance, verify_series, verify_sidecar
from tests.builders_provenance import NOW, REAL_PATIENT_ID, REAL_VALUE, MemoryLog, Published, publish, through_file
from tests.builders_quality import make_card

KEY, OTHER_KEY = SigningKey.generate(), SigningKey.generate()
KEYS = KEY.public_jwks()


@pytest.fixture
def published() -> Published:
    return publish(KEY)


def _false(report: VerificationReport) -> set[str]:
    return {claim.name for claim in report.false}


def test_what_was_published_verifies_in_every_form(published: Published) -> None:
    series = verify_series(published.datasets, KEYS, published.provenance, published.sidecar)
    assert series.verdict
    unsaid = {claim.name for claim in series.claims if claim.truth is not Truth.TRUE}
    assert unsaid == {"resources", "model-card", "prov-json", "not-recalled"}
    assert verify_provenance(published.provenance, KEYS, published.sidecar, published.attested).verdict
    assert verify_sidecar(published.sidecar, KEYS, published.attested).verdict


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_an_instance_verifies_alone_however_a_pacs_stored_it(published: Published, syntax: str) -> None:
    report = verify_instance(through_file(published.datasets[0], syntax), KEYS)
    assert report.verdict, report.to_json()
    assert report["series-complete"].truth is Truth.NOT_CHECKABLE
    assert report["provenance-signed"].truth is Truth.NOT_CHECKABLE


def _pixel(ds: Dataset, _published: Published) -> None:
    ds.PixelData = ds.PixelData[:-2] + bytes([ds.PixelData[-2] ^ 1, ds.PixelData[-1]])


def _set(keyword: str, value: object) -> Callable[[Dataset, Published], None]:
    return lambda ds, _published: setattr(ds, keyword, value)


def _add_sequence_item(ds: Dataset, _published: Published) -> None:
    ds.SourceImageSequence.append(copy.deepcopy(ds.SourceImageSequence[0]))


def _embed_beside_own_proof(ds: Dataset, jws: str, request_id: str) -> None:
    found = extract(ds)
    assert found is not None
    embed(ds, jws, provenance_reference(request_id), found.proof)


def _statement_of_another_request(ds: Dataset, _published: Published) -> None:
    other = publish(KEY, "request-2")
    _embed_beside_own_proof(ds, sign_statement(other.statement, KEY), "request-2")


def _signed_again_by_another_key(ds: Dataset, published: Published) -> None:
    _embed_beside_own_proof(ds, sign_statement(published.statement, OTHER_KEY), "request-1")


def _unsigned_algorithm(ds: Dataset, published: Published) -> None:
    """alg none under our key id: the oldest trick."""
    import base64

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    header = {"alg": "none", "kid": KEY.kid, "typ": "veraicon-statement+json"}
    _embed_beside_own_proof(ds, f"{part(header)}.{part(to_claims(published.statement))}.", "request-1")


def _truncated(ds: Dataset, published: Published) -> None:
    found = extract(ds)
    assert found is not None
    block = ds.private_block(0x7FDF, "VERAICON PROVENANCE")
    block[0x02].value = found.jws[:-9]


def _without_block(ds: Dataset, _published: Published) -> None:
    ds.remove_private_tags()


@pytest.mark.requirement("PROV-VERIFY-002")
@pytest.mark.parametrize(
    ("tamper", "claims"),
    [
        (_pixel, {"pixel-data"}),
        (_set("SeriesDescription", "T1 of a patient"), {"attributes"}),
        (_set("PatientID", "MRN-1"), {"attributes"}),
        (_set("SyntheticData", "NO"), {"attributes", "marks"}),
        (_set("ContentQualification", "PRODUCT"), {"attributes", "marks"}),
        (_set("ImageType", ["ORIGINAL", "PRIMARY", "M"]), {"attributes", "marks"}),
        (_set("PixelSpacing", [2.0, 2.0]), {"attributes"}),
        (_add_sequence_item, {"attributes"}),
        (_set("SOPInstanceUID", "1.2.3.4"), {"statement-names-instance", "attributes"}),
        (_set("SeriesInstanceUID", "1.2.3.4"), {"statement-names-instance", "attributes"}),
        (_statement_of_another_request, {"in-series"}),
        (_signed_again_by_another_key, {"statement-signed"}),
        (_unsigned_algorithm, {"statement-signed"}),
        (_truncated, {"statement-signed"}),
        (_without_block, {"statement-present"}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_each_tampering_of_an_instance_is_told_by_its_own_claims(
    published: Published, tamper: Callable[[Dataset, Published], None], claims: set[str]
) -> None:
    ds = published.datasets[0]
    tamper(ds, published)
    report = verify_instance(ds, KEYS)
    assert not report.verdict
    assert _false(report) == claims, report.to_json()


@pytest.mark.requirement("PROV-STATE-001")
def test_missing_doubled_and_foreign_instances_are_told(published: Published) -> None:
    first, *rest = published.datasets
    foreign = publish(KEY, "request-2").datasets[0]
    assert _false(verify_series(rest, KEYS)) == {"series-complete"}
    assert _false(verify_series([first, first, *rest], KEYS)) == {"series-complete"}
    assert "series-complete" in _false(verify_series([first, *rest, foreign], KEYS))


@pytest.mark.requirement("PROV-VERIFY-002")
@pytest.mark.parametrize(
    "edit",
    [
        lambda resource: resource.update(recorded="2020-01-01T00:00:00+00:00"),
        lambda resource: resource["target"].pop(),
        lambda resource: resource["agent"].append(resource["agent"][0]),
        lambda resource: resource["entity"].pop(),
        lambda resource: resource["meta"]["security"].pop(),
        lambda resource: resource["signature"][0].update(data="bm90aGluZw=="),
        lambda resource: resource.pop("signature"),
        lambda resource: resource.update(id="00000000-0000-0000-0000-00000000000a"),
    ],
)
def test_each_edit_of_the_provenance_is_told(published: Published, edit: Callable[[dict[str, Any]], object]) -> None:
    edited = copy.deepcopy(published.provenance)
    edit(edited)
    assert not verify_provenance(edited, KEYS).verdict
    assert "provenance-signed" in _false(verify_instance(published.datasets[0], KEYS, edited))


@pytest.mark.requirement("PROV-VERIFY-005")
def test_what_a_fhir_server_adds_by_itself_changes_nothing(published: Published) -> None:
    stored = copy.deepcopy(published.provenance)
    stored["meta"].update(versionId="7", lastUpdated="2026-03-04T05:06:08Z", source="#abc")
    stored["text"] = {"status": "generated", "div": "<div>x</div>"}
    assert verify_provenance(stored, KEYS).verdict


def test_the_provenance_of_another_series_is_told(published: Published) -> None:
    other = publish(KEY, "request-2")
    report = verify_instance(published.datasets[0], KEYS, other.provenance, other.sidecar)
    assert _false(report) == {"provenance-about-series", "attestation-about-series"}, report.to_json()


def test_a_changed_companion_resource_is_told(published: Published) -> None:
    resources = copy.deepcopy(published.attested)
    resources[0]["status" if "status" in resources[0] else "active"] = "entered-in-error"
    assert "resources" in _false(verify_sidecar(published.sidecar, KEYS, resources))


@pytest.mark.parametrize(
    "content", [{}, [], {"version": "veraicon-sidecar/2"}, {"jws": 7}, {"version": "veraicon-sidecar/2", "jws": "a.b"}]
)
def test_no_broken_object_raises(content: Any) -> None:
    assert not verify_sidecar(content, KEYS).verdict
    assert not verify_instance(Dataset(), KEYS, content, content).verdict
    assert not verify_instance(content, KEYS).verdict
    assert not verify_provenance(content if isinstance(content, dict) else {}, KEYS).verdict


@pytest.mark.requirement("FHIR-RES-003")
def test_every_resource_is_valid_r4_and_names_no_real_patient_and_no_value(published: Published) -> None:
    for resource in published.resources:
        get_fhir_model_class(resource["resourceType"]).model_validate(resource)
        assert {"AIAST", "HTEST"} <= {label["code"] for label in resource["meta"]["security"]}, resource["resourceType"]
    everything = json.dumps([published.resources, to_claims(published.statement)])
    assert REAL_PATIENT_ID not in everything
    assert str(REAL_VALUE) not in everything


@pytest.mark.requirement("FHIR-RES-003")
def test_references_of_the_resources_hold_among_themselves(published: Published) -> None:
    """HAPI enforces referential integrity on write."""
    known = {f"{one['resourceType']}/{one['id']}" for one in published.resources}

    def references(value: object) -> set[str]:
        if isinstance(value, dict):
            own = {value["reference"]} if isinstance(value.get("reference"), str) else set()
            return own.union(*(references(child) for child in value.values()))
        return set().union(*(references(child) for child in value)) if isinstance(value, list) else set()

    assert references(published.resources) <= known


def test_attesting_again_gives_the_same_bytes_and_a_partial_publication_is_refused(published: Published) -> None:
    again = publish(KEY)
    assert again.resources == published.resources
    assert again.attestation == published.attestation
    receipts = published.publication.receipts
    short = type(published.publication)(
        "request-1", published.publication.series, (type(receipts[0])("pacs", "C-STORE", 1, NOW),)
    )
    with pytest.raises(AttestationError):
        attest(published.statement, short, make_card(), KEY, now=NOW, organization="x", enter=MemoryLog(KEY).enter)


@pytest.mark.requirement("PROV-VERIFY-004")
def test_verification_needs_no_torch() -> None:
    code = "import sys, provenance.verification; print(sorted({'torch', 'monai', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.requirement("PROV-DIGEST-001")
def test_a_lossless_copy_may_say_where_its_frames_begin_and_nothing_else(published: Published) -> None:
    ds = through_file(published.datasets[0])
    ds.compress(RLELossless, encapsulate_ext=True, generate_instance_uid=False)
    copied = through_file(ds, RLELossless)
    assert "ExtendedOffsetTable" in copied
    assert verify_instance(copied, KEYS)["attributes"].truth is Truth.TRUE
    for table in (b"Hidden^N", bytes(16)):
        copied.ExtendedOffsetTable = table
        assert verify_instance(copied, KEYS)["attributes"].truth is Truth.FALSE
