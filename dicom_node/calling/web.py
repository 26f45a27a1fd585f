"""A remote DICOMweb service as `Remote`: QIDO-RS, and series by WADO-RS straight into the archive's files.

References
----------
DICOM PS3.18 10.4 (Retrieve), 10.6 (Search).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import structlog
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, keyword_dict
from pydicom.dataset import Dataset
from pydicom.uid import UID
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.archive import Archive
from dicom_node.calling.pulling import no_room, require_all
from dicom_node.calling.remote import PullCounts, RemoteSeries, Tell
from dicom_node.holding.files import DurableFile
from dicom_node.holding.headers import read_header, text_of
from dicom_node.web.multipart import Event, PartBegan, PartData
from dicom_node.web.peer import WebPeer, answer_invalid, probe, retrieve_series, search_all
from domain.errors import RequestInvalid, UnreadableInstance

_log = structlog.get_logger(__name__)

# Levels below which a search can be put, by what its path names, from above.
_ABOVE = {"STUDY": (), "SERIES": ("StudyInstanceUID",), "IMAGE": ("StudyInstanceUID", "SeriesInstanceUID")}

_PATIENT = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex")
_STUDIES = "NumberOfPatientRelatedStudies"


@dataclass(frozen=True, slots=True)
class WebRemote:
    """A peer that speaks DICOMweb; see `dicom_node.calling.remote.Remote`."""

    peer: WebPeer

    @property
    def name(self) -> str:
        """Name from the settings."""
        return self.peer.name

    def echo(self) -> None:
        """Search for one study: DICOMweb has no echo."""
        probe(self.peer)

    def find(self, level: str, wanted: Sequence[str], matching: Mapping[str, str]) -> list[Dataset]:
        """Search, page by page; patients are those of the studies that match, for DICOMweb has no level of them."""
        if level == "PATIENT":
            keys = {"ModalitiesInStudy" if keyword == "Modality" else keyword: value for keyword, value in matching.items()}
            return _patients(self._search("STUDY", _PATIENT, keys), counted=not keys.keys() - set(_PATIENT))
        return self._search(level, wanted, matching)

    def fetch(
        self, series: RemoteSeries, archive: Archive, *, listed: Mapping[str, str], tell: Tell | None = None
    ) -> PullCounts:
        """Retrieve a series as the peer holds it, each part into a file of the archive while it comes."""
        arriving = _Arriving(self.peer, archive, series, expected=len(listed))
        with closing(retrieve_series(self.peer, series.study_uid, series.series_uid)) as events, closing(arriving):
            for event in events:
                if arriving.take(event) and tell is not None:
                    tell(arriving.counts)
        return require_all(self.name, arriving.counts)

    def _search(self, level: str, wanted: Sequence[str], matching: Mapping[str, str]) -> list[Dataset]:
        _require_keywords([*wanted, *matching])
        above: dict[str, str] = {}
        for keyword in _ABOVE[level]:
            if not UID(matching.get(keyword, ""), validation_mode=IGNORE).is_valid:
                break
            above[keyword] = matching[keyword]
        filters = {keyword: _as_parameter(keyword, value) for keyword, value in matching.items() if keyword not in above}
        found = search_all(
            self.peer,
            level,
            filters,
            study_uid=above.get("StudyInstanceUID", ""),
            series_uid=above.get("SeriesInstanceUID", ""),
            fields=wanted,
        )
        for ds in found:  # what the path names, an answer need not repeat
            for keyword, uid in above.items():
                if not text_of(ds, keyword):
                    setattr(ds, keyword, uid)
        return found


class _Arriving:
    """The parts of one WADO-RS answer on their way into the archive.

    As with C-GET, what cannot be read as DICOM is counted as failed and kept among the refused, and the rest is taken.
    """

    def __init__(self, peer: WebPeer, archive: Archive, series: RemoteSeries, *, expected: int) -> None:
        self._peer, self._archive, self._series, self._expected = peer, archive, series, expected
        self._file: DurableFile | None = None
        self._completed = self._failed = 0

    @property
    def counts(self) -> PullCounts:
        """What became of the parts until now."""
        remaining = max(0, self._expected - self._completed - self._failed) if self._expected else None
        return PullCounts(self._completed, self._failed, remaining=remaining)

    def take(self, event: Event) -> bool:
        """Take an event of the body; return whether it completed an instance."""
        try:
            if isinstance(event, PartBegan):
                self._file = self._archive.begin_landing()
            elif self._file is not None and isinstance(event, PartData):
                self._file.write(event.data)
            elif self._file is not None:
                self._land(self._file)
                self.close()
                return True
        except (SQLAlchemyError, OSError) as error:
            _log.error("archive or index cannot be written", action="pull", peer=self._peer.name, kind=type(error).__name__)
            raise no_room(self._peer.name) from error
        return False

    def close(self) -> None:
        """Remove a part that got no name."""
        if self._file is not None:
            self._file.discard()
            self._file = None

    def _land(self, file: DurableFile) -> None:
        try:
            self._require_of_series(file)
            self._archive.finish_landing(file, source=self._peer.name, origin=self._series.origin)
            self._completed += 1
        except UnreadableInstance as error:
            self._failed += 1
            _log.warning("an instance was not stored", action="pull", peer=self._peer.name, code=error.code)

    def _require_of_series(self, file: DurableFile) -> None:
        try:
            header = read_header(file.head, file.reader)
        except UnreadableInstance:
            return  # `finish_landing` says so again, after it has kept the bytes
        if (header.study_uid, header.series_uid) != (self._series.study_uid, self._series.series_uid):
            raise answer_invalid(self._peer, "WADO-RS", "an instance of another series than was asked for")


def _patients(studies: Iterable[Dataset], *, counted: bool) -> list[Dataset]:
    """Return one dataset a patient, as its first study describes it.

    Parameters
    ----------
    counted : bool
        Whether these are all studies of each patient, so that their number says something.
    """
    patients: dict[tuple[str, str], Dataset] = {}
    numbers: dict[tuple[str, str], int] = {}
    for study in studies:
        patient = text_of(study, "PatientID"), text_of(study, "IssuerOfPatientID")
        numbers[patient] = numbers.get(patient, 0) + 1
        if patient not in patients:
            patients[patient] = Dataset()
            for keyword in _PATIENT:
                if keyword in study:
                    patients[patient].add(study[keyword])
    if counted:
        for patient, ds in patients.items():
            setattr(ds, _STUDIES, numbers[patient])
    return list(patients.values())


def _as_parameter(keyword: str, value: str) -> str:
    """Return a matching value as QIDO-RS writes it: a list of UIDs with commas (PS3.18 8.3.4.1)."""
    return value.replace("\\", ",") if dictionary_VR(keyword) == "UI" else value


def _require_keywords(keywords: Iterable[str]) -> None:
    for keyword in keywords:
        if keyword not in keyword_dict:
            raise RequestInvalid(found=f"{keyword}, no keyword", allowed="keywords of PS3.6", action="correct the key")
