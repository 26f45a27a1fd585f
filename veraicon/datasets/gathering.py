"""Finds the members of a data set: what jobs have made and attested, and received series; each with its digests."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlmodel import Session, col, select

from dicom_node.archive import Archive
from dicom_node.holding.headers import PARSE_ERRORS
from domain.dataset import ListedSeries, Member, MemberKind, Origin
from domain.errors import JobNotFound, PatientMismatch, RequestInvalid, ResourceNotFound, UnreadableInstance
from domain.identifiers import PatientIdentifier, SeriesUid, StudyUid, require_uid
from domain.series import GeneratedInstance, GeneratedSeries, ImagingSeries
from provenance.canonical import canonical_json, sha256_digest
from veraicon.artifacts import Codec, Kind, json_codec
from veraicon.datasets.layout import digested
from veraicon.jobs import Jobs
from veraicon.pipeline import JobState
from veraicon.publishing import ATTESTATION, STATEMENT
from veraicon.recall.outputs import Outputs
from veraicon.tables import JobRow

_RECEIVED = json_codec(ImagingSeries)
_PURPOSE = b"veraicon dataset subject\x00"


def subject_token(salt: bytes, patient: PatientIdentifier) -> str:
    """Return the token that groups everything of one person: equal for equal identifiers, and nothing without the site's salt.

    It differs from the token that recalls use. It hides who the person is, not which series is meant: a manifest names request
    and source by their UIDs, so whoever can search the PACS can find the person.
    """
    told = canonical_json({"system": patient.system, "value": patient.value})
    return f"sha256:{hmac.new(salt, _PURPOSE + told, hashlib.sha256).hexdigest()}"


@dataclass(frozen=True)
class Gatherer:
    """Makes members.

    Attributes
    ----------
    salt : bytes
        The site's secret salt.
    """

    archive: Archive
    jobs: Jobs
    outputs: Outputs
    salt: bytes
    _described: dict[str, ImagingSeries] = field(default_factory=dict, init=False, repr=False)

    def described(self, series_uid: str) -> ImagingSeries:
        """Return what the archive tells of a series; many volumes come of one, and it is read once.

        Raises
        ------
        UnreadableInstance, PatientMismatch
            As `dicom_node.archive.Archive.series`.
        """
        if series_uid not in self._described:
            self._described[series_uid] = self.archive.series(series_uid)
        return self._described[series_uid]

    def attested_jobs(self) -> list[str]:
        """Return the request ids of every attested job, the oldest first."""
        query = select(JobRow.request_id).where(JobRow.state == JobState.ATTESTED.value).order_by(col(JobRow.created_at))
        with Session(self.jobs.engine) as session:
            return list(session.exec(query))

    def job_of_series(self, series_uid: str) -> str:
        """Return the request id of the job that made a series.

        Raises
        ------
        JobNotFound
            If none did.
        """
        query = select(JobRow.request_id).where(
            JobRow.generated_series_uid == require_uid(series_uid, attribute="SeriesInstanceUID")
        )
        with Session(self.jobs.engine) as session:
            found = session.exec(query).first()
        if found is None:
            raise JobNotFound(
                found=f"series {series_uid}, which no job of this site has made",
                allowed="the generated series UID of a job, as `veraicon job list` shows it",
                action="name a received series with --source-series instead",
            )
        return found

    def generated(self, text: str) -> Member:
        """Return what a job has made, images and companions.

        Parameters
        ----------
        text : str
            Request id, or the start of one.

        Raises
        ------
        JobNotFound
            If no job, or more than one, has an id that starts so.
        RequestInvalid
            If it is not attested.
        ResourceNotFound
            If the job's folder has lost what it kept.
        OutputRecalled
            If it was taken back.
        ConsentMissing
            If the consent to its source was withdrawn.
        """
        row = self._job(text)
        if row.state != JobState.ATTESTED.value:
            raise RequestInvalid(
                found=f"a job in state {row.state}", allowed="attested jobs", action="wait for it, or leave it out"
            )
        self.outputs.require_not_recalled(row.request_id)
        folder = self.jobs.artifacts(row.request_id).folder
        statement = _artifact(row, folder, "statement", STATEMENT)
        attestation = _artifact(row, folder, JobState.ATTESTED.value, ATTESTATION)
        source = self._source_of(row, folder)
        self.outputs.require_consent(source)
        return Member(
            kind=MemberKind.GENERATED,
            subject=subject_token(self.salt, source.patient),
            part="",
            licence=statement.model.licence,
            series=tuple(_listed(one) for one in statement.all_series),
            origin=Origin(
                request_id=row.request_id,
                source_study_uid=StudyUid(statement.source_study_uid),
                source_series_uid=SeriesUid(statement.source_series_uid),
                model=statement.model,
                targets=tuple(kind for kind, _value, _unit in statement.conditioning.targets),
                used=statement.conditioning.used,
                missing=statement.conditioning.missing,
                attestation=sha256_digest(attestation.jws.encode("ascii")),
            ),
        )

    def source(self, series_uid: str, *, licence: str) -> Member:
        """Return a received series.

        Raises
        ------
        RequestInvalid
            If it is synthetic: what was generated comes in as such, or its source would not be known.
        ConsentMissing
            If consent was withdrawn by a recall.
        UnreadableInstance
            If the archive does not hold it.
        """
        uid = require_uid(series_uid, attribute="SeriesInstanceUID")
        if self.jobs.made_by_us(uid):
            raise _synthetic(uid)
        series = self.described(uid)
        self.outputs.require_consent(series)
        datasets = self.archive.datasets(series)
        if any(ds.get("SyntheticData") == "YES" for ds in datasets):
            raise _synthetic(uid)
        instances = tuple(sorted((digested(ds) for ds in datasets), key=lambda one: one.sop_instance_uid))
        listed = ListedSeries(series.study_uid, series.series_uid, series.modality, instances)
        return Member(MemberKind.SOURCE, subject_token(self.salt, series.patient), "", licence, (listed,))

    def _source_of(self, row: JobRow, folder: Path) -> ImagingSeries:
        """Return the source as the archive tells it now, like every other member; else as the job found it."""
        try:
            return self.described(row.series_uid)
        except (UnreadableInstance, PatientMismatch):
            return _artifact(row, folder, JobState.RECEIVED.value, _RECEIVED)

    def _job(self, text: str) -> JobRow:
        found = self.jobs.starting_with(text)
        if len(found) > 1:
            raise RequestInvalid(
                found=f"{len(found)} jobs whose ids start so", allowed="the start of one id", action="give more characters"
            )
        return found[0] if found else self.jobs.get(text)


@dataclass(frozen=True)
class Bytes:
    """Where the instances of members lie: our archive, else what the job kept as it sent it."""

    archive: Archive
    jobs: Jobs

    def files(self, member: Member, series: ListedSeries) -> dict[str, Path]:
        """Return the file of each instance by its UID, those that are there; withdrawn ones among them.

        Raises
        ------
        ResourceNotFound
            If none is there.
        """
        references = self.archive.references({"SeriesInstanceUID": [series.series_uid]}, rejected=True)
        held = {str(one.sop_instance_uid): self.archive.instance_path(one) for one in references}
        if not held and member.origin is not None:
            held = dict(self._kept(member.origin.request_id, series.series_uid))
        if not held:
            raise ResourceNotFound(
                found=f"no instance of series {series.series_uid}",
                allowed="members that the archive holds, or that the folder of their job holds",
                action="send the series to this site again",
            )
        return held

    def datasets(self, member: Member, series: ListedSeries) -> Iterator[tuple[GeneratedInstance, Path, Dataset]]:
        """Yield each instance as the manifest lists it, its file, and its content, which was compared with the manifest.

        Raises
        ------
        UnreadableInstance
            If an instance is missing, or is not the one that the manifest names.
        ResourceNotFound
            If none is there.
        """
        files = self.files(member, series)
        for instance in series.instances:
            path = files.get(instance.sop_instance_uid)
            try:
                ds = None if path is None else dcmread(path)
            except (*PARSE_ERRORS, OSError) as error:
                raise _changed(series, instance) from error
            if path is None or ds is None or digested(ds) != instance:
                raise _changed(series, instance)
            yield instance, path, ds

    def _kept(self, request_id: str, series_uid: str) -> Iterator[tuple[str, Path]]:
        for path in sorted((self.jobs.artifacts(request_id).folder / "series").glob("*.dcm")):
            header = dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "SOPInstanceUID"])
            if header.SeriesInstanceUID == series_uid:
                yield str(header.SOPInstanceUID), path


def _artifact(row: JobRow, folder: Path, name: str, codec: Codec[Kind]) -> Kind:
    try:
        return codec.read(folder / f"{name}{codec.suffix}")
    except (OSError, ValueError) as error:
        raise ResourceNotFound(
            found=f"no readable {name} in the folder of job {row.request_id}",
            allowed="attested jobs whose folder is as they left it",
            action="restore the storage folder from its backup, or leave this job out: name the others with --from-jobs",
        ) from error


def _listed(series: GeneratedSeries) -> ListedSeries:
    return ListedSeries(series.study_uid, SeriesUid(series.series_uid), series.modality, series.instances)


def _synthetic(series_uid: str) -> RequestInvalid:
    return RequestInvalid(
        found=f"synthetic series {series_uid} as a source",
        allowed="received series of real people",
        action="name a series of ours with --series",
    )


def _changed(series: ListedSeries, instance: GeneratedInstance) -> UnreadableInstance:
    return UnreadableInstance(
        found=f"instance {instance.sop_instance_uid} of series {series.series_uid} missing or changed",
        allowed="every instance with the digests in the manifest",
        action="restore it from a backup or from where it was published, or create a new version",
    )
