"""Marks of everything that is published, walked form by form, and DICOM Digital Signatures before DCMTK and dicom3tools."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.holding.files import to_part10
from dicom_node.writing import ImageForm, PixelMarks, SummaryForm, VisibleMark
from provenance.signing import SigningKey
from provenance.verification import verify_instance
from tests.builders_marks import SECRET, published, site_certificates, site_signer, written
from tests.peers.dcmtk import run_dcmtk
from tests.peers.dicom3tools import errors_of_instance

KEY = SigningKey.generate()
SETS = [
    (modality, image, visible)
    for modality in ("MR", "CT")
    for image in ImageForm
    for visible in VisibleMark
    if not (image is ImageForm.ENHANCED and visible is VisibleMark.OVERLAY)
]


@pytest.fixture(scope="module", params=SETS, ids=lambda one: "-".join([one[0], one[1].value, one[2].value]))
def leaving(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One file of each form that a request publishes with these marks, signed for DICOM."""
    modality, image, visible = request.param
    summary = SummaryForm.PDF if visible is VisibleMark.NONE else SummaryForm.SR
    marks = PixelMarks(visible, SECRET)
    series = published(KEY, written(modality, image, summary, marks), marks, site_signer())
    folder = tmp_path_factory.mktemp("marked")
    paths = []
    for ds in [series[len(series) // 2 - 1], *series[-2:]]:
        paths.append(folder / f"{ds.Modality}.dcm")
        paths[-1].write_bytes(to_part10(ds))
    return paths


def dcmsign(path: Path) -> tuple[int, str]:
    done = run_dcmtk("dcmsign", "--verbose", "--require-creator", "--add-cert-file", site_certificates().authority, path)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.requirement("PROV-MARK-001")
def test_every_form_says_that_it_is_synthetic_in_every_place_that_its_object_has(leaving: list[Path]) -> None:
    for path in leaving:
        ds = dcmread(path)
        (equipment,) = ds.ContributingEquipmentSequence
        said = {
            "Synthetic Data": ds.SyntheticData == "YES",
            "Content Qualification": ds.ContentQualification == "RESEARCH",
            "Contributing Equipment": equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109100",
            "Series Description": "SYNTHETIC" in ds.SeriesDescription,
            "Study Description": "SYNTHETIC" in ds.StudyDescription,
            "Patient's Name": str(ds.PatientName).startswith("SYNTHETIC"),
            "Image Type": "PixelData" not in ds or ds.ImageType[0] == "DERIVED",
            "Manufacturer": ds.Manufacturer == "Veraicon",
        }
        assert [name for name, kept in said.items() if not kept] == [], path.name


@pytest.mark.requirement("PROV-MARK-001", "PROV-MARK-002", "PROV-DSIG-002")
def test_no_marked_and_signed_form_has_an_error(leaving: list[Path]) -> None:
    assert {path.name: errors_of_instance(path) for path in leaving} == {path.name: [] for path in leaving}


@pytest.mark.requirement("PROV-DSIG-002")
def test_another_program_verifies_the_creator_signature_of_every_form(leaving: list[Path]) -> None:
    for path in leaving:
        status, talk = dcmsign(path)
        assert status == 0, talk
        assert "1 signatures verified in dataset, 0 corrupted" in talk


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One signed MR image."""
    path = tmp_path_factory.mktemp("signed") / "image.dcm"
    path.write_bytes(to_part10(published(KEY, written(), signer=site_signer())[3]))
    return path


@pytest.mark.requirement("PROV-DSIG-002")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PixelData", None),
        ("SeriesDescription", "MR of a patient"),
        ("SOPInstanceUID", "2.25.99"),
        ("StudyInstanceUID", "2.25.98"),
        ("SoftwareVersions", "other"),
    ],
)
def test_another_program_finds_what_was_changed_after_signing(
    image: Path, tmp_path: Path, name: str, value: str | None
) -> None:
    ds: Dataset = dcmread(image)
    if value is None:
        ds.PixelData = bytes([ds.PixelData[0] ^ 1]) + ds.PixelData[1:]
    else:
        setattr(ds, name, value)
    changed = tmp_path / "changed.dcm"
    ds.save_as(changed)
    status, talk = dcmsign(changed)
    assert status != 0
    assert "1 corrupted" in talk
    assert not verify_instance(ds, KEY.public_jwks()).verdict


@pytest.mark.requirement("PROV-DSIG-002")
def test_a_changed_statement_breaks_the_signature_too(image: Path, tmp_path: Path) -> None:
    ds: Dataset = dcmread(image)
    ds[0x7FDF1003].value = "Provenance/other"
    changed = tmp_path / "changed.dcm"
    ds.save_as(changed)
    assert dcmsign(changed)[0] != 0


@pytest.mark.requirement("PROV-DSIG-003")
@pytest.mark.parametrize(
    ("program", "option", "theirs", "ours"),
    [
        ("dcmconv", "--write-xfer-little", True, "true"),
        ("dcmconv", "--write-xfer-big", True, "not checkable"),
        ("dcmconv", "--write-xfer-implicit", False, "true"),
        ("dcmcjpls", "--encode-lossless", False, "not checkable"),
    ],
)
def test_the_signature_holds_for_its_encoding_and_the_statement_for_each(
    image: Path, tmp_path: Path, program: str, option: str, theirs: bool, ours: str
) -> None:
    converted = tmp_path / "converted.dcm"
    # dcmcjpls names the image anew only where it loses something, or is asked to.
    done = run_dcmtk(program, option, image, converted)
    assert done.returncode == 0, done.stderr
    assert (dcmsign(converted)[0] == 0) == theirs
    report = verify_instance(dcmread(converted), KEY.public_jwks())
    assert report["dicom-signature"].truth.value == ours
    assert report["pixel-data"].truth.value == "true"
    assert report["statement-signed"].truth.value == "true"
