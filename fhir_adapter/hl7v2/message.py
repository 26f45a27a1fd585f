"""An HL7 v2 message that came: its segments and fields as text. The only place that knows the library `hl7`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import hl7

from domain.errors import BodyUnsupported, RequestInvalid
from fhir_adapter.hl7v2.texts import STANDARD, Delimiters, codec_of, decode, unescape

_SEGMENT_NAME = re.compile(r"[A-Z][A-Z0-9]{2}")
_BATCH = (b"FHS", b"BHS")
_DELIMITERS = 5
_NULL = '""'


@dataclass(frozen=True, slots=True)
class Header:
    """What MSH says, read so far as it can be read: an answer must be possible also where the rest cannot be.

    Attributes
    ----------
    code, trigger : str
        MSH-9.1 and MSH-9.2: ``ORM`` and ``O01``.
    accept, application : str
        MSH-15 and MSH-16 (table 0155: AL, NE, ER, SU); both empty: original mode.
    """

    delimiters: Delimiters = STANDARD
    application: str = ""
    facility: str = ""
    receiving_application: str = ""
    receiving_facility: str = ""
    code: str = ""
    trigger: str = ""
    control_id: str = ""
    processing: str = ""
    version: str = ""
    accept: str = ""
    answer: str = ""
    character_set: str = ""

    @property
    def sender(self) -> str:
        """``application|facility``, as the settings name senders."""
        return f"{self.application}|{self.facility}"

    @property
    def kind(self) -> str:
        """``ORM^O01``."""
        return f"{self.code}^{self.trigger}" if self.trigger else self.code

    @property
    def enhanced(self) -> bool:
        """Whether acknowledgements are asked for by MSH-15 and MSH-16."""
        return bool(self.accept or self.answer)


def without_null(sent: str) -> str:
    """Return what a field, component or subcomponent says; the explicit null (``""``) says that there is no value."""
    return "" if sent.strip() == _NULL else sent


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment; fields are counted as HL7 counts them."""

    name: str
    fields: Any
    delimiters: Delimiters
    codec: str

    def components(self, field: int) -> list[list[str]]:
        """Return the repetitions of a field that say something, each as its components; subcomponents stay joined."""
        return [[self._text(part) for part in one] for one in self._repetitions(field)]

    def text(self, field: int, component: int = 1) -> str:
        """Return one component of the first repetition, without the blanks around it; empty where there is none."""
        found = self.components(field)
        return found[0][component - 1].strip() if found and len(found[0]) >= component else ""

    def raw(self, field: int) -> str:
        """Return a field as it was sent, to echo it; escape sequences and delimiters stay."""
        return str(self.fields[field]) if field < len(self.fields) else ""

    def _repetitions(self, field: int) -> list[list[str]]:
        sent = self.raw(field)
        return [
            one.split(self.delimiters.component) for one in sent.split(self.delimiters.repetition) if without_null(one) != ""
        ]

    def _text(self, sent: str) -> str:
        return unescape(without_null(sent), self.delimiters, codec=self.codec)


@dataclass(frozen=True, slots=True)
class Message:
    """A message in order of its segments."""

    header: Header
    segments: tuple[Segment, ...]

    def all(self, name: str) -> Iterator[Segment]:
        """Return every segment of a name."""
        return (segment for segment in self.segments if segment.name == name)

    def first(self, name: str) -> Segment | None:
        """Return the first segment of a name, or None."""
        return next(self.all(name), None)


def read_header(content: bytes, character_set: str = "") -> Header:
    """Return what MSH says.

    Parameters
    ----------
    content : bytes
        A message, or its beginning.
    character_set : str
        Which one it is in where MSH-18 is empty.

    Raises
    ------
    BodyUnsupported
        If it is a batch.
    RequestInvalid
        If it does not begin with a message header.

    References
    ----------
    HL7 v2.5.1 2.15.9 (MSH); 2.5.4 (delimiters).
    """
    content = content.lstrip()
    if content.startswith(_BATCH):
        raise BodyUnsupported(
            found="a batch (FHS or BHS)",
            allowed="single messages, one in each frame",
            action="have the engine send each message of the batch by itself",
        )
    first = re.split(rb"[\r\n]", content, maxsplit=1)[0]
    marks = first[3:8].decode("latin-1")
    if not first.startswith(b"MSH") or len(set(marks)) < _DELIMITERS or any(one.isalnum() or one < " " for one in marks):
        raise RequestInvalid(
            found="a frame that does not begin with MSH and five different delimiters",
            allowed="an HL7 v2.3 to v2.5.1 message with MSH|^~\\&",
            action="correct the channel in the engine that sends here",
        )
    delimiters = Delimiters(*marks)
    # Names of character sets are ASCII, so MSH-18 can be read before it is known what the rest is written in.
    sets = _msh_field(first.decode("latin-1"), delimiters, 18).split(delimiters.repetition)
    character_set = sets[0] or character_set
    field = partial(_msh_field, _msh_text(first, character_set), delimiters)
    return Header(
        delimiters=delimiters,
        application=field(3),
        facility=field(4),
        receiving_application=field(5),
        receiving_facility=field(6),
        code=field(9),
        trigger=field(9, 2),
        control_id=field(10),
        processing=field(11),
        version=field(12),
        accept=field(15).upper(),
        answer=field(16).upper(),
        character_set=character_set,
    )


def _msh_text(first: bytes, character_set: str) -> str:
    """Return MSH as characters: an answer must be possible, so what cannot be read of it becomes something."""
    try:
        return first.decode(codec_of(character_set))
    except (BodyUnsupported, UnicodeDecodeError):
        return first.decode("latin-1")


def _msh_field(text: str, delimiters: Delimiters, number: int, component: int = 1) -> str:
    # MSH-1 is the separator itself, so what comes after the n-th separator is field n + 1.
    fields = ["", *text.split(delimiters.field)]
    parts = fields[number].split(delimiters.component) if number < len(fields) else []
    return unescape(without_null(parts[component - 1]), delimiters).strip() if len(parts) >= component else ""


def read_message(content: bytes, character_set: str = "") -> Message:
    r"""Return a message.

    Segments end with CR; CR LF and LF are tolerated, since neither may stand inside a segment (a text says ``\.br\``).
    `character_set` is the one of messages whose MSH-18 is empty.

    Raises
    ------
    BodyUnsupported
        If it is a batch, or in a character set that we do not read.
    RequestInvalid
        If it cannot be read, or misses MSH-9 or MSH-10.
    """
    header = read_header(content, character_set)
    text = decode(content, header.character_set).replace("\r\n", "\r").replace("\n", "\r").strip("\r ")
    lines = [line.lstrip() for line in text.split("\r") if line.strip()]
    if not all(_SEGMENT_NAME.fullmatch(line[:3]) and line[3:4] in ("", header.delimiters.field) for line in lines):
        raise _malformed("a line that is no segment: a line end inside a field, or text between segments")
    if sum(line.startswith("MSH") for line in lines) > 1:
        raise _malformed("a second MSH in one frame")
    if not header.code or not header.control_id:
        raise _malformed("no message type in MSH-9, or no control id in MSH-10")
    try:
        parsed = hl7.parse("\r".join(lines) + "\r")
    except (hl7.HL7Exception, IndexError, ValueError, AssertionError) as error:
        raise _malformed(f"a message that the parser refuses ({type(error).__name__})") from error
    codec = codec_of(header.character_set)
    segments = (Segment(str(one[0]), one, header.delimiters, codec) for one in parsed)
    return Message(header, tuple(segments))


def groups(message: Message, beginning: str) -> list[Sequence[Segment]]:
    """Return the segments from each segment of a name up to the next of this name."""
    found: list[list[Segment]] = []
    for segment in message.segments:
        if segment.name == beginning:
            found.append([])
        if found:
            found[-1].append(segment)
    return [tuple(group) for group in found]


def _malformed(found: str) -> RequestInvalid:
    return RequestInvalid(
        found=found,
        allowed="segments of three characters that end with CR, with MSH-9 and MSH-10 filled (HL7 v2.5.1 2.5)",
        action="correct the channel in the engine, then send the message again",
    )
