"""Marks as settings ask for them, and as a statement tells them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dicom_node.holding.files import to_part10
from dicom_node.writing import PixelMarks, VisibleMark
from domain.errors import ConfigurationError, ReplayImpossible, RequestInvalid
from provenance.signatures.content_credentials import ContentCredentials, Origin
from provenance.signing import SigningKey
from tests.builders_marks import published, site_certificates, site_signer, written
from veraicon.api.app import create_app
from veraicon.marking import (
    PictureSigner,
    claimed_marks,
    content_credentials,
    dicom_signer,
    lend_watermark_secret,
    origin_of_instance,
    picture_signer,
    pixel_marks,
    stated_marks,
    watermark_secret,
)
from veraicon.sections import ProvenanceSettings, PublicationSettings
from veraicon.settings import load_settings
from veraicon.watermarks import detect
from veraicon.wiring import open_site

KEY = SigningKey.generate()


@pytest.mark.requirement("PROV-MARK-002")
@pytest.mark.parametrize(
    ("section", "values", "named"),
    [
        ("publication", {"visible_mark": "overlay", "image": "enhanced"}, "overlay needs image classic"),
        ("publication", {"visible_mark": "loud"}, "visible_mark"),
        ("provenance", {"dicom_signature_certificate": "x.pem"}, "belong together"),
        ("provenance", {"c2pa_key": "x.pem"}, "belong together"),
    ],
)
def test_marks_that_cannot_be_made_are_refused_before_the_start(section: str, values: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        load_settings(**{section: values})


def test_a_site_marks_nothing_beyond_its_attributes_until_it_asks(tmp_path: Path) -> None:
    marks = pixel_marks(PublicationSettings(), tmp_path)
    assert marks == PixelMarks()
    assert (dicom_signer(ProvenanceSettings()), content_credentials(ProvenanceSettings())) == (None, None)
    assert list(tmp_path.iterdir()) == [], "no secret is made for nothing"


@pytest.mark.requirement("PROV-MARK-006")
def test_a_statement_tells_the_marks_and_they_can_be_made_again_where_the_secret_is(tmp_path: Path) -> None:
    here, lent, elsewhere = tmp_path / "here", tmp_path / "lent", tmp_path / "elsewhere"
    marks = pixel_marks(PublicationSettings(visible_mark="burned-in", watermark=True), here)
    told = claimed_marks(marks, site_signer())
    assert (told.visible, told.watermark, told.signing_certificate) == ("burned-in", True, site_signer().digest)
    claims = {"marks": {"visible": told.visible, "watermark": told.watermark}}
    assert stated_marks(claims, here) == marks
    lend_watermark_secret(here, lent)
    assert stated_marks(claims, lent) == marks
    with pytest.raises(ReplayImpossible, match="no watermark secret"):
        stated_marks(claims, elsewhere)
    assert (here / "keys" / "watermark-secret").stat().st_mode & 0o077 == 0


@pytest.mark.requirement("PROV-MARK-004")
def test_a_watermark_is_looked_for_by_the_request_that_the_instances_name(tmp_path: Path) -> None:
    settings = load_settings(storage={"folder": str(tmp_path / "data")})
    with pytest.raises(RequestInvalid, match="no watermark secret"):
        detect(_series(tmp_path / "plain", PixelMarks()), settings)
    marks = PixelMarks(VisibleMark.NONE, watermark_secret(settings.storage.folder, create=True))
    found = detect(_series(tmp_path / "marked", marks), settings)
    assert found.detection.found
    assert (found.request_id, found.tried, found.slices) == ("request-1", 1, 8)
    assert not detect(tmp_path / "plain", settings).detection.found
    several = detect(tmp_path / "marked", settings, requests=("another", "request-1"))
    assert several.request_id == "request-1"
    assert several.detection.threshold > found.detection.threshold, "the rate of false alarms holds for both together"
    with pytest.raises(RequestInvalid, match="several series"):
        detect(tmp_path, settings)


@pytest.mark.requirement("PROV-MARK-005")
def test_only_an_instance_of_ours_as_it_was_published_has_an_origin() -> None:
    ours, changed = published(KEY, written())[:2]
    changed.PixelData = bytes([changed.PixelData[0] ^ 1]) + changed.PixelData[1:]
    origin = origin_of_instance(ours, KEY.public_jwks())
    assert origin is not None
    assert origin.request_id == "request-1"
    assert origin_of_instance(changed, KEY.public_jwks()) is None
    assert origin_of_instance(ours, SigningKey.generate().public_jwks()) is None


def test_certificates_of_the_settings_are_loaded() -> None:
    files = site_certificates()
    settings = ProvenanceSettings(
        dicom_signature_certificate=str(files.dicom_certificate), dicom_signature_key=str(files.dicom_key)
    )
    signer = dicom_signer(settings)
    assert signer is not None
    assert signer.digest == site_signer().digest


@pytest.mark.requirement("PROV-MARK-005")
def test_a_certificate_that_runs_out_while_pictures_are_served_stops_none_and_is_logged_once() -> None:
    signer = PictureSigner(ContentCredentials("", "", "es384", datetime.now(UTC) - timedelta(seconds=1)))
    with capture_logs() as logs:
        assert [signer.sign(b"picture", Origin("r", "Provenance/r")) for _ in range(2)] == [b"picture"] * 2
    assert [(one["log_level"], "run out" in one["event"]) for one in logs] == [("warning", True)]


@pytest.mark.requirement("PROV-MARK-005")
def test_a_server_does_not_start_with_a_certificate_that_it_cannot_use(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("no certificate")
    pytest.importorskip("c2pa", reason="c2pa-python not here (extra c2pa)")
    unusable = {"c2pa_certificate": str(tmp_path / "x.pem"), "c2pa_key": str(tmp_path / "x.pem")}
    settings = load_settings(storage={"folder": str(tmp_path / "data"), "min_free_mib": 1}, provenance=unusable)
    assert picture_signer(ProvenanceSettings()) is None
    with open_site(settings) as site, pytest.raises(ConfigurationError, match="cannot be read"):
        create_app(site)


def _series(folder: Path, marks: PixelMarks) -> Path:
    folder.mkdir()
    name = folder.name
    series = written(marks=marks)
    if name == "plain":
        for ds in series["images"]:
            ds.SeriesInstanceUID = "2.25.1"
    for number, ds in enumerate(published(KEY, series, marks)):
        (folder / f"{number}.dcm").write_bytes(to_part10(ds))
    return folder
