"""Names of a series that we publish: a synthetic patient with a study of its own, all derived from the request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from domain.identifiers import AccessionNumber, InstanceUid, PatientIdentifier, SeriesUid, StudyUid, derive_uid


@dataclass(frozen=True, slots=True)
class SeriesIdentity:
    """Names of a series that we publish; all UIDs follow from the request, so a repeat writes the same instances.

    Attributes
    ----------
    patient : PatientIdentifier
        A synthetic patient of ours; its system is a URI.
    patient_name : str
        PN that says synthetic (``SYNTHETIC^...``).
    issuer : str
        Issuer of Patient ID (0010,0021), ours.
    accession : AccessionNumber
        At most 16 characters.
    created_at : datetime
        Study, series and content time; aware.
    body_part : str
        Body Part Examined (0018,0015), a term of PS3.16 Annex L; empty where the model names none.
    series_number : int
        Series Number (0020,0011).
    part : str
        Which series of the request: empty for the images, else a fixed name that its UIDs derive from (``segmentation``).
    """

    request_id: str
    study_uid: StudyUid
    series_uid: SeriesUid
    frame_of_reference_uid: str
    patient: PatientIdentifier
    patient_name: str
    issuer: str
    accession: AccessionNumber
    study_description: str
    series_description: str
    created_at: datetime
    software_version: str
    body_part: str = "BRAIN"
    birth_date: str = ""
    sex: str = ""
    series_number: int = 1
    part: str = ""

    def instance_uid(self, number: int) -> InstanceUid:
        """Return the UID of the instance with this number, from 1."""
        return InstanceUid(derive_uid(self.request_id, "instance", *filter(None, [self.part]), str(number)))

    def companion(self, part: str, *, series_number: int, description: str) -> SeriesIdentity:
        """Return the identity of another series of the same study and patient."""
        return replace(
            self,
            series_uid=SeriesUid(derive_uid(self.request_id, "series", part)),
            series_number=series_number,
            series_description=description,
            part=part,
        )

    @classmethod
    def for_request(
        cls,
        request_id: str,
        *,
        patient_system: str,
        issuer: str,
        created_at: datetime,
        software_version: str,
        body_part: str = "BRAIN",
        modality: str = "MR",
    ) -> SeriesIdentity:
        """Return the identity that belongs to a request: a synthetic patient and a study of its own."""
        study_uid = derive_uid(request_id, "study")
        label = study_uid[-12:]
        return cls(
            request_id=request_id,
            study_uid=StudyUid(study_uid),
            series_uid=SeriesUid(derive_uid(request_id, "series")),
            frame_of_reference_uid=derive_uid(request_id, "frame-of-reference"),
            patient=PatientIdentifier(f"SYN-{label}", patient_system),
            patient_name=f"SYNTHETIC^{label}",
            issuer=issuer,
            accession=AccessionNumber(f"SYN{label}"),
            study_description="SYNTHETIC - NOT A PATIENT",
            series_description=f"SYNTHETIC {modality}, AI generated, not for clinical use",
            created_at=created_at,
            software_version=software_version,
            body_part=body_part,
        )
