"""The note that rejects what we have published: a Key Object Selection document, by highdicom.

A PACS that does IHE's Imaging Object Change Management hides what the note names; any other keeps it as one more object of the
study, which a person can read.

References
----------
DICOM PS3.3 A.35.4 (Key Object Selection Document IOD), PS3.16 TID 2010, CID 7010, CID 7011; IHE RAD TF IOCM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, KeyObjectSelectionDocumentStorage

from dicom_node.holding.files import file_meta
from dicom_node.holding.rejecting import REJECTION_TITLES
from dicom_node.objects import common

_QUALITY = "113001"
_TITLE_MODIFIER = Code("113011", "DCM", "Document Title Modifier")
# TID 2010 asks for a modifier under this title; of CID 7011 only this one says nothing that we do not know.
_OTHER_FAILURE = Code("111220", "DCM", "Other failure")

# What the note takes over from the instances that it rejects: whose they are, of which study, and that they are synthetic.
_TAKEN_OVER = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "PatientBirthDate",
    "PatientSex",
    "PatientComments",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "StudyDescription",
    "SyntheticData",
    "ContentQualification",
)


@dataclass(frozen=True, slots=True)
class NoteIdentity:
    """Names of a rejection note; the caller derives them, so that a repeat writes the same bytes.

    Attributes
    ----------
    title : str
        Code of `dicom_node.holding.rejecting.REJECTION_TITLES`.
    text : str
        Why, for people: Key Object Description. Names no patient.
    created_at : datetime
        Aware.
    """

    series_uid: str
    instance_uid: str
    title: str
    text: str
    created_at: datetime
    software_version: str


def rejection_note(instances: Sequence[Dataset], identity: NoteIdentity) -> Dataset:
    """Return the note that rejects instances of one study of ours; the same arguments give the same bytes.

    Parameters
    ----------
    instances : sequence of Dataset
        With or without Pixel Data; the first one says whose they are.
    """
    from highdicom.ko import KeyObjectSelectionDocument

    ds = Dataset()
    ds.update(
        KeyObjectSelectionDocument(
            evidence=list(instances),
            content=_content(instances, identity),
            series_instance_uid=identity.series_uid,
            series_number=_SERIES_NUMBER,
            sop_instance_uid=identity.instance_uid,
            instance_number=1,
            manufacturer=common.MANUFACTURER,
        )
    )
    _write_modules(ds, instances[0], identity)
    ds.file_meta = file_meta(KeyObjectSelectionDocumentStorage, identity.instance_uid, ExplicitVRLittleEndian)
    return ds


# Above those of what is published.
_SERIES_NUMBER = 99


def _content(instances: Sequence[Dataset], identity: NoteIdentity) -> Sequence[Dataset]:
    from highdicom.ko import KeyObjectSelection
    from highdicom.sr import CodeContentItem, RelationshipTypeValues

    title = Code(identity.title, "DCM", REJECTION_TITLES[identity.title])
    content: Sequence[Dataset] = KeyObjectSelection(title, list(instances), description=identity.text)
    if identity.title == _QUALITY:
        modifier = CodeContentItem(_TITLE_MODIFIER, _OTHER_FAILURE, RelationshipTypeValues.HAS_CONCEPT_MOD)
        content[0].ContentSequence.insert(0, modifier)
    return content


def _write_modules(ds: Dataset, of: Dataset, identity: NoteIdentity) -> None:
    """Patient, study, series, equipment and SOP common (PS3.3 C.7.1, C.7.2, C.17.6.1, C.7.5, C.12.1) in our own words."""
    ds.SpecificCharacterSet = "ISO_IR 192"
    for keyword in _TAKEN_OVER:
        if keyword in of:
            ds[keyword] = of[keyword]
    day, clock = common.day(identity.created_at), common.clock(identity.created_at)
    ds.SeriesDescription = "REJECTION of a synthetic series"
    ds.SeriesDate, ds.SeriesTime, ds.ContentDate, ds.ContentTime = day, clock, day, clock
    ds.InstanceCreationDate, ds.InstanceCreationTime = day, clock
    ds.TimezoneOffsetFromUTC = identity.created_at.strftime("%z")[:5]
    ds.Manufacturer, ds.ManufacturerModelName = common.MANUFACTURER, "Veraicon recall"
    ds.SoftwareVersions = [identity.software_version]
    ds.ContributingEquipmentSequence = Items(of.get("ContributingEquipmentSequence") or [])
