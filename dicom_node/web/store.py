"""STOW-RS: a multipart body landed in the archive instance by instance, and the answer that says what became of each.

References
----------
DICOM PS3.18 10.5 (Store Transaction), Table 10.5.3-1 (status codes), Annex I (Store Instances Response Module).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from pydicom.dataset import Dataset
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.archive import Archive
from dicom_node.holding.files import DurableFile
from dicom_node.holding.headers import read_header
from dicom_node.holding.index import Landing
from dicom_node.statuses import Status
from dicom_node.web.media_types import DICOM, parse_media_type
from dicom_node.web.multipart import MultipartReader, PartBegan, PartEnded
from dicom_node.web.query import resource_path
from domain.errors import BodyTooLarge, RequestInvalid, UnreadableInstance, VeraiconError

_log = structlog.get_logger(__name__)

# As the calling AE title is for C-STORE.
SOURCE = "DICOMWEB"

# PS3.7 C.5.5 and PS3.18 Table I.2-2.
DUPLICATE_INSTANCE = 0x0111
DATA_SET_MISMATCH = 0xA900

MAXIMUM_PARTS = 50_000

_PLAIN_ENCODINGS = frozenset({"binary", "8bit", "7bit"})


@dataclass(frozen=True, slots=True)
class StoredName:
    """The UIDs of an instance that came."""

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one part.

    Attributes
    ----------
    name : StoredName or None
        None where the part could not be understood.
    failure : int or None
        Failure Reason (0008,1197); None where the instance is safe.
    """

    name: StoredName | None
    failure: int | None = None


class StoreSession:
    """Takes one STOW-RS body piece by piece, straight into files; what it counts as stored is durable.

    Parameters
    ----------
    archive : Archive
    boundary : str
        From the Content-Type.
    max_instance_bytes : int
        Longest part.
    study_uid : str
        From the path; instances of another study are refused. Empty: any study.

    Raises
    ------
    RequestInvalid
        From `take` and `end`, if the body breaks the grammar of multipart; parts before that stay stored.
    BodyTooLarge
        From `take`, if a limit is passed.
    """

    def __init__(self, archive: Archive, boundary: str, *, max_instance_bytes: int, study_uid: str = "") -> None:
        self._archive, self._study_uid = archive, study_uid
        self._reader = MultipartReader(boundary, max_part_bytes=max_instance_bytes, max_parts=MAXIMUM_PARTS)
        self._file: DurableFile | None = None
        self._name: StoredName | None = None
        self._failure: int | None = None
        self.outcomes: list[Outcome] = []

    def take(self, piece: bytes) -> None:
        """Take the next piece of the body, and land each instance that it completes."""
        for event in self._reader.feed(piece):
            if isinstance(event, PartEnded):
                self._attempt(self._land)
                self.outcomes.append(Outcome(self._name, self._failure))
                self._name = self._failure = None
                self.close()
            elif isinstance(event, PartBegan):
                self._attempt(partial(self._begin, event))
            else:
                self._attempt(partial(self._write, event.data))

    def end(self) -> None:
        """Make sure that the body was whole."""
        self._reader.finish()

    def close(self) -> None:
        """Remove a part that did not end."""
        if self._file is not None:
            self._file.discard()
            self._file = None

    def _begin(self, event: PartBegan) -> None:
        media_type = parse_media_type(event.headers.get("content-type", DICOM))
        encoding = event.headers.get("content-transfer-encoding", "binary").lower()
        if media_type is None or media_type.name != DICOM or encoding not in _PLAIN_ENCODINGS:
            self._failure = int(Status.CANNOT_UNDERSTAND)
            return
        self._file = self._archive.begin_landing()

    def _write(self, data: bytes) -> None:
        if self._file is not None:
            self._file.write(data)

    def _land(self) -> None:
        file = self._file
        if file is None:
            return
        with suppress(UnreadableInstance):  # `finish_landing` raises it again, after it has kept the bytes
            header = read_header(file.head)
            self._name = StoredName(header.sop_class_uid, header.sop_instance_uid, header.study_uid, header.series_uid)
        if self._name is not None and self._study_uid not in ("", self._name.study_uid):
            self._failure = DATA_SET_MISMATCH
            return
        landed = self._archive.finish_landing(file, source=SOURCE)
        reference = landed.reference
        self._name = StoredName(reference.sop_class_uid, reference.sop_instance_uid, landed.study_uid, landed.series_uid)
        if landed.landing is Landing.CONFLICT:
            self._failure = DUPLICATE_INSTANCE
        elif self._study_uid not in ("", landed.study_uid):
            self._failure = DATA_SET_MISMATCH  # told by a header too long to be read before

    def _attempt(self, action: Callable[[], None]) -> None:
        """Do one thing for the current part; after a failure the rest of the part is let go, and the next one is tried."""
        if self._failure is not None:
            return
        try:
            action()
        except VeraiconError as error:
            _log.warning("an instance was not stored", action="stow", code=error.code)
            self._failure = error.dimse_status
        except (SQLAlchemyError, OSError) as error:
            _log.error("archive or index cannot be written", action="stow", kind=type(error).__name__)
            self._failure = int(Status.OUT_OF_RESOURCES)


def with_failure(outcomes: Sequence[Outcome], error: VeraiconError) -> list[Outcome]:
    """Return the outcomes of a body whose rest could not be taken; raise the error where nothing came before it."""
    if not outcomes:
        raise error
    broken = isinstance(error, RequestInvalid) and not isinstance(error, BodyTooLarge)
    return [*outcomes, Outcome(None, int(Status.CANNOT_UNDERSTAND if broken else Status.OUT_OF_RESOURCES))]


def http_status(outcomes: Sequence[Outcome]) -> int:
    """Return the status of the answer.

    References
    ----------
    DICOM PS3.18 Table 10.5.3-1: 200 all stored, 202 some, 409 none, 503 none for want of room.
    """
    failures = [outcome.failure for outcome in outcomes if outcome.failure is not None]
    if not failures:
        return 200
    if len(failures) < len(outcomes):
        return 202
    return 503 if set(failures) == {int(Status.OUT_OF_RESOURCES)} else 409


def store_response(outcomes: Sequence[Outcome], service_url: str) -> dict[str, Any]:
    """Return the Store Instances Response Module in the DICOM JSON model."""
    stored = [outcome.name for outcome in outcomes if outcome.name and outcome.failure is None]
    refused = [outcome for outcome in outcomes if outcome.failure is not None]
    studies = {name.study_uid for name in stored}
    ds = Dataset()
    ds.RetrieveURL = service_url + resource_path({"StudyInstanceUID": studies.pop()}) if len(studies) == 1 else None
    sequences = {
        "ReferencedSOPSequence": [_stored(name, service_url) for name in stored],
        "FailedSOPSequence": [_refused(outcome) for outcome in refused if outcome.name],
        "OtherFailuresSequence": [_refused(outcome) for outcome in refused if not outcome.name],
    }
    for keyword, items in sequences.items():
        if items:
            setattr(ds, keyword, items)
    return dict(sorted(ds.to_json_dict().items()))


def _stored(name: StoredName, service_url: str) -> Dataset:
    item = _referenced(name)
    names = {"StudyInstanceUID": name.study_uid, "SeriesInstanceUID": name.series_uid, "SOPInstanceUID": name.sop_instance_uid}
    item.RetrieveURL = service_url + resource_path(names)
    return item


def _refused(outcome: Outcome) -> Dataset:
    item = _referenced(outcome.name) if outcome.name else Dataset()
    item.FailureReason = outcome.failure
    return item


def _referenced(name: StoredName) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = name.sop_class_uid, name.sop_instance_uid
    return item
