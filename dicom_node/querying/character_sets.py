"""In which character set an answer is written: the one that its reader uses, where it can hold the answer.

References
----------
DICOM PS3.3 C.12.1.1.2 (Specific Character Set); PS3.5 6.1.2; PS3.4 C.4.1.1.3.2.
"""

from __future__ import annotations

from functools import cache

from pydicom.charset import python_encoding
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

_UNICODE = ("ISO_IR 192",)

# PS3.5 6.2: VRs that the Specific Character Set is about.
_TEXT_VRS = {"LO", "LT", "PN", "SH", "ST", "UC", "UT"}


def answering_set(asked: Dataset, answer: Dataset) -> tuple[str, ...]:
    """Return the Specific Character Set of an answer: the request's where every text fits into it, else Unicode.

    A reader that asks in Latin or Japanese sets often reads nothing else.

    Parameters
    ----------
    asked : Dataset
        The request's identifier.
    answer : Dataset
        The answer, texts set; it has no sequences with items.
    """
    terms = _terms(asked)
    codecs = tuple(python_encoding[term or "ISO_IR 6"] for term in terms if (term or "ISO_IR 6") in python_encoding)
    if not terms or len(codecs) < len(terms):
        return _UNICODE
    texts = (str(element.value) for element in answer if element.VR in _TEXT_VRS and element.value)
    fits = all(_fits(character, codecs) for text in texts for character in text if not character.isascii())
    return terms if fits else _UNICODE


def _terms(ds: Dataset) -> tuple[str, ...]:
    value = ds.get("SpecificCharacterSet")
    if not value:
        return ()
    return tuple(str(term) for term in value) if isinstance(value, MultiValue) else (str(value),)


@cache
def _fits(character: str, codecs: tuple[str, ...]) -> bool:
    for codec in codecs:
        try:
            character.encode(codec)
        except UnicodeEncodeError:
            continue
        return True
    return False
