"""A generated volume as one enhanced multi-frame instance, for sites whose viewers read those.

References
----------
DICOM PS3.3 A.36 (Enhanced MR Image IOD), A.38 (Enhanced CT Image IOD), C.7.6.16 (functional groups), C.7.6.17 (dimensions).
"""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage

from dicom_node.identity import SeriesIdentity
from dicom_node.objects import common
from dicom_node.objects.voxels import Plane, StoredVoxels, image_pixel_module
from domain.generation import GeneratedVolume
from domain.identifiers import derive_uid
from domain.series import ImagingSeries

_SOP_CLASSES = {"MR": EnhancedMRImageStorage, "CT": EnhancedCTImageStorage}
# C.8.16.1: value 2 is PRIMARY in every enhanced image, derived ones too.
_IMAGE_TYPE = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
_STACK = "1"
# PS3.16 CID 4031 by Body Part Examined (Annex L); a body part that is not listed is told as the body.
_REGIONS = {
    "BRAIN": ("12738006", "SCT", "Brain"),
    "HEAD": ("69536005", "SCT", "Head"),
    "CHEST": ("51185008", "SCT", "Chest"),
    "ABDOMEN": ("818983003", "SCT", "Abdomen"),
    "PELVIS": ("816092008", "SCT", "Pelvis"),
}
_WHOLE_BODY = ("38266002", "SCT", "Entire body")


def enhanced_instance(
    generated: GeneratedVolume, identity: SeriesIdentity, source: ImagingSeries, voxels: StoredVoxels, plane: Plane
) -> Dataset:
    """Return the one instance, with a frame a slice, first slice first."""
    ds, modality = Dataset(), generated.volume.modality
    common.write_common_modules(ds, generated, identity, sop_class=_SOP_CLASSES[modality], number=1)
    common.general_series_module(ds, identity, modality)
    common.acquired_series_attributes(ds, identity)
    common.frame_of_reference_module(ds, identity)
    common.reference_modules(ds, source)
    _enhanced_image_module(ds, modality, source)
    _acquisition_context_module(ds)
    _multi_frame_module(ds, generated, identity, source, voxels, plane)
    _multi_frame_dimension_module(ds, identity)
    image_pixel_module(ds, voxels, voxels.array)
    return ds


def _enhanced_image_module(ds: Dataset, modality: str, source: ImagingSeries) -> None:
    """PS3.3 C.8.13.1 and C.8.15.2. What only an acquisition has is asked of original images alone."""
    ds.ImageType = _IMAGE_TYPE
    ds.SourceImageEvidenceSequence = common.source_evidence(source)
    if modality == "MR":
        ds.ApplicableSafetyStandardAgency = "NONE"  # no field and no gradient: no agency's limits apply
    _description_macro(ds, modality)
    ds.AcquisitionNumber = 1
    ds.BurnedInAnnotation = "NO"  # the only value that C.8.13.1 allows; a word of ours in the pixels identifies nobody
    ds.LossyImageCompression = "00"
    ds.PresentationLUTShape = "IDENTITY"


def _description_macro(ds: Dataset, modality: str) -> None:
    """PS3.3 C.8.16.2, and C.8.13.3 for MR: a synthetic image is called a magnitude image of no known contrast."""
    ds.PixelPresentation = "MONOCHROME"
    ds.VolumetricProperties = "VOLUME"
    ds.VolumeBasedCalculationTechnique = "NONE"
    if modality == "MR":
        ds.ComplexImageComponent = "MAGNITUDE"
        ds.AcquisitionContrast = "UNKNOWN"


def _acquisition_context_module(ds: Dataset) -> None:
    """PS3.3 C.7.6.14: nothing was acquired (type 2)."""
    ds.AcquisitionContextSequence = Sequence([])


def _multi_frame_module(
    ds: Dataset,
    generated: GeneratedVolume,
    identity: SeriesIdentity,
    source: ImagingSeries,
    voxels: StoredVoxels,
    plane: Plane,
) -> None:
    """PS3.3 C.7.6.16."""
    common.content_time(ds, identity)
    ds.NumberOfFrames = len(voxels.array)
    shared = Dataset()
    _pixel_measures(shared, plane)
    _plane_orientation(shared, plane)
    _frame_anatomy(shared, identity)
    _frame_type(shared, generated.volume.modality)
    _pixel_value_transformation(shared, voxels)
    _frame_voi_lut(shared, voxels)
    _derivation_image(shared, generated, source, voxels)
    if generated.volume.modality == "CT":
        _irradiation_event(shared, identity)
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    ds.PerFrameFunctionalGroupsSequence = Sequence([_frame(plane, index) for index in range(len(voxels.array))])


def _multi_frame_dimension_module(ds: Dataset, identity: SeriesIdentity) -> None:
    """PS3.3 C.7.6.17: one stack, and the place in it."""
    uid = derive_uid(identity.request_id, "dimension-organization")
    organization = Dataset()
    organization.DimensionOrganizationUID = uid
    ds.DimensionOrganizationSequence = Sequence([organization])
    ds.DimensionOrganizationType = "3D"
    indices = []
    for keyword in ("StackID", "InStackPositionNumber"):
        index = Dataset()
        index.DimensionOrganizationUID = uid
        index.DimensionIndexPointer = Tag(keyword)
        index.FunctionalGroupPointer = Tag("FrameContentSequence")
        index.DimensionDescriptionLabel = keyword
        indices.append(index)
    ds.DimensionIndexSequence = Sequence(indices)


def _frame(plane: Plane, index: int) -> Dataset:
    """Frame Content (C.7.6.16.2.2) and Plane Position (C.7.6.16.2.3)."""
    content = Dataset()
    content.StackID, content.InStackPositionNumber = _STACK, index + 1
    content.DimensionIndexValues = [1, index + 1]
    position = Dataset()
    position.ImagePositionPatient = common.decimals(plane.position(index))
    frame = Dataset()
    frame.FrameContentSequence = Sequence([content])
    frame.PlanePositionSequence = Sequence([position])
    return frame


def _pixel_measures(shared: Dataset, plane: Plane) -> None:
    """PS3.3 C.7.6.16.2.1."""
    item = Dataset()
    item.PixelSpacing = common.decimals([plane.row_mm, plane.column_mm])
    item.SliceThickness, item.SpacingBetweenSlices = common.decimals([plane.slice_mm, plane.slice_mm])
    shared.PixelMeasuresSequence = Sequence([item])


def _plane_orientation(shared: Dataset, plane: Plane) -> None:
    """PS3.3 C.7.6.16.2.4."""
    item = Dataset()
    item.ImageOrientationPatient = common.decimals(plane.orientation)
    shared.PlaneOrientationSequence = Sequence([item])


def _frame_anatomy(shared: Dataset, identity: SeriesIdentity) -> None:
    """PS3.3 C.7.6.16.2.8. The side of a paired part is not known: the region is told as a whole, which has none."""
    item = Dataset()
    item.FrameLaterality = "U"
    item.AnatomicRegionSequence = Sequence([common.code(*_REGIONS.get(identity.body_part, _WHOLE_BODY))])
    shared.FrameAnatomySequence = Sequence([item])


def _irradiation_event(shared: Dataset, identity: SeriesIdentity) -> None:
    """Irradiation Event macro, asked of every enhanced CT: nobody was irradiated, so the UID names the generation."""
    item = Dataset()
    item.IrradiationEventUID = derive_uid(identity.request_id, "irradiation-event")
    shared.IrradiationEventIdentificationSequence = Sequence([item])


def _frame_type(shared: Dataset, modality: str) -> None:
    """PS3.3 C.8.13.5.1 and C.8.15.3.1."""
    item = Dataset()
    item.FrameType = _IMAGE_TYPE
    _description_macro(item, modality)
    setattr(shared, f"{modality}ImageFrameTypeSequence", Sequence([item]))


def _pixel_value_transformation(shared: Dataset, voxels: StoredVoxels) -> None:
    """PS3.3 C.7.6.16.2.9, and C.8.15.3.10 for CT."""
    item = Dataset()
    item.RescaleIntercept, item.RescaleSlope, item.RescaleType = "0", "1", voxels.rescale_type
    shared.PixelValueTransformationSequence = Sequence([item])


def _frame_voi_lut(shared: Dataset, voxels: StoredVoxels) -> None:
    """PS3.3 C.7.6.16.2.10."""
    item = Dataset()
    item.WindowCenter, item.WindowWidth = voxels.window
    shared.FrameVOILUTSequence = Sequence([item])


def _derivation_image(shared: Dataset, generated: GeneratedVolume, source: ImagingSeries, voxels: StoredVoxels) -> None:
    """PS3.3 C.7.6.16.2.6."""
    item = Dataset()
    item.DerivationDescription = common.derivation_description(generated, voxels.meaning)
    item.DerivationCodeSequence = Sequence([common.code(*common.GENERATED_BY_MODEL)])
    item.SourceImageSequence = common.source_images(source)
    shared.DerivationImageSequence = Sequence([item])
