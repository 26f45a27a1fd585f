"""What lies in a folder, or beside a file, that can be verified: instances, sidecars, FHIR resources, recall notices.

Nothing that is found is believed, and nothing that is broken stops the rest: it is reported as what it is.
"""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import re
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage

from domain.errors import RequestInvalid
from fhir_adapter.json_text import parse_json_once
from provenance.as_fhir import SIDECAR_TITLE
from provenance.attest import PROV_NAME, SIDECAR_NAME
from provenance.canonical import from_base64url
from provenance.checks.instance import InstanceFinding, Statements, examine, unreadable
from provenance.digests import resource_digest
from provenance.recall_as_fhir import NULLIFY
from provenance.recall_notice import NOTICE_SUFFIX

Json = Mapping[str, Any]

PROVENANCE_NAME = "provenance.json"
BUNDLE_NAME = "fhir-bundle.json"
_NAMED = (SIDECAR_NAME, PROVENANCE_NAME, BUNDLE_NAME, PROV_NAME)
# Larger JSON is no sidecar and no Provenance of ours, and is not read.
_MAX_JSON_BYTES = 64 * 2**20
# So many instances are worth the half second that further processes take to start.
_WORTH_PROCESSES = 400
_CHUNK = 25
# A data set in Explicit VR without the preamble of a file: it is read by some programs, and not by us.
_NO_PREAMBLE = re.compile(rb"[\x02\x08]\0.\0[A-Z]{2}", re.DOTALL)
# A deflated file may be inflated to so much, or to so many times its own size: what is more, nobody publishes.
_MAX_INFLATED_BYTES, _MAX_INFLATED_TIMES = 2**28, 20
_INFLATED_AT_A_TIME = 2**20
_META_START = 128 + 4 + 12  # preamble, DICM, and the element with the length of the file meta information (PS3.10 7.1)


@dataclass
class Found:
    """What was found, by kind.

    Attributes
    ----------
    broken : list of (Path, str)
        Files that should be something of ours and cannot be read, with the reason.
    superseding : list of mapping
        Provenance resources that take others back.
    bundles : list of list of mapping
        The resources of each Bundle.
    passed_over : list of Path
        Files that are nothing we know.
    """

    dicom: list[Path] = field(default_factory=list)
    broken: list[tuple[Path, str]] = field(default_factory=list)
    sidecars: list[Json] = field(default_factory=list)
    provenances: list[Json] = field(default_factory=list)
    superseding: list[Json] = field(default_factory=list)
    resources: list[Json] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    prov: list[str] = field(default_factory=list)
    bundles: list[list[Json]] = field(default_factory=list)
    passed_over: list[Path] = field(default_factory=list)

    def take_json(self, path: Path) -> None:
        """Sort in a JSON file; one that is nothing of ours is passed over."""
        try:
            content = read_small_json(path)
        except RequestInvalid as error:
            if path.name in _NAMED or _names_us(path):
                self.broken.append((path, error.found))
            else:
                self.passed_over.append(path)
            return
        if str(content.get("version", "")).startswith("veraicon-sidecar/") or ("jws" in content and "log" in content):
            self.sidecars.append(content)
        elif path.name == SIDECAR_NAME:
            self.broken.append((path, "no sidecar"))
        elif path.name == PROV_NAME:
            self._take_prov(path, content)
        resources = list(resources_of(content))
        if content.get("resourceType") == "Bundle":
            self._take_bundle(path, content, resources)
        elif not resources and content not in self.sidecars and path.name not in _NAMED:
            self.passed_over.append(path)
        for resource in resources:
            self._take_resource(resource)

    def _take_bundle(self, path: Path, content: Json, resources: list[dict[str, Any]]) -> None:
        self.bundles.append(list(resources))
        entries = content.get("entry")
        lost = len(entries) - len(resources) if isinstance(entries, list) else 0
        if lost and any(_is_provenance(one) for one in resources):
            self.broken.append((path, f"a Bundle with {lost} entries that hold no resource with a type and an id"))

    def _take_prov(self, path: Path, content: Json) -> None:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            self.broken.append((path, "PROV-JSON that is not in UTF-8"))
            return
        if isinstance(content.get("activity", {}), Mapping):
            self.prov.append(text)
        else:
            self.broken.append((path, "no PROV-JSON: its activities are no object"))

    def _take_resource(self, resource: Json) -> None:
        if not _is_provenance(resource):
            self.resources.append(resource)
        elif _is_superseding(resource):
            self.superseding.append(resource)
        elif not any(_same_content(resource, one) for one in self.provenances):
            self.provenances.append(resource)

    def prov_of(self, request: str) -> str | None:
        """Return the PROV document that says that it is about a request; None where there is none."""
        for text in self.prov:
            activities = json.loads(text).get("activity", {})
            if any(isinstance(one, dict) and one.get("vi:requestId") == request for one in activities.values()):
                return text
        return None

    def sidecars_in_resources(self) -> None:
        """Take the sidecar out of the attestation's DocumentReference where no file holds it."""
        if self.sidecars:
            return
        for resource in self.resources:
            content = sidecar_in(resource)
            if content is not None:
                self.sidecars.append(content)


def look_in(folder: Path) -> Found:
    """Return what lies in a folder and below it, and the named files beside it in the folder above."""
    found = Found()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        _take(found, path)
    _take_beside(found, folder.parent)
    found.sidecars_in_resources()
    return found


def look_beside(file: Path) -> Found:
    """Return a file and what lies beside it by name: in its folder and in the one above."""
    found = Found()
    _take(found, file, named=True)
    for folder in (file.parent, file.parent.parent):
        _take_beside(found, folder, but=file)
    found.sidecars_in_resources()
    return found


def _take(found: Found, path: Path, *, named: bool = False) -> None:
    with path.open("rb") as stream:
        head = stream.read(132)
    if head[128:] == b"DICM":
        found.dicom.append(path)
    elif path.name.endswith(NOTICE_SUFFIX):
        found.notices.append(path.read_text(encoding="ascii", errors="replace"))
    elif path.suffix.lower() == ".json" or (named and head.lstrip()[:1] == b"{"):
        found.take_json(path)
    elif named or path.suffix.lower() in {".dcm", ".dicom"} or _NO_PREAMBLE.match(head):
        found.broken.append((path, f"{os.path.getsize(path)} bytes that are no DICOM file (DICM at byte 128)"))
    else:
        found.passed_over.append(path)


def _take_beside(found: Found, folder: Path, but: Path | None = None) -> None:
    for name in _NAMED:
        if (folder / name).is_file() and folder / name != but:
            found.take_json(folder / name)
    for path in sorted(folder.glob(f"*{NOTICE_SUFFIX}")):
        found.notices.append(path.read_text(encoding="ascii", errors="replace"))


def read_small_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file.

    Raises
    ------
    RequestInvalid
        If it is too long, cannot be read, or holds no JSON object.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError("too long")
        content = parse_json_once(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RequestInvalid(
            found=f"{path.name}, which cannot be read as JSON", allowed="a JSON object", action="ask for the file again"
        ) from error
    if not isinstance(content, dict):
        raise RequestInvalid(found=f"{path.name}, which holds no JSON object", allowed="a JSON object", action="check the file")
    return content


def _names_us(path: Path) -> bool:
    """Whether a file that is no JSON was to be something of ours: cut off, or with a member that is named twice."""
    return path.stat().st_size <= _MAX_JSON_BYTES and b"veraicon" in path.read_bytes()


def resources_of(content: Json) -> Iterator[dict[str, Any]]:
    """Yield the resources of a Bundle, or the one that the content is; what has no type and id is none."""
    entries = content.get("entry") if content.get("resourceType") == "Bundle" else [{"resource": content}]
    for entry in entries if isinstance(entries, list) else []:
        resource = entry.get("resource") if isinstance(entry, Mapping) else None
        if isinstance(resource, dict) and _is_name(resource.get("resourceType")) and _is_name(resource.get("id")):
            yield resource


def _is_name(value: object) -> bool:
    """Whether it is a type or an id by FHIR's rules, in so far as one can be derived, compared and printed."""
    return isinstance(value, str) and value.isascii() and value.isprintable()


def _is_provenance(resource: Json) -> bool:
    return bool(resource["resourceType"] == "Provenance")


def _same_content(one: Json, other: Json) -> bool:
    """Whether two copies say the same, but for what a server writes into them by itself."""
    try:
        return one["id"] == other["id"] and resource_digest(one) == resource_digest(other)
    except (ValueError, TypeError, AttributeError):  # broken resources: each is reported for itself
        return one == other


def _is_superseding(resource: Json) -> bool:
    try:
        return NULLIFY["code"] in [coding["code"] for coding in resource["activity"]["coding"]]
    except (KeyError, TypeError):
        return False


def sidecar_in(resource: Json) -> dict[str, Any] | None:
    """Return the sidecar that an attestation's DocumentReference holds; None where it holds none."""
    try:
        held = [one["attachment"] for one in resource["content"] if one["attachment"].get("title") == SIDECAR_TITLE]
        content = parse_json_once(base64.b64decode(held[0]["data"])) if held else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return content if isinstance(content, dict) else None


def request_of(sidecar: Json) -> str:
    """Return the request that a sidecar says that it is about, not verified; empty where it says none."""
    try:
        request = str(json.loads(from_base64url(sidecar["jws"].split(".")[1]))["statement"]["requestId"])
        request.encode("utf-8")  # half a character names nothing
        return request
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError):
        return ""


def examine_files(
    paths: Sequence[Path], keys: Json, *, processes: int | None = None, tell: Callable[[int], None] = lambda _done: None
) -> list[InstanceFinding]:
    """Return what was found of each instance, in the order of the files; a DICOMDIR is no instance, and left out.

    Parameters
    ----------
    processes : int or None
        How many examine at a time; None: one for each core where that is worth it.
    tell : callable
        Called with the number of files that are done.
    """
    number = processes or (_cores() if len(paths) >= _WORTH_PROCESSES else 1)
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    found: dict[int, list[InstanceFinding | None]] = {}
    done = 0
    for place, findings in _examined(chunks, keys, number):
        found[place] = findings
        done += len(chunks[place])
        tell(done)
    texts: dict[str, str] = {}  # each statement once, whichever process read it
    return [
        replace(finding, jws=texts.setdefault(finding.jws, finding.jws))
        for place in range(len(chunks))
        for finding in found[place]
        if finding is not None
    ]


def _examined(chunks: Sequence[Sequence[Path]], keys: Json, number: int) -> Iterator[tuple[int, list[InstanceFinding | None]]]:
    """Yield place and findings of each chunk; this process begins at the end while the others start, and all of them meet."""
    statements = Statements(keys)
    if number == 1 or len(chunks) == 1:
        yield from ((place, [_examine(path, statements) for path in chunk]) for place, chunk in enumerate(chunks))
        return
    context = multiprocessing.get_context(_start_method())
    with ProcessPoolExecutor(number - 1, mp_context=context, initializer=_prepare, initargs=(json.dumps(dict(keys)),)) as pool:
        asked = [pool.submit(_examine_chunk, chunk) for chunk in chunks]
        left = len(chunks)
        while left and asked[left - 1].cancel():  # not begun by another process
            left -= 1
            yield left, [_examine(path, statements) for path in chunks[left]]
        yield from ((place, asked[place].result()) for place in range(left))


def _start_method() -> str:
    """Fork where that is safe: it takes no time, and a process with threads, or with torch, must not be forked."""
    alone = threading.active_count() == 1 and "torch" not in sys.modules
    return "fork" if alone and "fork" in multiprocessing.get_all_start_methods() else "spawn"


_prepared: list[Statements] = []  # of one process of the pool


def _prepare(keys: str) -> None:
    _prepared[:] = [Statements(json.loads(keys))]


def _examine_chunk(chunk: Sequence[Path]) -> list[InstanceFinding | None]:
    return [_examine(path, _prepared[0]) for path in chunk]


def _examine(path: Path, statements: Statements) -> InstanceFinding | None:
    try:
        _require_inflatable(path)
        ds: Dataset = dcmread(path)
        if ds.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
            return None
    except Exception as error:  # noqa: BLE001 (the stated edge: a hostile file may make the reader fail in any way)
        return unreadable(f"a file that cannot be read as DICOM: reading it ended in {type(error).__name__}")
    return examine(ds, statements)


def _require_inflatable(path: Path) -> None:
    """Inflate a deflated file once, and keep nothing: the reader would take all of it into memory at once."""
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    allowed = max(_MAX_INFLATED_BYTES, _MAX_INFLATED_TIMES * path.stat().st_size)
    inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with path.open("rb") as stream:
        stream.seek(_META_START + meta.FileMetaInformationGroupLength)
        while not inflater.eof and (rest := inflater.unconsumed_tail or stream.read(_INFLATED_AT_A_TIME)):
            size += len(inflater.decompress(rest, _INFLATED_AT_A_TIME))
            if size > allowed:
                raise ValueError("a deflated file that would become too large")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
