"""JSON of FHIR resources without drift: what was read can be written again, and its digest does not depend on spacing.

FHIR decimals carry their precision (``1.50`` is not ``1.5``), so a number with a fraction is parsed to `decimal.Decimal` and
written back digit by digit. Digests are taken over RFC 8785 canonical JSON, where every number is an IEEE double: they do not
change with spacing, order of members or trailing zeros, and any RFC 8785 implementation reproduces them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
import secrets
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

import rfc8785

# Largest integer that a double holds exactly (RFC 8785 section 3.2.2.3, ECMAScript Number.MAX_SAFE_INTEGER).
_MAX_SAFE_INTEGER = 2**53 - 1

# FHIR sets no limit; Synthea and US Core reach 11 levels. Whatever walks a resource by recursion is safe with this many.
_DEEPEST = 200
_CONTAINERS = (dict, list)

# An escape that is half of a character outside the basic plane.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

# Stands around a decimal until the text is complete; random, so that no string in a resource can be taken for it.
_MARK = f"decimal-{secrets.token_hex(12)}:"
_MARKED = re.compile(rf'"{_MARK}([-+0-9.Ee]+)"')


def parse_json(text: bytes | str) -> Any:
    """Return the value of a JSON text; numbers with a fraction or an exponent become `Decimal`.

    Raises
    ------
    ValueError
        If the text is no JSON, is not UTF-8, is nested too deeply, or holds ``NaN``, ``Infinity`` or half of a surrogate pair.

    Examples
    --------
    >>> parse_json(b'{"value": 1.50}')
    {'value': Decimal('1.50')}
    """
    return _parse(text, None)


def _parse(text: bytes | str, pairs: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None) -> Any:
    # json takes UTF-16 and UTF-32 too; JSON between systems is UTF-8 (RFC 8259 section 8.1).
    text = text if isinstance(text, str) else text.decode("utf-8-sig")
    try:
        value = json.loads(text, parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=pairs)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    except InvalidOperation as error:
        raise ValueError("a number with an exponent out of all bounds") from error
    if _deeper_than(value, _DEEPEST):
        raise ValueError("JSON nested too deeply")
    if _SURROGATE.search(text):
        write_json(value).encode()  # half of a pair has no UTF-8, and raises
    return value


def parse_json_once(text: bytes | str) -> Any:
    """Return the value of a JSON text in which no object names a member twice: of two, each reader may see another one.

    A quarter slower than `parse_json`, so it is for what somebody has signed.

    Raises
    ------
    ValueError
        As `parse_json`; also if a member is named twice.

    References
    ----------
    RFC 8259 section 4; RFC 7515 section 4.

    Examples
    --------
    >>> parse_json_once(b'{"value": 1, "value": 2}')
    Traceback (most recent call last):
    ...
    ValueError: an object that names a member twice
    """
    return _parse(text, _named_once)


def write_json(value: object) -> str:
    """Return compact JSON text in which every `Decimal` stands with the digits it was read with.

    Examples
    --------
    >>> write_json(parse_json('{"value": 1.50, "unit": "m"}'))
    '{"value":1.50,"unit":"m"}'
    """
    text = json.dumps(value, default=_mark, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _MARKED.sub(r"\1", text)


def canonical_json(value: object) -> bytes:
    """Return RFC 8785 canonical JSON.

    Raises
    ------
    ValueError
        If a number lies outside the doubles, or the value is no JSON.

    References
    ----------
    RFC 8785; FHIR R4 JSON, "Canonical JSON".

    Examples
    --------
    >>> canonical_json(parse_json('{"b": 1.50, "a": 1}'))
    b'{"a":1,"b":1.5}'
    """
    try:
        return rfc8785.dumps(_as_doubles(value))
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    except rfc8785.CanonicalizationError as error:
        raise ValueError("not canonicalizable as JSON") from error


def salted_digest(value: object, *, salt: bytes) -> bytes:
    """Return HMAC-SHA-256 of the canonical JSON under `salt`, 32 bytes: equal for equal content, and tells nothing else."""
    return hmac.new(salt, canonical_json(value), hashlib.sha256).digest()


def _deeper_than(value: object, limit: int) -> bool:
    # The parser makes exact dicts and lists only; this loop is a third of the time of parsing, so it asks no more than needed.
    containers = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(limit):
        if not containers:
            return False
        containers = [
            member
            for item in containers
            for member in (item.values() if type(item) is dict else item)
            if isinstance(member, _CONTAINERS)
        ]
    return bool(containers)


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object that names a member twice")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _mark(value: object) -> str:
    if isinstance(value, Decimal) and value.is_finite():
        return f"{_MARK}{value}"
    raise TypeError(f"no JSON form for {type(value).__name__}")


def _as_doubles(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_doubles(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_as_doubles(member) for member in value]
    if isinstance(value, Decimal):
        return _double(value)
    if isinstance(value, int) and abs(value) > _MAX_SAFE_INTEGER:
        return _double(value)
    return value


def _double(value: Decimal | int) -> float:
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError("a number outside the doubles") from error
    if not math.isfinite(number):
        raise ValueError("a number outside the doubles")
    return number
