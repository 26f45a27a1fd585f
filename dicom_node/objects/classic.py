"""A generated volume as a classic series, one slice an instance: what each PACS takes.

References
----------
DICOM PS3.3 A.3 (CT Image IOD), A.4 (MR Image IOD).
"""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, MRImageStorage

from dicom_node.identity import SeriesIdentity
from dicom_node.marking.pixel_marks import MarkedVoxels, overlay_plane_module
from dicom_node.objects import common
from dicom_node.objects.voxels import Plane, StoredVoxels, image_pixel_module
from domain.generation import GeneratedVolume
from domain.series import ImagingSeries

_SOP_CLASSES = {"MR": MRImageStorage, "CT": CTImageStorage}


def classic_instances(
    generated: GeneratedVolume, identity: SeriesIdentity, source: ImagingSeries, marked: MarkedVoxels, plane: Plane
) -> list[Dataset]:
    """Return one instance a slice, first slice first."""
    return [_instance(generated, identity, source, marked, plane, index) for index in range(len(marked.voxels.array))]


def _instance(
    generated: GeneratedVolume,
    identity: SeriesIdentity,
    source: ImagingSeries,
    marked: MarkedVoxels,
    plane: Plane,
    index: int,
) -> Dataset:
    ds, modality, voxels = Dataset(), generated.volume.modality, marked.voxels
    common.write_common_modules(ds, generated, identity, sop_class=_SOP_CLASSES[modality], number=index + 1)
    common.general_series_module(ds, identity, modality)
    common.acquired_series_attributes(ds, identity)
    common.frame_of_reference_module(ds, identity)
    _general_image_module(ds, generated, identity, source, marked)
    _image_plane_module(ds, plane, index)
    image_pixel_module(ds, voxels, voxels.array[index])
    if modality == "MR":
        _mr_image_module(ds)
    else:
        _ct_image_module(ds, voxels)
    _voi_lut_module(ds, voxels)
    if marked.overlay is not None:
        overlay_plane_module(ds, marked.overlay)
    return ds


def _general_image_module(
    ds: Dataset, generated: GeneratedVolume, identity: SeriesIdentity, source: ImagingSeries, marked: MarkedVoxels
) -> None:
    """PS3.3 C.7.6.1, with the derivation (C.7.6.1.1.3, C.12.1: General Reference)."""
    ds.AcquisitionNumber = 1
    common.content_time(ds, identity)
    ds.DerivationDescription = common.derivation_description(generated, marked.voxels.meaning)
    ds.DerivationCodeSequence = Sequence([common.code(*common.GENERATED_BY_MODEL)])
    common.reference_modules(ds, source)
    ds.SourceImageSequence = common.source_images(source)
    ds.ImagesInAcquisition = generated.volume.shape[0]
    # The word identifies nobody, but who reads pixels by machine has to know that there is text in them.
    ds.BurnedInAnnotation = "YES" if marked.burned_in else "NO"
    ds.LossyImageCompression = "00"


def _image_plane_module(ds: Dataset, plane: Plane, index: int) -> None:
    """PS3.3 C.7.6.2."""
    position = plane.position(index)
    ds.PixelSpacing = common.decimals([plane.row_mm, plane.column_mm])
    ds.SliceThickness, ds.SpacingBetweenSlices = common.decimals([plane.slice_mm, plane.slice_mm])
    ds.ImageOrientationPatient = common.decimals(plane.orientation)
    ds.ImagePositionPatient = common.decimals(position)
    ds.SliceLocation = common.decimals([float(position @ plane.normal)])[0]


def _mr_image_module(ds: Dataset) -> None:
    """PS3.3 C.8.3.1. RM is Research Mode: no pulse sequence ran, so its times are empty (type 2)."""
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    ds.ScanningSequence = "RM"
    ds.SequenceVariant = "NONE"
    ds.ScanOptions = ""
    ds.MRAcquisitionType = "3D"
    ds.RepetitionTime = None
    ds.EchoTime = None
    ds.EchoTrainLength = None


def _ct_image_module(ds: Dataset, voxels: StoredVoxels) -> None:
    """PS3.3 C.8.2.1. No tube ran, so KVP is empty (type 2); the stack is called axial, the only term beside localizer."""
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", voxels.rescale_type
    ds.KVP = None


def _voi_lut_module(ds: Dataset, voxels: StoredVoxels) -> None:
    """PS3.3 C.11.2: the whole range for MR, soft tissue for CT."""
    ds.WindowCenter, ds.WindowWidth = voxels.window
