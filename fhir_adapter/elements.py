"""Small readers of FHIR data types from parsed JSON; each takes what is there or says that it is malformed. Pure.

`fhir.resources` models are not used here: they do not keep numbers digit by digit, refuse a resource for elements that nobody
reads, and cost twice as much on large records. So only what is used is read, and that is read strictly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from domain.clinical import Coding
from fhir_adapter.codes import UCUM, UCUM_ONE, UNIT_SYNONYMS


def optional_text(body: Mapping[str, Any], name: str) -> str | None:
    """Return a string element, or None where it is absent.

    Raises
    ------
    ValueError
        If it is no string, or an empty one (FHIR R4: strings are never empty).
    """
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is no string")
    return value


def required_text(body: Mapping[str, Any], name: str) -> str:
    """Return a string element that has to be there."""
    value = optional_text(body, name)
    if value is None:
        raise ValueError(f"{name} is missing")
    return value


def objects(body: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return a repeating element; empty where it is absent."""
    value = body.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise ValueError(f"{name} is no list of objects")
    return value


def optional_object(body: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """Return a complex element, or None where it is absent."""
    value = body.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{name} is no object")
    return value


def flag(body: Mapping[str, Any], name: str) -> bool:
    """Return a boolean element; False where it is absent."""
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f"{name} is no boolean")
    return value


def concept(value: object) -> tuple[tuple[Coding, ...], str]:
    """Return codings and text of a CodeableConcept; the text falls back on a display, then on a code.

    Raises
    ------
    ValueError
        If it is no CodeableConcept, or states neither a code nor a text.

    Examples
    --------
    >>> concept({"coding": [{"system": "http://loinc.org", "code": "39156-5", "display": "BMI"}]})[1]
    'BMI'
    """
    if not isinstance(value, Mapping):
        raise ValueError("no CodeableConcept")
    found = tuple(_coding(item) for item in objects(value, "coding"))
    codings = tuple(coding for coding in found if coding.code)
    displays = [coding.display for coding in found if coding.display]
    text = optional_text(value, "text") or next(iter(displays), "") or next((coding.code for coding in codings), "")
    if not text:
        raise ValueError("a concept without code and text")
    return codings, text


def optional_concept(body: Mapping[str, Any], name: str) -> tuple[tuple[Coding, ...], str] | None:
    """Return codings and text of a CodeableConcept element, or None where it is absent."""
    return concept(body[name]) if body.get(name) is not None else None


def codes_in(value: Mapping[str, Any] | None, system: str) -> set[str]:
    """Return the codes of one system in a CodeableConcept."""
    return {str(c["code"]) for c in objects(value or {}, "coding") if c.get("system") == system and c.get("code")}


def number(value: object) -> float:
    """Return a JSON number as a float; true and false are none.

    Raises
    ------
    ValueError
        If it is no finite number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError("no number")
    try:
        result = float(value)
    except OverflowError as error:
        raise ValueError("a number outside the doubles") from error
    if not math.isfinite(result):
        raise ValueError("a number outside the doubles")
    return result


def quantity(value: object) -> tuple[float, str] | str:
    """Return value and UCUM unit of a Quantity, or the reason why it cannot be used, in words.

    A quantity without any unit is a pure number (UCUM ``1``). Where the system is UCUM and the code is missing, the unit's text
    is taken for it, as US Core's own examples write it. A unit outside UCUM is read by `codes.UNIT_SYNONYMS`, where one of its
    names stands there in full; it is not guessed at.

    References
    ----------
    FHIR R4 Quantity: ``comparator`` changes what the value means, so a bound is no value.

    Examples
    --------
    >>> quantity({"value": 5, "system": "http://unitsofmeasure.org", "code": "mm"})
    (5.0, 'mm')
    >>> quantity({"value": 5, "comparator": "<"})
    'value is only a bound'
    """
    if not isinstance(value, Mapping):
        raise ValueError("no Quantity")
    if value.get("value") is None:
        return "value absent"
    measured = number(value["value"])
    if optional_text(value, "comparator"):
        return "value is only a bound"
    code, unit, system = (optional_text(value, name) for name in ("code", "unit", "system"))
    if system == UCUM and (code or unit):
        stated = code or unit or ""
        return measured, UNIT_SYNONYMS.get(stated, stated)
    # A code of another system is not looked up: only what a person would read is.
    if unit in UNIT_SYNONYMS or (not unit and code in UNIT_SYNONYMS and not system):
        return measured, UNIT_SYNONYMS[str(unit or code)]
    if code or unit:
        return "unit is not UCUM"
    return measured, UCUM_ONE


def _coding(item: Mapping[str, Any]) -> Coding:
    system, code, display = (optional_text(item, name) for name in ("system", "code", "display"))
    return Coding(system or "", code or "", display or "")
