"""A generated volume as instances: place, values, marks, and the same bytes each time."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.holding.files import to_part10
from dicom_node.reading import describe_series, read_volume
from dicom_node.writing import ImageForm, write_series
from domain.errors import GenerationError, NonFiniteOutput, UnsupportedSeries
from domain.generation import GeneratedVolume
from domain.identifiers import PatientIdentifier
from tests.builders_dicom import generated_phantom, series_identity, source_series
from tests.builders_objects import labelled_phantom


def through_part10(datasets: list[Dataset]) -> list[Dataset]:
    return [dcmread(BytesIO(to_part10(ds))) for ds in datasets]


def written(generated: GeneratedVolume | None = None, request_id: str = "request-1") -> list[Dataset]:
    datasets = write_series(generated or generated_phantom(), series_identity(request_id), source=source_series())
    return through_part10(datasets)


@pytest.mark.requirement("DICOM-OBJ-005")
def test_what_is_written_reads_back_at_its_place_with_its_values() -> None:
    generated = generated_phantom()
    volume = read_volume(written(generated))
    np.testing.assert_allclose(volume.affine_lps, generated.volume.affine_lps, atol=1e-9)
    np.testing.assert_allclose(volume.array / 4095, generated.volume.array, atol=0.5 / 4095 + 1e-7)


@pytest.mark.requirement("DICOM-OBJ-004")
def test_the_same_request_gives_the_same_bytes_and_another_gives_other_uids() -> None:
    once, again = ([to_part10(ds) for ds in written()] for _ in range(2))
    assert once == again
    uids = {ds.SOPInstanceUID for ds in written()} | {ds.SOPInstanceUID for ds in written(request_id="request-2")}
    assert len(uids) == 12


@pytest.mark.requirement("DICOM-OBJ-002")
def test_every_instance_says_that_it_is_synthetic_and_what_made_it() -> None:
    for number, ds in enumerate(written(), start=1):
        assert (ds.SyntheticData, ds.ContentQualification, list(ds.ImageType)) == (
            "YES",
            "RESEARCH",
            ["DERIVED", "SECONDARY", "OTHER"],
        )
        assert "SYNTHETIC" in ds.SeriesDescription
        assert str(ds.PatientName).startswith("SYNTHETIC")
        (equipment,) = ds.ContributingEquipmentSequence
        (purpose,) = equipment.PurposeOfReferenceCodeSequence
        assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("109100", "DCM")
        assert "DeviceUID" not in equipment
        (derivation,) = ds.DerivationCodeSequence
        assert derivation.CodingSchemeDesignator == "99VERAICON"
        assert (ds.Manufacturer, ds.ManufacturerModelName, ds.InstanceNumber) == ("Veraicon", "phantom-ball", number)
        assert "seed 7" in ds.DerivationDescription
        assert (ds.BurnedInAnnotation, ds.LossyImageCompression, ds.TimezoneOffsetFromUTC) == ("NO", "00", "+0000")


@pytest.mark.requirement("DICOM-OBJ-002")
def test_every_instance_refers_to_the_whole_source() -> None:
    source = source_series()
    for ds in written():
        assert [item.ReferencedSOPInstanceUID for item in ds.SourceImageSequence] == [
            i.sop_instance_uid for i in source.instances
        ]
        assert {item.PurposeOfReferenceCodeSequence[0].CodeValue for item in ds.SourceImageSequence} == {"121322"}
        assert ds.StudiesContainingOtherReferencedInstancesSequence[0].StudyInstanceUID == source.study_uid


@pytest.mark.requirement("DICOM-OBJ-003")
def test_the_patient_is_ours_and_nothing_of_the_real_one_is_in_it() -> None:
    source = replace(
        source_series(), patient=PatientIdentifier("REAL-77", "urn:hospital"), birth_date="1950-01-02", description="secret"
    )
    for ds in write_series(generated_phantom(), series_identity(), source=source):
        data = to_part10(ds)
        assert not any(word in data for word in (b"REAL-77", b"urn:hospital", b"19500102", b"secret"))
        assert ds.IssuerOfPatientIDQualifiersSequence[0].UniversalEntityID == series_identity().patient.system
    described = describe_series(written(), [], issuer_systems={"VERAICON": "urn:ours"})
    assert described.patient == PatientIdentifier(series_identity().patient.value, "urn:ours")


@pytest.mark.requirement("DICOM-OBJ-005")
@pytest.mark.parametrize(
    ("value", "kind"), [(np.nan, NonFiniteOutput), (np.inf, NonFiniteOutput), (1.5, GenerationError), (-0.2, GenerationError)]
)
def test_refuses_values_that_the_stored_range_cannot_hold(value: float, kind: type[Exception]) -> None:
    generated = generated_phantom()
    generated.volume.array[0, 0, 0] = value
    with pytest.raises(kind):
        written(generated)


def test_refuses_another_modality_and_a_sheared_grid() -> None:
    generated = generated_phantom()
    with pytest.raises(UnsupportedSeries, match="modality PT"):
        written(replace(generated, volume=replace(generated.volume, modality="PT")))
    sheared = generated.volume.affine_lps.copy()
    sheared[:3, 0] += 0.1 * sheared[:3, 1]
    with pytest.raises(UnsupportedSeries, match="sheared"):
        written(replace(generated, volume=replace(generated.volume, affine_lps=sheared)))


@pytest.mark.requirement("DICOM-OBJ-006")
@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_an_enhanced_instance_holds_exactly_what_the_classic_series_holds(modality: str) -> None:
    generated = labelled_phantom(modality)
    classic, enhanced = (
        read_volume(through_part10(write_series(generated, series_identity(), source=source_series(), form=form)))
        for form in ImageForm
    )
    np.testing.assert_array_equal(enhanced.array, classic.array)
    np.testing.assert_array_equal(enhanced.affine_lps, classic.affine_lps)
    assert (enhanced.modality, enhanced.unit) == (classic.modality, classic.unit) == (modality, generated.volume.unit)


@pytest.mark.requirement("DICOM-OBJ-005")
def test_ct_is_stored_in_whole_hounsfield_units_and_metal_is_not_cut() -> None:
    generated = labelled_phantom("CT")
    generated.volume.array[0, 0, 0], generated.volume.array[0, 0, 1] = 30000.4, -1023.6
    volume = read_volume(through_part10(write_series(generated, series_identity(), source=source_series())))
    assert (volume.array[0, 0, 0], volume.array[0, 0, 1]) == (30000, -1024)
    generated.volume.array[0, 0, 0] = 40000
    with pytest.raises(GenerationError, match="4e\\+04"):
        write_series(generated, series_identity(), source=source_series())


@pytest.mark.requirement("DICOM-OBJ-006")
def test_another_reader_places_an_enhanced_instance_where_we_do(tmp_path: Path) -> None:
    """highdicom reads functional groups on its own, and may order slices the other way round."""
    path = tmp_path / "enhanced.dcm"
    generated = labelled_phantom()
    (ds,) = write_series(generated, series_identity(), source=source_series(), form=ImageForm.ENHANCED)
    path.write_bytes(to_part10(ds))
    theirs, ours = highdicom.imread(path).get_volume(), read_volume([dcmread(path)])
    np.testing.assert_allclose(
        placed_values(theirs.array, theirs.affine), placed_values(ours.array, ours.affine_lps), atol=1e-6
    )


def placed_values(array: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of (x, y, z, value), sorted by place."""
    places = np.argwhere(np.ones_like(array)) @ affine[:3, :3].T + affine[:3, 3]
    rows = np.column_stack([np.round(places, 6) + 0.0, array.ravel()])
    return rows[np.lexsort(rows[:, :3].T)]
