"""The signed list of an exported folder's files: whoever gets the folder can tell that nothing was changed, added or lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from domain.errors import VerificationFailed
from provenance.canonical import instant, require_digest
from provenance.signatures.keyring import require_valid_at
from provenance.signing import EXPORT_KIND, SigningKey, key_id_of, verify_detached

LIST_VERSION = "veraicon-export/1"
_NAMES = {"version", "dataset", "exportedAt", "files"}


@dataclass(frozen=True, slots=True)
class ExportList:
    """Files of one export.

    Attributes
    ----------
    dataset : str
        Identity of the data set version.
    exported_at : datetime
        Aware.
    files : mapping
        ``sha256:`` digest by name, relative to the folder; the list itself is not among them.
    """

    dataset: str
    exported_at: datetime
    files: Mapping[str, str]


def sign_export(listed: ExportList, key: SigningKey) -> dict[str, Any]:
    """Return the content of the list's file: the list for people to read, and a detached JWS over it.

    Raises
    ------
    AttestationError
        If a digest has another form, or the time has no zone.
    """
    content = {
        "version": LIST_VERSION,
        "dataset": require_digest(listed.dataset),
        "exportedAt": instant(listed.exported_at),
        "files": {name: require_digest(digest) for name, digest in listed.files.items()},
    }
    return {"list": content, "signature": key.sign_detached(content, kind=EXPORT_KIND)}


def read_export(content: object, keys: Mapping[str, Any]) -> ExportList:
    """Return a list, if a key that was valid at its time signed it.

    Raises
    ------
    VerificationFailed
        If it is no such list, or its signature or key does not hold.
    """
    if not isinstance(content, Mapping) or set(content) != {"list", "signature"} or not isinstance(content["list"], Mapping):
        raise _untrue("no signed list of files")
    listed, signature = content["list"], content["signature"]
    verify_detached(signature, listed, keys, kind=EXPORT_KIND)
    try:
        if set(listed) != _NAMES or listed["version"] != LIST_VERSION:
            raise ValueError("version")
        read = ExportList(str(listed["dataset"]), datetime.fromisoformat(listed["exportedAt"]), dict(listed["files"]))
    except (TypeError, ValueError) as error:
        raise _untrue("a list of files of another form") from error
    require_valid_at(key_id_of(signature), keys, read.exported_at)
    return read


def _untrue(found: str) -> VerificationFailed:
    return VerificationFailed(found=found, allowed=f"a {LIST_VERSION} list", action="ask for the export as it was made")
