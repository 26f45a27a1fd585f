"""One statement about images, segmentation and summary: each is named, verified, and told where it is missing or changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.holding.files import to_part10
from dicom_node.writing import SummaryForm
from domain.attestation import ProvenanceStatement
from domain.errors import AttestationError
from domain.generation import Publication, Receipt
from domain.identifiers import SeriesUid, StudyUid
from provenance.attest import attest, parse_sidecar, sidecar
from provenance.report import Truth, VerificationReport
from provenance.signing import SigningKey
from provenance.statement import from_claims, to_claims
from provenance.verification import verify_instance, verify_series
from tests.builders_objects import signed_objects, stated_objects, written_objects
from tests.builders_provenance import NOW, MemoryLog
from tests.builders_quality import make_card

KEY = SigningKey.generate()
KEYS = KEY.public_jwks()


def published(summary: SummaryForm = SummaryForm.PDF) -> list[Dataset]:
    """As they are read back from files."""
    return [dcmread(BytesIO(to_part10(ds))) for ds in signed_objects(KEY, written_objects(summary=summary))]


def statement() -> ProvenanceStatement:
    return stated_objects(written_objects())


def false_claims(report: VerificationReport) -> set[str]:
    return {claim.name for claim in report.false}


@pytest.mark.requirement("PROV-STATE-001")
@pytest.mark.parametrize("summary", SummaryForm)
def test_every_object_verifies_alone(summary: SummaryForm) -> None:
    for ds in published(summary):
        report = verify_instance(ds, KEYS)
        assert report.verdict, (ds.Modality, false_claims(report))
        assert report["pixel-data"].truth is Truth.TRUE


def test_a_folder_with_everything_is_whole_and_one_with_the_images_says_what_else_there_is() -> None:
    everything = published()
    assert "all 8 instances of 3 series" in verify_series(everything, KEYS)["series-complete"].why
    images = verify_series(everything[:-2], KEYS)
    assert images.verdict
    assert images["series-complete"].why.endswith("not given: the series of SEG, DOC")
    segmentation = verify_series(everything[-2:-1], KEYS)
    assert segmentation.verdict
    assert segmentation["series-complete"].truth is Truth.TRUE
    assert false_claims(verify_series(everything[1:], KEYS)) == {"series-complete"}


def drop_pixels(ds: Dataset) -> None:
    del ds.PixelData


def add_pixels(ds: Dataset) -> None:
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.SamplesPerPixel = 1, 1, 16, 1
    ds.PixelData = b"\0\0"


def change_document(ds: Dataset) -> None:
    ds.EncapsulatedDocument = ds.EncapsulatedDocument.replace(b"%%EOF", b"%%eof")


def change_segment(ds: Dataset) -> None:
    ds.PixelData = bytes([ds.PixelData[0] ^ 1]) + ds.PixelData[1:]


@pytest.mark.requirement("PROV-STATE-001")
@pytest.mark.parametrize(
    ("place", "change", "claims"),
    [
        (-1, change_document, {"attributes"}),
        (-1, add_pixels, {"pixel-data", "attributes", "marks"}),
        (-2, change_segment, {"pixel-data"}),
        (-2, drop_pixels, {"pixel-data"}),
        (-1, lambda ds: delattr(ds, "SyntheticData"), {"marks", "attributes"}),
        (-2, lambda ds: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY"]), {"marks", "attributes"}),
        (-2, lambda ds: setattr(ds, "SeriesInstanceUID", "1.2.3"), {"statement-names-instance", "attributes"}),
    ],
)
def test_a_changed_companion_is_told(place: int, change: Callable[[Dataset], None], claims: set[str]) -> None:
    ds = published()[place]
    change(ds)
    report = verify_instance(ds, KEYS)
    assert not report.verdict
    assert false_claims(report) == claims


def test_an_instance_moved_into_another_series_of_the_statement_is_told() -> None:
    everything = published()
    everything[-2].SeriesInstanceUID = everything[0].SeriesInstanceUID
    assert "statement-names-instance" in false_claims(verify_instance(everything[-2], KEYS))


def test_claims_keep_every_series_and_a_statement_without_companions_reads_as_before() -> None:
    claims = to_claims(statement())
    assert [series.modality for series in from_claims(claims).all_series] == ["MR", "SEG", "DOC"]
    assert [one.count for one in from_claims(claims).all_series] == [len(one.instances) for one in statement().all_series]
    alone = to_claims(replace(statement(), companions=()))
    assert "companions" not in alone
    assert from_claims(alone).companions == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"series_uid": SeriesUid("1.2.826.0.1.3680043.2.2")}, "the source series as the generated one"),
        ({"series_uid": statement().series.series_uid}, "one series twice"),
        ({"study_uid": StudyUid("1.2.3")}, "series of several studies"),
        ({"instances": ()}, "a series without instances"),
        ({"instances": statement().series.instances}, "with one UID twice"),
    ],
)
def test_refuses_to_state_companions_that_cannot_be(change: dict[str, object], words: str) -> None:
    made = statement()
    wrong = replace(made.companions[0], **change)  # type: ignore[arg-type]
    with pytest.raises(AttestationError, match=words):
        to_claims(replace(made, companions=(wrong,)))


@pytest.mark.requirement("PROV-STATE-001")
def test_attestation_and_imaging_study_name_every_series() -> None:
    made = statement()
    receipts = (Receipt("pacs", "dicom", 8, NOW),)
    publication = Publication(made.request_id, made.series, receipts, made.companions)
    attestation, resources = attest(
        made, publication, make_card(), KEY, now=NOW, organization="Example Hospital", enter=MemoryLog(KEY).enter
    )
    study = next(one for one in resources if one["resourceType"] == "ImagingStudy")
    assert [series["modality"]["code"] for series in study["series"]] == ["MR", "SEG", "DOC"]
    assert (study["numberOfSeries"], study["numberOfInstances"]) == (3, 8)
    assert len(attestation.instances) == 8
    assert parse_sidecar(sidecar(attestation), KEYS).instances == attestation.instances
    images_only = Publication(made.request_id, made.series, receipts)
    with pytest.raises(AttestationError, match="another series"):
        attest(made, images_only, make_card(), KEY, now=NOW, organization="Example Hospital", enter=MemoryLog(KEY).enter)
    too_few = replace(publication, receipts=(Receipt("pacs", "dicom", 6, NOW),))
    with pytest.raises(AttestationError, match="accepted as a whole"):
        attest(made, too_few, make_card(), KEY, now=NOW, organization="Example Hospital", enter=MemoryLog(KEY).enter)
