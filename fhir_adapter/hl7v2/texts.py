"""Characters of HL7 v2: character sets by MSH-18, and the escape sequences that keep delimiters out of a text. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from domain.errors import BodyUnsupported, RequestInvalid

UNICODE = "UNICODE UTF-8"
# HL7 v2.5.1 table 0211, those that one decoder reads from beginning to end: none that changes its code page half-way.
_CODECS = {
    "": "ascii",
    "ASCII": "ascii",
    UNICODE: "utf-8",
    **{f"8859/{part}": f"iso8859_{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 15, 16)},
    "GB 18030-2000": "gb18030",
    "KS X 1001": "euc_kr",
    "BIG-5": "big5",
}
# What engines say instead: the same names written otherwise, and the numbers of ISO-IR, which DICOM uses (PS3.3 C.12.1.1.2).
_REGISTERED = {100: 1, 101: 2, 109: 3, 110: 4, 144: 5, 127: 6, 126: 7, 138: 8, 148: 9, 203: 15}
_SYNONYMS = {
    "US-ASCII": "ascii",
    "ISO IR6": "ascii",
    "UNICODE": "utf-8",
    "UTF-8": "utf-8",
    "ISO IR192": "utf-8",
    **{f"ISO IR{number}": f"iso8859_{part}" for number, part in _REGISTERED.items()},
    "GB18030": "gb18030",
}
_ESCAPED = re.compile(r"X(?:[0-9A-Fa-f]{2})+")


@dataclass(frozen=True, slots=True)
class Delimiters:
    """MSH-1 and MSH-2: which characters part fields, components, repetitions and subcomponents, and which one escapes."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"

    @property
    def encoding(self) -> str:
        """MSH-2."""
        return self.component + self.repetition + self.escape + self.subcomponent


STANDARD = Delimiters()


def _letters(name: str) -> str:
    """Return a name without what parts its letters and digits: ``ISO_8859-1``, ``ISO 8859/1`` and ``8859-1`` are one."""
    return re.sub(r"[^A-Z0-9]", "", name.upper()).replace("ISO8859", "8859")


_BY_LETTERS = {_letters(name): codec for name, codec in (_CODECS | _SYNONYMS).items()}


def codec_of(character_set: str) -> str:
    """Return Python's name of a character set of MSH-18; empty is ASCII.

    Raises
    ------
    BodyUnsupported
        If it is one that we do not read: a name that is guessed wrong would be another name.

    References
    ----------
    HL7 v2.5.1 2.15.9.18, table 0211.

    Examples
    --------
    >>> codec_of("8859/1"), codec_of("ISO_8859-1"), codec_of("ISO IR100")
    ('iso8859_1', 'iso8859_1', 'iso8859_1')
    """
    try:
        return _BY_LETTERS[_letters(character_set)]
    except KeyError as error:
        raise BodyUnsupported(
            found=f"character set {character_set[:32]!r} in MSH-18",
            allowed=", ".join(sorted(filter(None, _CODECS))),
            action="have the engine send UNICODE UTF-8 and say so in MSH-18",
        ) from error


def decode(content: bytes, character_set: str) -> str:
    """Return the characters of a message.

    Raises
    ------
    BodyUnsupported
        If the character set is not one that we read.
    RequestInvalid
        If the bytes are none of it.
    """
    codec = codec_of(character_set)
    try:
        return content.decode(codec)
    except UnicodeDecodeError as error:
        raise RequestInvalid(
            found=f"bytes that are not {character_set or 'ASCII'}, the character set of MSH-18, from byte {error.start}",
            allowed="one character set, named in MSH-18 (empty: that of [hl7v2] character_set, else ASCII)",
            action="have the engine name in MSH-18 what it sends, or set [hl7v2] character_set, then retry the message",
        ) from error


def escape(text: str, delimiters: Delimiters = STANDARD) -> str:
    r"""Return a text as it may stand in a field: delimiters as escape sequences, line ends as ``\.br\``.

    References
    ----------
    HL7 v2.5.1 2.7 and 2.7.1.

    Examples
    --------
    >>> escape("a&b|c")
    'a\\T\\b\\F\\c'
    """
    mark = delimiters.escape
    names = {
        delimiters.field: "F",
        delimiters.component: "S",
        delimiters.repetition: "R",
        delimiters.subcomponent: "T",
        mark: "E",
        "\n": ".br",
    }
    return "".join(_escaped(one, names, mark) for one in text)


def _escaped(one: str, names: dict[str, str], mark: str) -> str:
    if one in names:
        return f"{mark}{names[one]}{mark}"
    # Control characters would end the segment or the frame.
    return f"{mark}X{ord(one):02X}{mark}" if ord(one) < 0x20 else one


def unescape(text: str, delimiters: Delimiters = STANDARD, *, codec: str = "ascii") -> str:
    r"""Return what a field says, its escape sequences resolved.

    ``\H\``, ``\N\`` (highlighting), switches of character set and the formatting commands but ``\.br\`` and ``\.sp\`` say
    nothing about the text and are left out. An escape character without its partner stands for itself.

    Examples
    --------
    >>> unescape("a\\T\\b\\X41\\\\.br\\c")
    'a&bA\nc'
    """
    mark = delimiters.escape
    if mark not in text:
        return text
    parts = text.split(mark)
    said, index = [parts[0]], 1
    while index < len(parts):
        if index + 1 == len(parts):  # no partner
            said += [mark, parts[index]]
            break
        said += [_resolved(parts[index], delimiters, codec), parts[index + 1]]
        index += 2
    return "".join(said)


def _resolved(name: str, delimiters: Delimiters, codec: str) -> str:
    simple = {
        "F": delimiters.field,
        "S": delimiters.component,
        "R": delimiters.repetition,
        "T": delimiters.subcomponent,
        "E": delimiters.escape,
        ".br": "\n",
    }
    if name in simple:
        return simple[name]
    if name.startswith(".sp"):
        return "\n"
    if _ESCAPED.fullmatch(name):
        return bytes.fromhex(name[1:]).decode(codec, errors="replace")
    return ""
