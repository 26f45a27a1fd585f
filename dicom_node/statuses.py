"""DIMSE statuses by name, each with the clause that defines it, and the one way from an error of ours to a status."""

from __future__ import annotations

import textwrap
from enum import IntEnum

from pydicom.dataset import Dataset

from domain.errors import VeraiconError

# PS3.7 C.4.2: Error Comment (0000,0902) is an LO.
_MAX_COMMENT = 64


class Status(IntEnum):
    """Statuses that this node answers or tells apart.

    References
    ----------
    DICOM PS3.7 Annex C; PS3.4 Table B.2-1 (Storage), Tables C.4-1 (Find), C.4-2 (Move), C.4-3 (Get).
    """

    SUCCESS = 0x0000
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    PENDING = 0xFF00
    PENDING_WITHOUT_OPTIONAL_KEYS = 0xFF01
    CANCEL = 0xFE00
    OUT_OF_RESOURCES = 0xA700
    UNABLE_TO_CALCULATE_MATCHES = 0xA701
    UNABLE_TO_PERFORM_SUBOPERATIONS = 0xA702
    MOVE_DESTINATION_UNKNOWN = 0xA801
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
    0x0112: "no such SOP instance (PS3.7 C.5)",
    0x0117: "invalid SOP instance (PS3.7 C.5.6)",
    0x0118: "no such SOP class (PS3.7 C.5)",
    0x0119: "class and instance conflict (PS3.7 C.5)",
    0x0122: "SOP class not supported (PS3.7 C.5.9)",
    0x0123: "no such action (PS3.7 C.5)",
    0x0124: "not authorised (PS3.7 C.5.26)",
    0x0131: "duplicate transaction UID (PS3.3 C.14.1.1)",
    0x0211: "unrecognised operation (PS3.7 C.5)",
    0x0213: "resource limitation (PS3.7 C.5)",
    0xA700: "refused: out of resources (PS3.4 B.2.3)",
    0xA701: "refused: unable to calculate the number of matches (PS3.4 C.4.2.1.5)",
    0xA702: "refused: unable to perform sub-operations (PS3.4 C.4.2.1.5)",
    0xA801: "refused: move destination unknown (PS3.4 C.4.2.1.5)",
    0xFE00: "cancelled (PS3.4 C.4.2.1.5)",
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
    answer.ErrorComment = comment_of(f"{error.code} {type(error).__name__}: {error.action}")
    return answer


def comment_of(text: str) -> str:
    """Return a text as an Error Comment: whole words, as many as fit.

    Examples
    --------
    >>> comment_of("VI-2001 UnreadableInstance: mend the sender, then send the instance again")
    'VI-2001 UnreadableInstance: mend the sender, then send the ...'
    """
    return textwrap.shorten(text, width=_MAX_COMMENT, placeholder=" ...")


class NormalizedStatus(IntEnum):
    """Statuses that this node answers to N-ACTION, N-EVENT-REPORT, N-CREATE and N-SET.

    References
    ----------
    DICOM PS3.7 Annex C.5.
    """

    SUCCESS = 0x0000
    INVALID_ATTRIBUTE_VALUE = 0x0106
    PROCESSING_FAILURE = 0x0110
    DUPLICATE_SOP_INSTANCE = 0x0111
    NO_SUCH_SOP_INSTANCE = 0x0112
    NO_SUCH_EVENT_TYPE = 0x0113
    INVALID_ARGUMENT_VALUE = 0x0115
    INVALID_SOP_INSTANCE = 0x0117
    MISSING_ATTRIBUTE = 0x0120
    MISSING_ATTRIBUTE_VALUE = 0x0121
    NO_SUCH_ACTION = 0x0123
    RESOURCE_LIMITATION = 0x0213
