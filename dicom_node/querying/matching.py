"""Attribute matching: does a held value match a key. Pure.

References
----------
DICOM PS3.4 C.2.2.2: single value, list of UIDs, universal, wildcard and range matching.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_NO_WILDCARD = {"UI", "US", "UL", "SS", "SL", "AS", "AT", "FD", "FL"}


def matches(value: str, wanted: str, vr: str) -> bool:
    r"""Return whether an attribute matches a key.

    Parameters
    ----------
    value : str
        As held; several values joined by a backslash, of which one has to match.
    wanted : str
        Single value, list, wildcard or range.
    vr : str
        Value representation of the attribute.

    Examples
    --------
    >>> matches("Doe^Jane", "doe*", "PN"), matches("HEAD", "head", "CS")
    (True, False)
    >>> matches("Yamada^Tarou=山田^太郎", "山田*", "PN"), matches("Yamada^Tarou=山田^太郎", "Yamada^T*", "PN")
    (True, True)
    >>> matches("20240105", "20240101-20240131", "DA"), matches("20240105", "-20231231", "DA")
    (True, False)
    >>> matches("1.2.3", r"1.2.4\1.2.3", "UI")
    True
    """
    return any(_matches_one(held, one, vr) for held in value.split("\\") for one in wanted.split("\\"))


def _matches_one(value: str, wanted: str, vr: str) -> bool:
    value, wanted = value.strip(), wanted.strip()
    if vr in ("DA", "TM", "DT"):
        return _in_range(value, wanted, vr)
    if vr in ("IS", "DS"):
        return _as_number(value) == _as_number(wanted)
    if vr in _NO_WILDCARD:
        return value == wanted
    if vr == "PN":
        return _names_match(value, wanted)
    return _fits(wanted, value)


def _names_match(value: str, wanted: str) -> bool:
    """Compare names group by group (alphabetic, ideographic, phonetic); a single group may match any of them.

    PS3.4 C.2.2.2.1 leaves the case of names to the SCP; trailing carets carry no meaning (PS3.5 6.2.1.1).
    """
    held, asked = ([group.strip().rstrip("^").casefold() for group in text.split("=")] for text in (value, wanted))
    if len(asked) == 1:
        return any(_fits(asked[0], group) for group in held)
    held += [""] * (len(asked) - len(held))
    return all(_fits(one, group) for one, group in zip(asked, held, strict=False) if one)


def _as_number(text: str) -> float | str:
    """Return a number whatever its zeros and sign; a text that is none stands for itself."""
    return float(text) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) else text


def moment_matches(entity: Mapping[str, str], matching: Mapping[str, str], date: str, time: str) -> bool:
    """Return whether date and time of an entity lie in the one range that two ranges make (PS3.4 C.2.2.2.5.3).

    Parameters
    ----------
    entity : mapping of str to str
        What is held, by keyword.
    matching : mapping of str to str
        What is wanted, a range under each of the two keywords.
    date, time : str
        The keywords, such as StudyDate and StudyTime.
    """
    if not entity.get(date):
        return False
    held = _padded(entity[date], "DA", "0") + _padded(entity.get(time, ""), "TM", "0")
    (first_day, _, last_day), (first, _, last) = matching[date].partition("-"), matching[time].partition("-")
    begins = not first_day or held >= _padded(first_day, "DA", "0") + _padded(first, "TM", "0")
    return begins and (not last_day or held <= _padded(last_day, "DA", "9") + _padded(last, "TM", "9"))


def _in_range(value: str, wanted: str, vr: str) -> bool:
    """Compare text, padded to one length: DA as YYYYMMDD, TM as HHMMSS.FFFFFF (PS3.4 C.2.2.2.5)."""
    if not value:
        return False
    low, dash, high = wanted.partition("-")
    held = _padded(value, vr, "0")
    if not dash:
        return held == _padded(low, vr, "0")
    return (not low or held >= _padded(low, vr, "0")) and (not high or held <= _padded(high, vr, "9"))


def _padded(text: str, vr: str, fill: str) -> str:
    digits = re.sub(r"[^0-9]", "", text)
    return digits.ljust(8 if vr == "DA" else 12, fill)


def _fits(wanted: str, text: str) -> bool:
    """Compare with a pattern of ``*`` and ``?`` in time that grows with the product of both lengths, whatever a caller sends.

    Only the last star has to be tried again: what an earlier one took can be left to it.
    """
    at = position = 0
    star, resume = -1, 0
    while position < len(text):
        if at < len(wanted) and wanted[at] == "*":
            star, resume = at, position
            at += 1
        elif at < len(wanted) and wanted[at] in ("?", text[position]):
            at += 1
            position += 1
        elif star >= 0:
            at, resume = star + 1, resume + 1
            position = resume
        else:
            return False
    return not wanted[at:].strip("*")
