"""Files of a bulk export.

Every line is parsed while it is written, so a file that arrived is known to be readable, or its bad lines are known by number.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import httpx

from domain.errors import RequestInvalid
from fhir_adapter.json_text import parse_json
from fhir_adapter.search import split_reference
from fhir_adapter.server.answers import invalid
from fhir_adapter.server.bodies import body_parts

_LONGEST_LINE = 64 * 1024 * 1024
# A file may take hours; after a minute it has to come at this many bytes a second.
_FIRST_S, _SLOWEST = 60.0, 1024


@dataclass(frozen=True, slots=True)
class ExportFile:
    """One file of a finished export; `kind` is ``output``, ``error`` or ``deleted``."""

    kind: str
    resource_type: str
    url: str = field(repr=False)
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Arrived:
    """A file on disk: size in bytes, lines, SHA-256 in hex, and the numbers of lines that are no such resource."""

    size: int
    lines: int
    sha256: str
    bad_lines: tuple[int, ...]


def write_file(response: httpx.Response, path: Path, file: ExportFile, monotonic: Callable[[], float]) -> Arrived:
    """Write a file of a bulk export as it comes, and look at each line.

    Raises
    ------
    httpx.ReadTimeout
        If it comes at less than 1 KiB/s.
    PeerAnswerInvalid
        If a line is too long, or the body is not packed as its header says.
    """
    digest, size, lines, bad, rest = hashlib.sha256(), 0, 0, list[int](), bytearray()
    begun_s = monotonic()

    def take(line: bytes) -> None:
        nonlocal lines
        lines += 1
        if line.strip() and not _is_resource(line, file):
            bad.append(lines)

    with private_file(path) as stream:
        for part in body_parts(response, invalid):
            stream.write(part)
            digest.update(part)
            size += len(part)
            if (took_s := monotonic() - begun_s) > _FIRST_S and size < took_s * _SLOWEST:
                raise httpx.ReadTimeout("a file that drips", request=response.request)
            rest += part
            if b"\n" in part:
                *whole, tail = rest.split(b"\n")
                for line in whole:
                    take(bytes(line))
                rest = bytearray(tail)
            if len(rest) > _LONGEST_LINE:
                raise invalid(f"a line of more than {_LONGEST_LINE} bytes in a bulk file", "one resource in a line")
        if rest.strip():
            take(bytes(rest))
    return Arrived(size, lines, digest.hexdigest(), tuple(bad))


def private_file(path: Path) -> BinaryIO:
    """Open a file of patient data to be written: nobody but its owner can read it, from its first byte on."""
    stream = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
    os.fchmod(stream.fileno(), 0o600)  # it may be there from before
    return stream


def _is_resource(line: bytes, file: ExportFile) -> bool:
    """Tell whether a line is a resource of the file's type; an output without an id would be taken for every other one."""
    try:
        value = parse_json(line)
        if not isinstance(value, dict) or value.get("resourceType") != file.resource_type:
            return False
        if file.kind == "output":
            split_reference(f"{file.resource_type}/{value.get('id', '')}")
    except (ValueError, RequestInvalid):
        return False
    return isinstance(value.get("id", ""), str)
