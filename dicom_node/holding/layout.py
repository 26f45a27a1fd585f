"""Where the archive's bytes lie. A file is named by the digest of its bytes, never by a UID: a UID comes from outside. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from domain.errors import UnreadableInstance

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders below the archive's own."""

    folder: Path

    @property
    def incoming(self) -> Path:
        """Files that are not whole yet."""
        return self.folder / "incoming"

    def instance(self, digest: str) -> Path:
        """Return where held bytes lie, and those that were kept aside.

        Raises
        ------
        UnreadableInstance
            If the text is no digest.
        """
        name = _name(digest)
        return self.folder / "instances" / name[:2] / f"{name}.dcm"

    def refused(self, digest: str) -> Path:
        """Return where bytes lie that could not be filed."""
        return self.folder / "refused" / f"{_name(digest)}.dcm"

    @staticmethod
    def names() -> list[str]:
        """Return all folders, relative to the archive's own."""
        return ["incoming", "refused", *(f"instances/{number:02x}" for number in range(256))]


def _name(digest: str) -> str:
    found = _DIGEST.fullmatch(digest)
    if found is None:
        raise UnreadableInstance(
            found="a text that is no digest",
            allowed="sha256: and 64 hexadecimal digits",
            action="use the archive's own references",
        )
    return found[1]
