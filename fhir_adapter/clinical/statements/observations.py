"""Readers of Observation and DiagnosticReport: what was measured, seen and concluded. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

from domain.clinical import Coding
from fhir_adapter.clinical.statements.claims import Claim, Stated, Value, codings_of, refusal, site
from fhir_adapter.codes import ABSENT_INTERPRETATIONS, ABSENT_VALUES, UCUM_ONE
from fhir_adapter.elements import (
    concept,
    flag,
    number,
    objects,
    optional_object,
    optional_text,
    quantity,
    required_text,
)
from fhir_adapter.moments import Moment, end_of_period, optional_moment, parse_moment

# A longer report than this is a document, not a conclusion.
_LONGEST_REPORT = 100_000


@dataclass(frozen=True, slots=True)
class _Read:
    value: Value
    unit: str = ""
    codings: tuple[Coding, ...] = ()
    negated: bool = False


def observation(body: Mapping[str, Any], zone: tzinfo | None) -> Stated:
    """Read value and components of an Observation; each component is a claim of its own, named with its parent.

    A component keeps only its own codings: with the parent's code it could be taken for the parent's value (a total score).
    """
    if refused := refusal(body):
        return refused
    codings, text = concept(body.get("code"))
    where = site(body["bodySite"]) if body.get("bodySite") is not None else ()
    found: list[Claim] = []
    left_out: list[str] = []
    for part, name, part_codings in _parts(body, text, codings):
        read = _value(part)
        if isinstance(read, str):
            left_out.append(read)
            continue
        interpretation = codings_of(part, "interpretation")
        found.append(
            Claim(
                part_codings,
                name,
                read.value,
                read.unit,
                body_site=where,
                value_codings=read.codings,
                interpretation=interpretation,
                negated=read.negated or _denies(interpretation, read.value),
            )
        )
    if found:
        # A panel is no gap: its own value may be absent where components or members carry the values.
        left_out = [reason for reason in left_out if reason != "no value"]
    issued = optional_moment(body, "issued", zone)
    return Stated(tuple(found), _effective(body, zone), issued, verification=str(body["status"]), left_out=tuple(left_out))


def diagnostic_report(body: Mapping[str, Any], zone: tzinfo | None) -> Stated:
    """Read the conclusion of a DiagnosticReport, as codes and as text; its results are Observations of their own.

    The presented form is read where it is plain text: many systems put the whole report there.
    """
    if refused := refusal(body):
        return refused
    codings, text = concept(body.get("code"))
    conclusion = optional_text(body, "conclusion")
    claims = [Claim(codings, text, conclusion)] if conclusion else []
    for item in objects(body, "conclusionCode"):
        value_codings, value = concept(item)
        claims.append(Claim(codings, text, value, value_codings=value_codings, negated=_is_absent(value_codings)))
    left_out: list[str] = []
    for form in objects(body, "presentedForm"):
        report = _plain_text(form)
        if report.startswith(_NOT_READ):
            left_out.append(report)
        elif report != conclusion:
            claims.append(Claim(codings, text, report))
    if not claims and not left_out:
        left_out = ["no conclusion"]
    issued = optional_moment(body, "issued", zone)
    return Stated(tuple(claims), _effective(body, zone), issued, verification=str(body["status"]), left_out=tuple(left_out))


def _parts(
    body: Mapping[str, Any], text: str, codings: tuple[Coding, ...]
) -> Iterator[tuple[Mapping[str, Any], str, tuple[Coding, ...]]]:
    yield body, text, codings
    for component in objects(body, "component"):
        part_codings, part_text = concept(component.get("code"))
        yield component, f"{text}: {part_text}", part_codings


def _value(part: Mapping[str, Any]) -> _Read | str:
    """Return value and unit of an Observation or a component, or the reason why there is none."""
    if part.get("modifierExtension"):
        return "modifier extension"
    names = [name for name in part if name.startswith("value") and name[5:6].isupper()]
    if len(names) > 1:
        raise ValueError("more than one value[x]")
    if not names:
        return "value absent" if part.get("dataAbsentReason") is not None else "no value"
    read = _VALUE_READERS.get(names[0])
    if read is not None:
        return read(part[names[0]])
    if names[0] == "valueSampledData":
        return "valueSampledData is not used"
    raise ValueError("a value[x] that Observation does not have")


def _quantity_value(value: object) -> _Read | str:
    read = quantity(value)
    return read if isinstance(read, str) else _Read(*read)


def _text_value(value: object) -> _Read:
    return _Read(required_text({"value": value}, "value"))


def _truth_value(value: object) -> _Read:
    truth = flag({"value": value}, "value")
    return _Read(truth, negated=not truth)


def _concept_value(value: object) -> _Read:
    codings, text = concept(value)
    return _Read(text, codings=codings, negated=_is_absent(codings))


def _time_value(value: object) -> _Read:
    parse_moment(value, None)
    return _Read(str(value))


def _period_value(value: object) -> _Read:
    if end_of_period(value, None) is None or not isinstance(value, Mapping):
        raise ValueError("a Period without an end and a start")
    return _Read(f"{value.get('start', '')}/{value.get('end', '')}")


def _two_quantities(first: str, second: str, sign: str) -> Callable[[object], _Read | str]:
    """Return the reader of a value that two quantities make.

    The text keeps both numbers digit by digit: a titre of 1:128 is no quotient (FHIR R4 Ratio), and a range is no number.
    """

    def read(value: object) -> _Read | str:
        if not isinstance(value, Mapping):
            raise ValueError("no object")
        words = []
        for name in (first, second):
            part = optional_object(value, name)
            known = quantity(part) if part is not None else "value absent"
            if isinstance(known, str):
                return known
            words.append(f"{part['value'] if part else ''}" + (f" {known[1]}" if known[1] != UCUM_ONE else ""))
        return _Read(sign.join(words))

    return read


_VALUE_READERS: Mapping[str, Callable[[object], _Read | str]] = {
    "valueQuantity": _quantity_value,
    "valueInteger": lambda value: _Read(number(value), UCUM_ONE),
    "valueBoolean": _truth_value,
    "valueString": _text_value,
    "valueTime": _text_value,
    "valueCodeableConcept": _concept_value,
    "valueDateTime": _time_value,
    "valuePeriod": _period_value,
    "valueRatio": _two_quantities("numerator", "denominator", ":"),
    "valueRange": _two_quantities("low", "high", " - "),
}


def _is_absent(codings: tuple[Coding, ...]) -> bool:
    return any((coding.system, coding.code) in ABSENT_VALUES for coding in codings)


def _denies(interpretation: tuple[Coding, ...], value: Value) -> bool:
    """Tell whether the interpretation says that what was looked for is not there; a number stays the number that it is."""
    if isinstance(value, float):
        return False
    return _is_absent(interpretation) or any((one.system, one.code) in ABSENT_INTERPRETATIONS for one in interpretation)


def _effective(body: Mapping[str, Any], zone: tzinfo | None) -> Moment | None:
    for name in ("effectiveDateTime", "effectiveInstant"):
        if body.get(name) is not None:
            return optional_moment(body, name, zone)
    return end_of_period(body["effectivePeriod"], zone) if body.get("effectivePeriod") is not None else None


_NOT_READ = "presented form not read: "


def _plain_text(form: Mapping[str, Any]) -> str:
    """Return the text of an Attachment, or `_NOT_READ` and why not."""
    kind = (optional_text(form, "contentType") or "").split(";")[0].strip().lower()
    if kind != "text/plain":
        return f"{_NOT_READ}no plain text"
    data = optional_text(form, "data")
    if data is None:
        return f"{_NOT_READ}it lies elsewhere"
    try:
        text = base64.b64decode("".join(data.split()), validate=True).decode("utf-8").strip()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError("an Attachment that its encoding does not decode") from error
    if len(text) > _LONGEST_REPORT:
        return f"{_NOT_READ}too long"
    return text or f"{_NOT_READ}empty"
