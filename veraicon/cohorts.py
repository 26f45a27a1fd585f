"""Cohorts: what a FHIR server exports in bulk, pulled into a folder that knows how far it got.

The folder holds patient data, for its owner alone: files of the server as they came, and ``cohort.json``, our manifest with the
digest of each. The manifest is replaced after each step, so a pull that was killed anywhere goes on with the same command.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from domain.errors import PeerAnswerInvalid, PeerUnreachable, RequestInvalid, StorageExhausted, VerificationFailed
from fhir_adapter.server.bulk_export import BulkClient, ExportRequest, Finished, require_instant
from fhir_adapter.server.bulk_files import Arrived, ExportFile, private_file

MANIFEST = "cohort.json"
VERSION = "veraicon-cohort/1"
_LOCK = ".lock"
# Who may be used cannot be told without these.
NEEDED_TYPES = ("Consent", "Patient")
_NEW_EXPORTS = 3
_LONGEST_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class CohortFile:
    """A file of the export and, once it is here, what arrived."""

    name: str
    of: ExportFile
    arrived: Arrived | None = None


@dataclass(frozen=True, slots=True)
class Cohort:
    """The state of a pull, as ``cohort.json`` holds it.

    Attributes
    ----------
    status_url : str
        Where the server says how far it is; empty before the kick-off.
    exports : int
        Kick-offs so far: a job that the server forgot was started again.
    transaction_time : str
        The server's time of the snapshot; empty until the export is finished there.
    released : bool or None
        Whether the server deleted its copy afterwards; None: not asked yet.
    """

    server: str
    request: ExportRequest
    status_url: str = field(default="", repr=False)
    exports: int = 0
    transaction_time: str = ""
    requires_token: bool = True
    files: tuple[CohortFile, ...] = ()
    released: bool | None = None

    @property
    def complete(self) -> bool:
        """Whether everything is here."""
        return bool(self.transaction_time) and all(one.arrived is not None for one in self.files)

    def bad_lines(self) -> list[str]:
        """Lines that are no such resource, as ``FILE line N``."""
        return [f"{one.name} line {number}" for one in self.files if one.arrived for number in one.arrived.bad_lines]


def pull(
    client: BulkClient,
    request: ExportRequest,
    folder: Path,
    *,
    say: Callable[[str], None] = lambda _words: None,
    sleep: Callable[[float], None] = time.sleep,
    patience_s: float = 24 * 3600.0,
) -> Cohort:
    """Pull an export into `folder`, going on with one that is there.

    Raises
    ------
    RequestInvalid
        If the folder holds another cohort or other files, is somebody else's, or is being filled at this moment.
    PeerUnreachable
        If the server is away, or is not done after `patience_s`; the same call goes on.
    PeerAnswerInvalid
        If the server forgets its exports again and again, or a file holds other lines than its manifest counts.
    StorageExhausted
        If the disk is full.
    """
    wanted = replace(request, types=tuple(sorted({*request.types, *NEEDED_TYPES})) if request.types else ())
    _require_ours(folder)
    try:
        with _alone(folder):
            cohort = _begun(folder, Cohort(client.base_url, wanted))
            while not cohort.complete:
                cohort = _step(client, cohort, folder, say, sleep, patience_s)
            if cohort.released is None:
                cohort = _kept(folder, replace(cohort, released=client.delete(cohort.status_url)))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageExhausted(
            found="a full disk while a cohort was pulled",
            allowed="room for the files of the export",
            action="make room, then run the same command again: it goes on where it stopped",
        ) from error
    return cohort


def read_cohort(folder: Path) -> Cohort:
    """Return the state in a folder.

    Raises
    ------
    RequestInvalid
        If it holds none that can be read.
    """
    try:
        value = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if value.pop("version") != VERSION:
            raise ValueError("another version")
        files = tuple(_file_of(one) for one in value.pop("files"))
        asked = value.pop("request")
        if value["transaction_time"]:
            require_instant(value["transaction_time"])
        return Cohort(**value, files=files, request=ExportRequest(**asked | {"types": tuple(asked["types"])}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestInvalid(
            found=f"a folder without a {MANIFEST} that can be read",
            allowed="a folder that `veraicon cohort pull` filled",
            action="name that folder, or pull the cohort again into a new one",
        ) from error


def require_unchanged(cohort: Cohort, folder: Path) -> None:
    """Check the digest of each file of a complete cohort.

    Raises
    ------
    VerificationFailed
        If a file is not here yet, is lost, or is not what arrived.
    """
    for one in cohort.files:
        path = folder / one.name
        if one.arrived is None or not path.is_file():
            found = f"{one.name}, which is not here"
        else:
            with path.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() == one.arrived.sha256:
                    continue
            found = f"{one.name}, which is not what the server sent"
        raise VerificationFailed(found=found, allowed="the files as they arrived", action="pull the cohort again")
    if not cohort.transaction_time:
        raise VerificationFailed(
            found="an export that is not finished", allowed="a complete cohort", action="run `veraicon cohort pull` again"
        )


def _require_ours(folder: Path) -> None:
    if not folder.exists() or (folder / MANIFEST).exists():
        return
    if any(one.name not in (f".{MANIFEST}", _LOCK) for one in folder.iterdir()):
        raise RequestInvalid(
            found="a folder that holds other files", allowed="a new or empty folder", action="name another folder"
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder against everybody else, and against a second pull, which would write to the same parts.

    The lock ends with the process that holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # it may have been there before
        lock = private_file(folder / _LOCK)
    except PermissionError as error:
        raise RequestInvalid(
            found="a folder that belongs to somebody else", allowed="a folder of your own", action="name another folder"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RequestInvalid(
                found="a folder that another pull is filling at this moment",
                allowed="one pull for each folder",
                action="wait until it is done, or name another folder",
            ) from error
        yield


def _begun(folder: Path, new: Cohort) -> Cohort:
    if not (folder / MANIFEST).exists():
        return new
    held = read_cohort(folder)
    if (held.server, held.request) != (new.server, new.request):
        raise RequestInvalid(
            found="a folder with the cohort of another server or request",
            allowed="the same server, group, types and time as before",
            action="name another folder, or repeat the request that was begun here",
        )
    return held


def _step(
    client: BulkClient,
    cohort: Cohort,
    folder: Path,
    say: Callable[[str], None],
    sleep: Callable[[float], None],
    patience_s: float,
) -> Cohort:
    """Do the next thing and keep what came of it."""
    if not cohort.status_url:
        if cohort.exports >= _NEW_EXPORTS:
            raise PeerAnswerInvalid(
                found=f"{cohort.exports} exports that the FHIR server forgot before they were fetched",
                allowed="an export that lives until it is fetched",
                action="lengthen the time that the server keeps exports, then pull into a new folder",
            )
        return _kept(folder, replace(cohort, status_url=client.kick_off(cohort.request), exports=cohort.exports + 1))
    if not cohort.transaction_time:
        finished = _await(client, cohort, say, sleep, patience_s)
        return _kept(folder, _with_files(cohort, finished) if finished else _anew(cohort, folder, say))
    return _fetch_next(client, cohort, folder, say)


def _await(
    client: BulkClient, cohort: Cohort, say: Callable[[str], None], sleep: Callable[[float], None], patience_s: float
) -> Finished | None:
    waited, wait_s = 0.0, 1.0
    while True:
        found = client.status(cohort.status_url)
        if found is None or isinstance(found, Finished):
            return found
        if waited >= patience_s:
            raise PeerUnreachable(
                found=f"an export that is not done after {waited:.0f} s",
                allowed=f"one that is done within {patience_s:.0f} s",
                action="run the same command again later: it goes on where it stopped",
            )
        say(f"the server is at work: {found.progress or 'no progress stated'}")
        pause = found.wait_s if found.wait_s is not None else wait_s
        sleep(pause)
        waited, wait_s = waited + pause, min(wait_s * 2, _LONGEST_WAIT_S)


def _with_files(cohort: Cohort, finished: Finished) -> Cohort:
    files = tuple(
        CohortFile(f"{one.resource_type if one.kind == 'output' else one.kind}.{number:04d}.ndjson", one)
        for number, one in enumerate(finished.files, start=1)
    )
    time_, token = finished.transaction_time, finished.requires_token
    return replace(cohort, transaction_time=time_, requires_token=token, files=files)


def _fetch_next(client: BulkClient, cohort: Cohort, folder: Path, say: Callable[[str], None]) -> Cohort:
    index = next(number for number, one in enumerate(cohort.files) if one.arrived is None)
    file = cohort.files[index]
    part = folder / f".{file.name}.part"
    arrived = client.download(file.of, part, with_token=cohort.requires_token)
    if arrived is None:
        return _kept(folder, _anew(cohort, folder, say))
    if file.of.count is not None and file.of.count != arrived.lines:
        raise PeerAnswerInvalid(
            found=f"{file.name} with {arrived.lines} lines, where the manifest counts {file.of.count}",
            allowed="as many lines as the manifest says",
            action="run the same command again: this file is fetched anew",
        )
    _flush(part)
    part.replace(folder / file.name)
    say(f"{file.name}: {arrived.lines} lines")
    done = (*cohort.files[:index], replace(file, arrived=arrived), *cohort.files[index + 1 :])
    return _kept(folder, replace(cohort, files=done))


def _anew(cohort: Cohort, folder: Path, say: Callable[[str], None]) -> Cohort:
    """Forget an export that the server forgot; what was fetched of it is of another moment than a new one's files."""
    say("the server no longer has this export: a new one is asked for")
    for file in cohort.files:
        (folder / file.name).unlink(missing_ok=True)
        (folder / f".{file.name}.part").unlink(missing_ok=True)
    return replace(cohort, status_url="", transaction_time="", files=())


def _kept(folder: Path, cohort: Cohort) -> Cohort:
    part = folder / f".{MANIFEST}"
    with private_file(part) as stream:
        stream.write(json.dumps({"version": VERSION} | asdict(cohort), indent=1).encode())
    _flush(part)
    part.replace(folder / MANIFEST)
    return cohort


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _file_of(value: dict[str, Any]) -> CohortFile:
    arrived = value["arrived"]
    came = None if arrived is None else Arrived(**arrived | {"bad_lines": tuple(arrived["bad_lines"])})
    name = str(value["name"])
    if Path(name).name != name:
        raise ValueError("a file name that leads elsewhere")
    return CohortFile(name, ExportFile(**value["of"]), came)
