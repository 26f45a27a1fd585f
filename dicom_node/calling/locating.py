"""What a peer holds, level by level, so that it can be fetched: studies of an accession, their priors, series, instances.

Each question names the unique keys of the levels above its own, which is all that a peer without relational queries answers.
And each answer is held against the question: a peer may leave a key out of its matching, and then returns other patients too.

References
----------
DICOM PS3.4 C.4.1.2.2.1 (hierarchical queries), C.6.2 (Study Root); PS3.18 10.6 (Search).
"""

from __future__ import annotations

from dataclasses import replace

from pydicom.dataset import Dataset

from dicom_node.calling.remote import Remote, RemoteSeries, RemoteStudy
from dicom_node.holding.headers import text_of
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


def studies(remote: Remote, **keys: str) -> list[RemoteStudy]:
    """Return the studies that a peer names for keys, such as ``StudyDate="20240101-"``.

    Raises
    ------
    PeerUnreachable, PeerRefused, PeerAnswerInvalid
        See `dicom_node.calling.remote.Remote`.
    """
    return [
        RemoteStudy(
            study_uid=_required(remote, ds, "StudyInstanceUID"),
            patient_id=text_of(ds, "PatientID"),
            patient_id_issuer=text_of(ds, "IssuerOfPatientID"),
            accession=text_of(ds, "AccessionNumber"),
            study_date=text_of(ds, "StudyDate"),
            study_time=text_of(ds, "StudyTime"),
        )
        for ds in remote.find("STUDY", _STUDY_KEYS, keys)
    ]


def of_accession(remote: Remote, accession: str) -> list[RemoteStudy]:
    """Return the studies of an accession.

    Raises
    ------
    RequestInvalid
        If it is no single number.
    ResourceNotFound
        If the peer has none.
    PeerAnswerInvalid
        If the peer returns a study without its accession number.
    """
    wanted = _one_value(accession, "an accession number")
    found = studies(remote, AccessionNumber=wanted)
    _require_named(remote, [study.accession for study in found], "Accession Number")
    found = [study for study in found if study.accession == wanted]
    if not found:
        raise ResourceNotFound(
            found=f"no study of this accession at {remote.name}",
            allowed="an accession number that the peer knows",
            action="check the number, or ask by study or patient",
        )
    return found


def of_patient(remote: Remote, patient_id: str) -> list[RemoteStudy]:
    """Return the studies of a patient, whoever issued the id.

    Raises
    ------
    RequestInvalid
        If it is no single id.
    PeerAnswerInvalid
        If the peer returns a study without its Patient ID.
    """
    wanted = _one_value(patient_id, "a Patient ID")
    found = studies(remote, PatientID=wanted)
    _require_named(remote, [study.patient_id for study in found], "Patient ID")
    return [study for study in found if study.patient_id == wanted]


def priors(remote: Remote, current: list[RemoteStudy]) -> list[RemoteStudy]:
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
        if not study.patient_id or set(study.patient_id) & set("*?\\"):
            raise PeerAnswerInvalid(
                found=f"a study without a plain Patient ID from {remote.name}",
                allowed="the Patient ID with each study that is asked for it (PS3.4 C.6.2.1.2)",
                action="fetch the priors by patient id",
            )
        for other in of_patient(remote, study.patient_id):
            issuers = {study.patient_id_issuer, other.patient_id_issuer} - {""}
            if other.study_uid not in known and len(issuers) < 2 and other.precedes(study):
                found[other.study_uid] = replace(other, prior=True)
    return list(found.values())


def series(remote: Remote, of: RemoteStudy, series_uid: str = "") -> list[RemoteSeries]:
    """Return the series of a study, or the one that is named; of any study where `of` has no UID."""
    asked = {"StudyInstanceUID": of.study_uid, "SeriesInstanceUID": series_uid}
    found = remote.find("SERIES", _SERIES_KEYS, {keyword: uid for keyword, uid in asked.items() if uid})
    listed = [
        RemoteSeries(
            of.study_uid or _required(remote, ds, "StudyInstanceUID"), _required(remote, ds, "SeriesInstanceUID"), of.prior
        )
        for ds in found
        if text_of(ds, "StudyInstanceUID") in ("", of.study_uid) or not of.study_uid
    ]
    return [one for one in listed if series_uid in ("", one.series_uid)]


def instances(remote: Remote, of: RemoteSeries) -> dict[str, str]:
    """Return SOP Instance UIDs of a series, each with its SOP class or an empty text."""
    asked = {"StudyInstanceUID": of.study_uid, "SeriesInstanceUID": of.series_uid}
    found = remote.find("IMAGE", ("SOPInstanceUID", "SOPClassUID"), asked)
    return {_required(remote, ds, "SOPInstanceUID"): text_of(ds, "SOPClassUID") for ds in found}


def _one_value(text: str, what: str) -> str:
    if not text.strip() or set(text) & set("*?\\"):
        raise RequestInvalid(found=f"{what} with a wildcard, or none", allowed="one value", action="name it whole")
    return text.strip()


def _require_named(remote: Remote, values: list[str], attribute: str) -> None:
    if not all(values):
        raise PeerAnswerInvalid(
            found=f"a study without {attribute} from {remote.name}, which was asked for studies of one value of it",
            allowed=f"the {attribute} with each such study (PS3.4 C.6.2.1.2, PS3.18 10.6.3.3)",
            action="ask by study; tell the peer's maker",
        )


def _required(remote: Remote, ds: Dataset, keyword: str) -> str:
    value = text_of(ds, keyword)
    if not value:
        raise PeerAnswerInvalid(
            found=f"a match without {keyword} from {remote.name}",
            allowed="the unique keys of its level and of those above with each match (PS3.4 C.4.1.1.3.2, PS3.18 10.6.3.3)",
            action="name the study too; tell the peer's maker",
        )
    return value
