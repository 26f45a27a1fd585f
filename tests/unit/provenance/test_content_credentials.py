"""C2PA manifests in PNG previews, read back by the reader of c2pa-python."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from domain.errors import ConfigurationError, RequestInvalid
from domain.marking import Depicted
from provenance.signatures.certificates import make_certificates
from provenance.signatures.content_credentials import ORIGIN_LABEL, ContentCredentials, Origin
from tests.builders_marks import site_certificates

c2pa = pytest.importorskip("c2pa", reason="c2pa-python not here (extra c2pa)")

ORIGIN = Origin("request-1", "Provenance/abc", "sha256:" + "ab" * 32)


@pytest.fixture(scope="module")
def signed() -> bytes:
    files, plain = site_certificates(), BytesIO()
    Image.fromarray(np.arange(900, dtype=np.uint8).reshape(30, 30)).save(plain, "PNG")
    return ContentCredentials.load(files.c2pa_certificate, files.c2pa_key).sign_png(plain.getvalue(), ORIGIN)


def read(picture: bytes, anchors: str = "") -> tuple[str, dict[str, Any]]:
    settings = {"verify": {"verify_trust": True}, "trust": {"trust_anchors": anchors}} if anchors else {}
    with c2pa.Context.from_dict(settings) as context, c2pa.Reader("image/png", BytesIO(picture), context=context) as reader:
        store = json.loads(reader.json())
        return str(store["validation_state"]), store["manifests"][store["active_manifest"]]


@pytest.mark.requirement("PROV-MARK-005")
def test_a_manifest_says_that_a_model_made_the_picture_and_of_which_request_it_is(signed: bytes) -> None:
    state, manifest = read(signed)
    content = {one["label"]: one["data"] for one in manifest["assertions"]}
    (created,) = content["c2pa.actions.v2"]["actions"]
    assert state == "Valid"
    assert created["action"] == "c2pa.created"
    assert created["digitalSourceType"].endswith("/digitalsourcetype/trainedAlgorithmicMedia")
    assert content[ORIGIN_LABEL]["requestId"] == ORIGIN.request_id
    assert content[ORIGIN_LABEL]["provenance"] == ORIGIN.provenance
    assert content[ORIGIN_LABEL]["statementDigest"] == ORIGIN.statement_digest


@pytest.mark.requirement("PROV-MARK-005")
def test_a_picture_with_the_source_in_it_is_signed_as_a_composite_and_not_as_synthetic_alone() -> None:
    files, plain = site_certificates(), BytesIO()
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(plain, "PNG")
    credentials = ContentCredentials.load(files.c2pa_certificate, files.c2pa_key)
    state, manifest = read(credentials.sign_png(plain.getvalue(), ORIGIN, Depicted.BESIDE_SOURCE))
    (created,) = manifest["assertions"][0]["data"]["actions"]
    assert state == "Valid"
    assert created["digitalSourceType"].endswith("/digitalsourcetype/compositeWithTrainedAlgorithmicMedia")
    assert "patient" in manifest["title"]


@pytest.mark.requirement("PROV-MARK-005")
def test_the_signer_is_trusted_by_whoever_has_the_sites_authority_and_by_nobody_else(signed: bytes) -> None:
    ours = site_certificates().authority.read_text()
    assert read(signed, anchors=ours)[0] == "Trusted"
    store = read(signed)[0]
    assert store == "Valid", "valid, and its signer unknown"


@pytest.mark.requirement("PROV-MARK-005")
def test_a_changed_picture_and_a_changed_manifest_are_invalid(signed: bytes) -> None:
    place = signed.rindex(b"IDAT") + 12
    changed_pixels = signed[:place] + bytes([signed[place] ^ 1]) + signed[place + 1 :]
    changed_claim = signed.replace(b"request-1", b"request-2")
    assert changed_claim != signed
    assert read(changed_pixels)[0] == "Invalid"
    assert read(changed_claim)[0] == "Invalid"


@pytest.mark.requirement("PROV-MARK-005")
@pytest.mark.parametrize("wrong", ["open key", "another key", "run out", "RSA", "no certificate"])
def test_credentials_that_cannot_sign_are_refused_before_anything_is_made(wrong: str, tmp_path: Path) -> None:
    files, now = site_certificates(), datetime.now(UTC)
    certificate, key = files.c2pa_certificate, files.c2pa_key
    if wrong == "open key":
        key = tmp_path / "key.pem"
        key.write_bytes(files.c2pa_key.read_bytes())
        os.chmod(key, 0o644)
    elif wrong == "another key":
        certificate = files.dicom_certificate
    elif wrong == "run out":
        now += timedelta(days=3650)
    elif wrong == "RSA":
        certificate, key = files.dicom_certificate, files.dicom_key
    else:
        certificate = files.c2pa_key
    with pytest.raises(ConfigurationError) as refused:
        ContentCredentials.load(certificate, key, now=now)
    assert "BEGIN" not in str(refused.value)


def test_certificates_are_never_replaced_and_keys_are_their_owners_alone(tmp_path: Path) -> None:
    files = site_certificates()
    assert {path.stat().st_mode & 0o777 for path in (files.dicom_key, files.c2pa_key)} == {0o600}
    with pytest.raises(RequestInvalid, match=r"authority\.pem"):
        make_certificates("Test hospital", files.authority.parent, now=datetime.now(UTC))


@pytest.mark.parametrize("name", ["", "  ", "x" * 65])
def test_an_organization_that_no_certificate_can_name_is_refused_before_anything_is_made(name: str, tmp_path: Path) -> None:
    with pytest.raises(RequestInvalid, match="organization"):
        make_certificates(name, tmp_path, now=datetime.now(UTC))
    assert list(tmp_path.iterdir()) == []
