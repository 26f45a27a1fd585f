"""The archive: bytes as they came, safe on disk and in the index before anyone is told Success.

Order of a landing: free room, file (temporary, fsync, rename, fsync of the folder) while its header is read, commit of the
index row, answer. A kill at any point leaves either nothing, a file without a row (the sender was not told, and its repeat
adopts it), or everything.

A file is named by the digest of its bytes, never by a UID: a UID comes from outside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, tzinfo
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import structlog
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage
from sqlalchemy import Engine

from dicom_node.holding.entities import Entity
from dicom_node.holding.files import (
    DurableFile,
    digest_of,
    digest_of_file,
    make_folders,
    remove_leftovers,
    series_digest,
    write_durably,
)
from dicom_node.holding.headers import PARSE_ERRORS, InstanceHeader, read_header
from dicom_node.holding.index import Holding, Index, Landing
from dicom_node.holding.layout import Layout
from dicom_node.holding.rejecting import Rejection, heed, reject
from dicom_node.holding.sameness import same_instance
from dicom_node.holding.settling import COMPLETE_QUIET_S, Declared, Settling, quiet_needed_s
from dicom_node.reading import describe_series
from dicom_node.tables import InstanceRow
from domain.errors import UnreadableInstance, VeraiconError
from domain.identifiers import InstanceUid
from domain.series import ImagingSeries, InstanceReference

_log = structlog.get_logger(__name__)


MIN_FREE_BYTES = 512 * 2**20

# So many instances may wait for the disk at once.
DISK_THREADS = 16

# A temporary file this old belongs to no living writer.
_LEFTOVER_AGE_S = 3600.0


@dataclass(frozen=True, slots=True)
class LandedInstance:
    """What became of one instance.

    Attributes
    ----------
    reference : InstanceReference
        To the bytes that were handed in, also where they were kept aside; of a duplicate, to those that are held.
    landing : Landing
        New, duplicate or conflict.
    """

    reference: InstanceReference
    study_uid: str
    series_uid: str
    landing: Landing


@dataclass(frozen=True, slots=True)
class SettledSeries:
    """A received series that is quiet and whose set of instances nobody was told about yet.

    Attributes
    ----------
    series_digest : str
        ``sha256:`` over the sorted digests of its instances.
    source : str
        AE title that sent the last instance.
    """

    series_uid: str
    series_digest: str
    source: str
    instances: int


class Archive:
    """The embedded PACS.

    Parameters
    ----------
    engine : Engine
        Database of the index, see `dicom_node.holding.index.Index`.
    folder : Path
        Where the bytes lie: ``instances`` (held and conflicting), ``refused``, ``incoming`` (not whole yet).
    min_free_bytes : int
        Room that a landing must leave.
    patient_id_system, issuer_systems, default_timezone
        How series are described, see `dicom_node.reading.describe_series`.
    heeds : collection of str
        AE titles whose rejection notes are heeded (`dicom_node.holding.rejecting`), beside our own.
    clock : callable
        Seconds since the epoch.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        *,
        min_free_bytes: int = MIN_FREE_BYTES,
        patient_id_system: str = "",
        issuer_systems: Mapping[str, str] | None = None,
        default_timezone: tzinfo = UTC,
        heeds: Collection[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine, self._heeds = engine, heeds
        self._index = Index(engine)
        self._settling = Settling(engine)
        self.layout = Layout(folder)
        self._min_free_bytes = min_free_bytes
        self._patient_id_system = patient_id_system
        self._issuer_systems = dict(issuer_systems or {})
        self._default_timezone = default_timezone
        self._clock = clock
        self._disk = ThreadPoolExecutor(DISK_THREADS, thread_name_prefix="disk")
        # All at once, so that no landing has to wait for a folder.
        make_folders(folder, Layout.names())
        remove_leftovers(folder, before_s=time.time() - _LEFTOVER_AGE_S)

    def close(self) -> None:
        """Wait for what is on its way to the disk."""
        self._disk.shutdown()

    def land(self, data: bytes, *, source: str, origin: str = "received") -> LandedInstance:
        """Keep one Part 10 file for good and index it; return only when both are durable.

        Parameters
        ----------
        data : bytes
            A Part 10 file, kept byte for byte.
        source : str
            AE title of the sender.
        origin : {"received", "pulled", "generated"}
            Only a received series is announced: neither a prior that we fetched (until it is pushed, or declared complete) nor
            one that we published ourselves.

        Raises
        ------
        StorageExhausted
            If too little room would be left: nothing was kept.
        UnreadableInstance
            If the bytes cannot be filed: they are kept in ``refused``.
        """
        file = self.begin_landing()
        try:
            file.write(data)
            return self.finish_landing(file, source=source, origin=origin)
        finally:
            file.discard()

    def begin_landing(self) -> DurableFile:
        """Return a file that takes the bytes of a Part 10 file as they come; whoever began it discards it at the end.

        Raises
        ------
        StorageExhausted
            If too little room is left.
        """
        return DurableFile(self.layout.incoming, min_free_bytes=self._min_free_bytes)

    def finish_landing(self, file: DurableFile, *, source: str, origin: str = "received") -> LandedInstance:
        """Keep a written file for good and index it; see `land`."""
        digest = file.digest
        path = self.layout.instance(digest)
        # Syncing waits for the disk, reading and filing for the processor: both at once. The index commits after the sync.
        kept = self._disk.submit(file.keep_as, path)
        try:
            header = read_header(file.head, lambda: _opened_after(kept, path))
            landing, held_digest = self._index.file(
                header,
                digest=digest,
                size_bytes=file.size_bytes,
                source=source,
                origin=origin,
                now_s=self._clock(),
                bytes_safe=kept.result,
                is_same=lambda held: self._holds_same(held, path),
            )
        except UnreadableInstance as error:
            kept.result()
            self.refuse_landing(file, error, source=source)
            raise
        finally:
            wait([kept])  # whoever began the landing discards the file next
        if landing is Landing.CONFLICT:
            _log.warning(
                "other bytes came under a held UID and were kept aside", digest=digest, held=held_digest, source=source
            )
        elif held_digest != digest and not self._index.knows_bytes(digest):
            path.unlink(missing_ok=True)  # the held instance, told by another service or in another transfer syntax
        reference = _reference(header, held_digest if landing is Landing.DUPLICATE else digest)
        if header.sop_class_uid == KeyObjectSelectionDocumentStorage and landing is not Landing.CONFLICT:
            heeded = origin == "generated" or source in self._heeds
            heed(self._engine, self._read(reference, pixels=False), heeded=heeded, source=source, now_s=self._clock())
        return LandedInstance(reference, header.study_uid, header.series_uid, landing)

    def reject(self, rejection: Rejection, *, source: str) -> None:
        """Withdraw instances, held here or not: they are neither found nor handed out any more, and their bytes stay."""
        reject(self._engine, rejection, source=source, now_s=self._clock())

    def _holds_same(self, held_digest: str, path: Path) -> bool:
        """Whether new bytes hold the same instance as held ones; damaged ones hold nothing."""
        try:
            held = self.layout.instance(held_digest).read_bytes()
        except FileNotFoundError:
            return False
        return digest_of(held) == held_digest and same_instance(held, path.read_bytes())

    def refuse_landing(self, file: DurableFile, error: VeraiconError, *, source: str) -> None:
        """Keep bytes that cannot be filed, with the reason; nothing that reached us is lost."""
        filed = self.layout.instance(file.digest)
        refused = self.layout.refused(file.digest)
        if filed.exists():  # it got its name before it was refused
            write_durably(refused.parent, refused.name, filed.read_bytes())
            if not self._index.knows_bytes(file.digest):
                filed.unlink()
        else:
            file.keep_as(refused)
        self._index.note_refused(digest=file.digest, code=error.code, found=error.found, source=source, now_s=self._clock())
        _log.warning("bytes were refused and kept", digest=file.digest, code=error.code, source=source)

    def series(self, series_uid: str) -> ImagingSeries:
        """Return what a held series says of itself.

        Raises
        ------
        UnreadableInstance
            If no such series is held, or its bytes are not those that were received.
        """
        rows = self._index.instances({"SeriesInstanceUID": [series_uid]})
        if not rows and self._index.instances({"SeriesInstanceUID": [series_uid]}, rejected=True):
            raise UnreadableInstance(
                found="a series that a rejection note has withdrawn",
                allowed="a series that is not rejected",
                action="see which note: veraicon archive rejected; choose another series",
            )
        if not rows:
            raise UnreadableInstance(
                found="no instance of the named series in the archive",
                allowed="a series that was received or published here",
                action="send the series, or check its UID",
            )
        references = [_reference_of(row) for row in rows]
        return describe_series(
            [self._read(reference, pixels=False) for reference in references],
            references,
            patient_id_system=self._patient_id_system,
            issuer_systems=self._issuer_systems,
            default_timezone=self._default_timezone,
        )

    def datasets(self, series: ImagingSeries) -> list[Dataset]:
        """Return the instances of a series with Pixel Data, each checked against its digest.

        Raises
        ------
        UnreadableInstance
            If bytes are missing or are not those that were received.
        """
        return [self._read(reference, pixels=True) for reference in series.instances]

    def instance_path(self, reference: InstanceReference) -> Path:
        """Return where the bytes of an instance lie.

        Raises
        ------
        UnreadableInstance
            If they do not lie there.
        """
        path = self.layout.instance(reference.digest)
        if not path.is_file():
            raise UnreadableInstance(
                found="no bytes under the instance's digest",
                allowed="a file in the archive for each row of its index",
                action="restore the archive's folder from its backup, or send the series again",
            )
        return path

    def checked_file(self, reference: InstanceReference) -> BufferedReader:
        """Open the bytes of an instance, to be read from their start, once they have passed their digest.

        Raises
        ------
        UnreadableInstance
            If they do not lie there, or are not those that were received.
        """
        file = self.instance_path(reference).open("rb")
        try:
            if digest_of_file(file) != reference.digest:
                raise _damaged()
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def series_digest(self, series_uid: str) -> str:
        """Return the digest over a series as it is held now; over nothing where it is not held."""
        return series_digest(row.digest for row in self._index.instances({"SeriesInstanceUID": [series_uid]}))

    def unannounced(self, quiet_s: float) -> list[SettledSeries]:
        """Return received series that changed since their announcement and look complete.

        A series that states its number of instances settles one second after the last of them (or `quiet_s` if that is
        shorter); with fewer it waits six times `quiet_s`, and then is returned all the same, since a person has to hear of
        it: reading refuses it where slices are missing. A series that states none, or has more, settles after `quiet_s`.
        One whose modality has listed its instances (MPPS) settles as soon as all of these are held, and one that somebody
        has declared complete settles at once.
        """
        now_s = self._clock()
        known = self._settling.expectations()
        candidates = self._index.pending(landed_before_s=now_s - min(quiet_s, COMPLETE_QUIET_S), also=known)
        return [
            SettledSeries(found.series_uid, series_digest(found.digests), found.source, len(found.digests))
            for found in candidates
            if now_s - found.last_landed_s >= quiet_needed_s(found, known.get(found.series_uid), quiet_s)
        ]

    def declare_complete(self, series_uid: str, *, asked_by: str) -> Declared:
        """Note that a held series is complete as it stands now, see `dicom_node.holding.settling.Settling.declare_complete`."""
        return self._settling.declare_complete(series_uid, asked_by=asked_by)

    def announce(self, series_uid: str, series_digest: str) -> bool:
        """Note that a series in this state was handed on; return False where it has changed meanwhile and stays unannounced."""
        return self._index.announced(series_uid, series_digest)

    def arrival(self, series_uid: str) -> tuple[bool, float]:
        """Return whether instances of a held series may still come (it has not settled), and s since the last one came."""
        pending, landed_s = self._index.arrival(series_uid)
        return pending, self._clock() - landed_s

    def find(self, level: str, narrowing: Mapping[str, Sequence[str]], *, counted: bool = True) -> list[Entity]:
        """Return entities of a query level, narrowed by exact values, see `dicom_node.holding.index.Index.entities`."""
        return self._index.entities(level, narrowing, counted=counted)

    def search(self, level: str, narrowing: Mapping[str, Sequence[str]], *, counted: bool = True) -> Iterator[Entity]:
        """Return what `find` does, instances as they are read, so that they need not fit into memory."""
        return self._index.images(narrowing) if level == "IMAGE" else iter(self.find(level, narrowing, counted=counted))

    def holdings(self, narrowing: Mapping[str, Sequence[str]]) -> list[Holding]:
        """Return held instances as they can be sent, narrowed by exact values."""
        return self._index.holdings(narrowing)

    def references(self, narrowing: Mapping[str, Sequence[str]], *, rejected: bool = False) -> list[InstanceReference]:
        """Return held instances whose attributes have one of the named values each, with `rejected` the withdrawn ones too."""
        return [_reference_of(row) for row in self._index.instances(narrowing, rejected=rejected)]

    def read(self, reference: InstanceReference) -> Dataset:
        """Return one instance, checked against its digest."""
        return self._read(reference, pixels=True)

    def _read(self, reference: InstanceReference, *, pixels: bool) -> Dataset:
        with self.checked_file(reference) as file:
            try:
                return dcmread(file, stop_before_pixels=not pixels)
            except PARSE_ERRORS as error:
                raise _damaged() from error


def _damaged() -> UnreadableInstance:
    return UnreadableInstance(
        found="bytes in the archive that are not those that were received",
        allowed="the bytes that the digest in the index was made from",
        action="restore the file from a backup, or send the series again",
    )


def _opened_after(kept: Future[None], path: Path) -> BinaryIO:
    kept.result()
    return path.open("rb")


def _reference(header: InstanceHeader, digest: str) -> InstanceReference:
    return InstanceReference(header.sop_class_uid, InstanceUid(header.sop_instance_uid), digest)


def _reference_of(row: InstanceRow) -> InstanceReference:
    return InstanceReference(row.sop_class_uid, InstanceUid(row.sop_instance_uid), row.digest)
