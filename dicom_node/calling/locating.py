"""What a peer holds, level by level, so that it can be fetched: studies of an accession, their priors, series, instances.

Each question names the unique keys of the levels above its own, which is all that a peer without relational queries answers.

References
----------
DICOM PS3.4 C.4.1.2.2.1 (hierarchical queries), C.6.2 (Study Root).
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from dicom_node.holding.headers import text_of
from dicom_node.scu import Peer, find
from domain.errors import PeerAnswerInvalid, RequestInvalid, ResourceNotFound

_STUDY_KEYS = (
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "PatientID",
    "IssuerOfPatientID",
    "ModalitiesInStudy",
    "StudyDescription",
    "NumberOfStudyRelatedSeries",
    "NumberOfStudyRelatedInstances",
)
_SERIES_KEYS = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "SeriesNumber",
    "SeriesDescription",
    "NumberOfSeriesRelatedInstances",
)


@dataclass(frozen=True, slots=True)
class RemoteStudy:
    """A study as its peer describes it; text is empty where the peer is silent."""

    study_uid: str
    patient_id: str = ""
    patient_id_issuer: str = ""
    study_date: str = ""
    study_time: str = ""

    def precedes(self, other: RemoteStudy) -> bool:
        """Return whether this study was made before another one; True where either has no date."""
        if not self.study_date or not other.study_date:
            return True
        return (self.study_date, self.study_time) <= (other.study_date, other.study_time)


@dataclass(frozen=True, slots=True)
class RemoteSeries:
    """A series as its peer describes it."""

    study_uid: str
    series_uid: str


def identifier(level: str, *wanted: str, **keys: str) -> Dataset:
    """Return a query or retrieval identifier.

    Parameters
    ----------
    level : str
        Query/Retrieve Level.
    wanted : str
        Keywords to be returned, whatever their value.
    keys : str
        Keywords with the value that they have to match.
    """
    ds = Dataset()
    for keyword, value in {**dict.fromkeys(wanted, ""), **keys, "QueryRetrieveLevel": level}.items():
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise RequestInvalid(found=f"{keyword}, no keyword", allowed="keywords of PS3.6", action="correct the key")
        # Ranges and wildcards are no values of their VR, and right in a query.
        ds.add(DataElement(tag, dictionary_VR(tag), value or None, validation_mode=IGNORE))
    if any(not value.isascii() for value in keys.values()):
        ds.SpecificCharacterSet = "ISO_IR 192"
    return ds


def studies(peer: Peer, **keys: str) -> list[RemoteStudy]:
    """Return the studies that match keys, such as ``AccessionNumber="A-1"``.

    Raises
    ------
    PeerUnreachable, PeerRefused, PeerAnswerInvalid
        See `dicom_node.scu.find`.
    """
    found = find(peer, identifier("STUDY", *_STUDY_KEYS, **keys))
    return [
        RemoteStudy(
            study_uid=_required(peer, ds, "StudyInstanceUID"),
            patient_id=text_of(ds, "PatientID"),
            patient_id_issuer=text_of(ds, "IssuerOfPatientID"),
            study_date=text_of(ds, "StudyDate"),
            study_time=text_of(ds, "StudyTime"),
        )
        for ds in found
    ]


def of_accession(peer: Peer, accession: str) -> list[RemoteStudy]:
    """Return the studies of an accession.

    Raises
    ------
    ResourceNotFound
        If the peer has none.
    """
    if not accession.strip() or set(accession) & set("*?\\"):
        raise RequestInvalid(found="an accession number with a wildcard, or none", allowed="one number", action="name it whole")
    found = studies(peer, AccessionNumber=accession)
    if not found:
        raise ResourceNotFound(
            found=f"no study of this accession at {peer.name}",
            allowed="an accession number that the peer knows",
            action="check the number, or ask by study or patient",
        )
    return found


def priors(peer: Peer, current: list[RemoteStudy]) -> list[RemoteStudy]:
    """Return the earlier studies of the patient of some studies, without these.

    A patient is an id with its issuer: where both studies name one, they have to be the same. A study without a date counts as
    earlier, for a prior that is missing is worse than one too many.

    Raises
    ------
    PeerAnswerInvalid
        If the peer names no patient for a study.
    """
    known = {study.study_uid for study in current}
    found: dict[str, RemoteStudy] = {}
    for study in current:
        patient_id = study.patient_id
        if not patient_id or set(patient_id) & set("*?\\"):
            raise PeerAnswerInvalid(
                found=f"a study without a plain Patient ID from {peer.name}",
                allowed="the Patient ID with each study that is asked for it (PS3.4 C.6.2.1.2)",
                action="fetch the priors by patient id",
            )
        for other in studies(peer, PatientID=patient_id):
            issuers = {study.patient_id_issuer, other.patient_id_issuer} - {""}
            if other.study_uid not in known and len(issuers) < 2 and other.precedes(study):
                found[other.study_uid] = other
    return list(found.values())


def series(peer: Peer, study_uid: str, series_uid: str = "") -> list[RemoteSeries]:
    """Return the series of a study, or the one that is named."""
    found = find(peer, identifier("SERIES", *_SERIES_KEYS, StudyInstanceUID=study_uid, SeriesInstanceUID=series_uid))
    return [
        RemoteSeries(text_of(ds, "StudyInstanceUID") or study_uid, _required(peer, ds, "SeriesInstanceUID")) for ds in found
    ]


def instances(peer: Peer, of: RemoteSeries) -> dict[str, str]:
    """Return SOP Instance UIDs of a series, each with its SOP class or an empty text."""
    asked = identifier("IMAGE", "SOPInstanceUID", "SOPClassUID", StudyInstanceUID=of.study_uid, SeriesInstanceUID=of.series_uid)
    found = find(peer, asked)
    return {_required(peer, ds, "SOPInstanceUID"): text_of(ds, "SOPClassUID") for ds in found}


def _required(peer: Peer, ds: Dataset, keyword: str) -> str:
    value = text_of(ds, keyword)
    if not value:
        raise PeerAnswerInvalid(
            found=f"a match without {keyword} from {peer.name}",
            allowed="the unique key of its level with each match (PS3.4 C.4.1.1.3.2)",
            action="ask the peer's maker",
        )
    return value
