"""Acknowledgements of HL7 v2, in original and in enhanced mode. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from domain.errors import BodyTooLarge, BodyUnsupported, OrderConflict, PatientMismatch, RequestInvalid, VeraiconError
from fhir_adapter.hl7v2.message import Header, Message
from fhir_adapter.hl7v2.texts import STANDARD, UNICODE, codec_of, escape

# HL7 v2.5.1 table 0357: unsupported message type, unknown key identifier, duplicate key identifier, data type error,
# application internal error.
_CONDITIONS = (
    (BodyUnsupported, "200"),
    (PatientMismatch, "204"),
    (OrderConflict, "205"),
    (RequestInvalid, "102"),
    (VeraiconError, "207"),
)
_VERSION = "2.5.1"


class Verdict(Enum):
    """What is said of a message: taken, in error (may be mended and sent again), rejected (never)."""

    ACCEPT = "A"
    ERROR = "E"
    REJECT = "R"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who answers: MSH-3 and MSH-4 of what we send."""

    application: str = "VERAICON"
    facility: str = ""


def verdict_of(error: VeraiconError | None) -> Verdict:
    """Return what is said of a message that an error stopped."""
    if error is None:
        return Verdict.ACCEPT
    return Verdict.REJECT if isinstance(error, (BodyUnsupported, BodyTooLarge)) else Verdict.ERROR


def wanted(condition: str, verdict: Verdict) -> bool:
    """Return whether MSH-15 or MSH-16 asks for an acknowledgement of this verdict; empty in enhanced mode is never.

    References
    ----------
    HL7 v2.5.1 table 0155.

    Examples
    --------
    >>> wanted("ER", Verdict.ACCEPT), wanted("AL", Verdict.ACCEPT)
    (False, True)
    """
    if condition == "AL":
        return True
    return condition == ("SU" if verdict is Verdict.ACCEPT else "ER")


def acknowledgement(
    header: Header, *, accept: bool, verdict: Verdict, error: VeraiconError | None, now: datetime, us: Identity, control_id: str
) -> bytes:
    """Return an ACK.

    Parameters
    ----------
    header : Header
        Of the message that is acknowledged; its MSH-10 is echoed.
    accept : bool
        CA, CE or CR (it is kept); False: AA, AE or AR (it is done).
    error : VeraiconError or None
        What stands in ERR; it holds no patient data.

    References
    ----------
    HL7 v2.5.1 2.9.2 (original mode), 2.9.3 (enhanced mode), 2.14.1 (ACK), 2.15.5 (ERR), tables 0008, 0357, 0516.
    """
    character_set = header.character_set if _is_readable(header.character_set) else UNICODE
    version = header.version if header.version.startswith("2.") else _VERSION
    segments = [
        [
            "MSH",
            STANDARD.encoding,
            *map(escape, (us.application, us.facility, header.application, header.facility)),
            stamp(now),
            "",
            f"ACK^{escape(header.trigger)}^ACK" if header.trigger else "ACK",
            control_id,
            escape(header.processing) or "P",
            escape(version),
            *[""] * 5,
            character_set,
        ],
        ["MSA", ("C" if accept else "A") + verdict.value, escape(header.control_id)],
    ]
    if error is not None:
        segments.append(_err(error))
    return render(segments, character_set)


def _err(error: VeraiconError) -> list[str]:
    condition = next(code for kind, code in _CONDITIONS if isinstance(error, kind))
    ours = f"{error.code}^{type(error).__name__}^VERAICON"
    return [
        "ERR",
        "",
        "",
        f"{condition}^^HL70357",
        "E",
        ours,
        "",
        escape(error.found),
        escape(f"{error.allowed}; {error.action}"),
    ]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver said of a message of ours."""

    code: str
    control_id: str
    reason: str


def answer_of(message: Message) -> Answer | None:
    """Return what an acknowledgement says, or None where it is none."""
    msa = message.first("MSA")
    if msa is None:
        return None
    err = message.first("ERR")
    return Answer(msa.text(1).upper(), msa.text(2), err.text(3) if err else "")


def render(segments: list[list[str]], character_set: str) -> bytes:
    """Return segments as bytes; a character that the character set lacks becomes a question mark."""
    lines = [STANDARD.field.join(fields).rstrip(STANDARD.field) for fields in segments]
    return ("\r".join(lines) + "\r").encode(codec_of(character_set), errors="replace")


def stamp(moment: datetime) -> str:
    """Return a moment as a TS with its offset (HL7 v2.5.1 2.A.76)."""
    return moment.strftime("%Y%m%d%H%M%S%z")


def _is_readable(character_set: str) -> bool:
    try:
        return bool(codec_of(character_set))
    except BodyUnsupported:
        return False
