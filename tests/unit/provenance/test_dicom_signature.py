"""DICOM Digital Signatures as `veraicon verify` judges them; DCMTK judges them in `conformance/test_marks.py`."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, JPEGLSLossless

from dicom_node.holding.files import to_part10
from domain.errors import AttestationError, ConfigurationError
from provenance.signatures.dicom_signature import DicomSigner, sign_dataset
from provenance.signing import SigningKey
from provenance.verification import verify_instance
from tests.builders_marks import MADE, published, site_certificates, site_signer, written

KEY = SigningKey.generate()
KEYS = KEY.public_jwks()


def instance(signer: DicomSigner | None, number: int = 2) -> Dataset:
    """Return one published image as it is read again."""
    return dcmread(BytesIO(to_part10(published(KEY, written(), signer=signer)[number])))


def said(ds: Dataset) -> tuple[str, bool]:
    """Return what is said of the Digital Signature, and the verdict."""
    report = verify_instance(ds, KEYS)
    return report["dicom-signature"].truth.value, report.verdict


@pytest.mark.requirement("PROV-DSIG-001")
def test_a_signed_instance_verifies_and_so_does_one_of_a_site_that_signs_none() -> None:
    assert said(instance(site_signer())) == ("true", True)
    assert said(instance(None)) == ("true", True)


@pytest.mark.requirement("PROV-DSIG-001")
def test_a_signature_that_no_statement_promises_is_false() -> None:
    stranger, ours = instance(None), instance(site_signer())
    stranger.MACParametersSequence = ours.MACParametersSequence
    stranger.DigitalSignaturesSequence = ours.DigitalSignaturesSequence
    assert said(stranger) == ("false", False)
    ours.MACParametersSequence.append(Dataset())
    assert said(ours) == ("false", False)


def _pixel(ds: Dataset) -> None:
    ds.PixelData = bytes([ds.PixelData[0] ^ 1]) + ds.PixelData[1:]


def _tag(ds: Dataset) -> None:
    ds.SeriesDescription = "MR"


def _added(ds: Dataset) -> None:
    ds.ImageComments = "added"


def _removed(ds: Dataset) -> None:
    del ds.SeriesDescription


def _in_item(ds: Dataset) -> None:
    ds.ContributingEquipmentSequence[0].ManufacturerModelName = "other"


def _time(ds: Dataset) -> None:
    ds.DigitalSignaturesSequence[0].DigitalSignatureDateTime = "20300101000000.000000+0000"


def _gone(ds: Dataset) -> None:
    del ds.DigitalSignaturesSequence
    del ds.MACParametersSequence


def _hidden(ds: Dataset) -> None:
    ds.DigitalSignaturesSequence[0].PatientName = "Hidden^Name"


def _weak(ds: Dataset) -> None:
    ds.MACParametersSequence[0].MACAlgorithm = "MD5"


def _block(ds: Dataset) -> None:
    ds[0x7FDF1003].value = "Provenance/other"


@pytest.mark.requirement("PROV-DSIG-001")
@pytest.mark.parametrize("change", [_pixel, _tag, _added, _removed, _in_item, _time, _gone, _hidden, _weak])
def test_a_signature_that_was_broken_taken_away_or_filled_is_false(change: Callable[[Dataset], None]) -> None:
    ds = instance(site_signer())
    change(ds)
    assert said(ds) == ("false", False)


def _of_parameters(keyword: str, value: object = None) -> Callable[[Dataset], None]:
    return lambda ds: _set(ds.MACParametersSequence[0], keyword, value)


def _of_signature(keyword: str, value: object = None) -> Callable[[Dataset], None]:
    return lambda ds: _set(ds.DigitalSignaturesSequence[0], keyword, value)


def _of_instance(keyword: str, value: object = None) -> Callable[[Dataset], None]:
    return lambda ds: _set(ds, keyword, value)


def _set(ds: Dataset, keyword: str, value: object) -> None:
    if value is None:
        delattr(ds, keyword)
    else:
        setattr(ds, keyword, value)


_BROKEN = {
    "MAC parameters without items": (_of_instance("MACParametersSequence", []), "lost its MAC parameters"),
    "signatures without items": (_of_instance("DigitalSignaturesSequence", []), "is empty"),
    "no MAC parameters": (_of_instance("MACParametersSequence"), "(4FFE,0001) is gone"),
    "no signatures": (_of_instance("DigitalSignaturesSequence"), "(FFFA,FFFA) is gone"),
    "MAC ID gone from the parameters": (_of_parameters("MACIDNumber"), "lost its MAC parameters"),
    "MAC ID gone from the signature": (_of_signature("MACIDNumber"), "lost its MAC parameters"),
    "another MAC algorithm": (_of_parameters("MACAlgorithm", "RIPEMD160"), "MAC algorithm 'RIPEMD160'"),
    "no MAC algorithm": (_of_parameters("MACAlgorithm"), "without a MAC algorithm"),
    "no list of what is signed": (_of_parameters("DataElementsSigned"), "which attributes it covers"),
    "one attribute signed": (_of_parameters("DataElementsSigned", [0x00080016]), "not over this instance"),
    "an empty list of what is signed": (_of_parameters("DataElementsSigned", []), "which attributes it covers"),
    "no certificate": (_of_signature("CertificateOfSigner"), "without the certificate"),
    "no DER": (_of_signature("CertificateOfSigner", b"no certificate.."), "no X.509 certificate in DER"),
    "no signature": (_of_signature("Signature"), "(0400,0120) is missing"),
    "a short signature": (_of_signature("Signature", b"ab"), "does not fit"),
    "another time": (_time, "does not fit"),
    "something added": (_added, "1 attributes were added"),
    "something hidden": (_hidden, "holds more than it may"),
}


@pytest.mark.requirement("PROV-DSIG-001")
@pytest.mark.parametrize("what", _BROKEN)
def test_what_is_wrong_with_a_signature_is_named(what: str) -> None:
    change, reason = _BROKEN[what]
    for read_again in (False, True):
        ds = instance(site_signer())
        change(ds)
        answer = verify_instance(dcmread(BytesIO(to_part10(ds))) if read_again else ds, KEYS)["dicom-signature"]
        assert (answer.truth.value, reason in answer.why) == ("false", True), answer.why


@pytest.mark.requirement("PROV-DSIG-001")
def test_a_changed_block_leaves_no_statement_that_could_promise_a_signature() -> None:
    ds = instance(site_signer())
    _block(ds)
    assert said(ds) == ("not checkable", False)


@pytest.mark.requirement("PROV-DSIG-001")
def test_a_signature_of_another_certificate_does_not_stand_for_the_sites_own() -> None:
    ds = instance(site_signer())
    files = site_certificates()
    other = DicomSigner(site_signer().certificate, site_signer().key)
    stranger = _self_signed(files.dicom_key)
    sign_dataset(ds, DicomSigner(stranger, other.key), signature_uid="2.25.1", at=datetime.now(UTC))
    assert said(ds) == ("false", False)


@pytest.mark.requirement("PROV-DSIG-001")
def test_honest_encodings_do_not_make_an_instance_false() -> None:
    implicit, compressed = instance(site_signer()), instance(site_signer())
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    buffer = BytesIO()
    implicit.save_as(buffer, implicit_vr=True, little_endian=True)
    buffer.seek(0)
    assert said(dcmread(buffer)) == ("true", True)
    compressed.compress(JPEGLSLossless, generate_instance_uid=False)
    assert said(compressed) == ("not checkable", True)


@pytest.mark.requirement("PROV-DSIG-001")
def test_signing_again_gives_the_same_bytes_and_nothing_is_signed_with_a_certificate_that_has_run_out() -> None:
    first, again = (to_part10(published(KEY, written(), signer=site_signer())[0]) for _ in range(2))
    assert first == again
    with pytest.raises(AttestationError, match="run out"):
        sign_dataset(Dataset(), site_signer(), signature_uid="2.25.1", at=datetime.now(UTC) + timedelta(days=3650))
    assert site_signer().certificate.not_valid_before_utc > MADE, "an earlier moment becomes the certificate's first"


@pytest.mark.requirement("PROV-DSIG-001")
@pytest.mark.parametrize("wrong", ["open key", "another key", "run out", "elliptic curve", "no certificate"])
def test_a_certificate_or_key_that_cannot_sign_is_refused_at_the_start(wrong: str, tmp_path: Path) -> None:
    files, now = site_certificates(), datetime.now(UTC)
    certificate, key = files.dicom_certificate, files.dicom_key
    if wrong == "open key":
        key = tmp_path / "key.pem"
        key.write_bytes(files.dicom_key.read_bytes())
        os.chmod(key, 0o644)
    elif wrong == "another key":
        certificate = files.c2pa_certificate
    elif wrong == "run out":
        now += timedelta(days=3650)
    elif wrong == "elliptic curve":
        certificate, key = files.c2pa_certificate, files.c2pa_key
    else:
        certificate = files.dicom_key
    with pytest.raises(ConfigurationError) as refused:
        DicomSigner.load(certificate, key, now=now)
    assert "BEGIN" not in str(refused.value)


def _self_signed(key_file: Path):  # type: ignore[no-untyped-def]  # x509.Certificate
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509.oid import NameOID

    key, now = load_pem_private_key(key_file.read_bytes(), None), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Somebody else")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    return builder.not_valid_before(now).not_valid_after(now + timedelta(days=9)).sign(key, SHA256())
