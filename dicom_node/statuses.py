"""DIMSE statuses by name, each with the clause that defines it, and the one way from an error of ours to a status."""

from __future__ import annotations

from enum import IntEnum

from pydicom.dataset import Dataset

from domain.errors import VeraiconError

# PS3.7 C.4.2: Error Comment (0000,0902) is an LO.
_MAX_COMMENT = 64


class Status(IntEnum):
    """Statuses that this node answers or tells apart.

    References
    ----------
    DICOM PS3.7 Annex C; PS3.4 Table B.2-1 (Storage), Table C.4-1 (Find), Table C.4-3 (Get).
    """

    SUCCESS = 0x0000
    PENDING = 0xFF00
    CANCEL = 0xFE00
    OUT_OF_RESOURCES = 0xA700
    UNABLE_TO_CALCULATE_MATCHES = 0xA701
    UNABLE_TO_PERFORM_SUBOPERATIONS = 0xA702
    IDENTIFIER_DOES_NOT_MATCH = 0xA900
    SUBOPERATIONS_WITH_FAILURES = 0xB000
    CANNOT_UNDERSTAND = 0xC000
    UNABLE_TO_PROCESS = 0xC001


# PS3.4 Table B.2-1: the SCP stored the instance, and says that something about it was not as it should be.
STORE_WARNINGS = frozenset({0xB000, 0xB006, 0xB007})

_WORDS = {
    0x0000: "success",
    0x0110: "processing failure (PS3.7 C.5.11)",
    0x0111: "duplicate SOP instance (PS3.7 C.5.5)",
    0x0117: "invalid SOP instance (PS3.7 C.5.6)",
    0x0122: "SOP class not supported (PS3.7 C.5.9)",
    0x0124: "not authorised (PS3.7 C.5.26)",
    0xA700: "refused: out of resources (PS3.4 B.2.3)",
    0xA900: "data set does not match SOP class (PS3.4 B.2.3)",
}


def in_words(status: int) -> str:
    """Return a status as a person reads it.

    Examples
    --------
    >>> in_words(0xA700)
    '0xA700 refused: out of resources (PS3.4 B.2.3)'
    >>> in_words(0xC123)
    '0xC123 cannot understand or process (PS3.4 B.2.3)'
    """
    if status in _WORDS:
        return f"0x{status:04X} {_WORDS[status]}"
    if 0xA700 <= status <= 0xA7FF:
        return f"0x{status:04X} {_WORDS[0xA700]}"
    if 0xA900 <= status <= 0xA9FF:
        return f"0x{status:04X} {_WORDS[0xA900]}"
    if 0xC000 <= status <= 0xCFFF:
        return f"0x{status:04X} cannot understand or process (PS3.4 B.2.3)"
    return f"0x{status:04X}"


def status_of(error: VeraiconError) -> Dataset:
    """Return the response status of an error: its code point, and its code and kind as Error Comment.

    The comment never repeats what was found, since that may stem from the dataset.

    References
    ----------
    DICOM PS3.7 C.4.2: Error Comment.
    """
    answer = Dataset()
    answer.Status = error.dimse_status
    answer.ErrorComment = f"{error.code} {type(error).__name__}: {error.action}"[:_MAX_COMMENT]
    return answer
