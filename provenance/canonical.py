"""One byte form of a JSON value, and the ways in which a digest is written."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import rfc8785

from domain.errors import AttestationError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_NUMBER = 2**53 - 1
# Python writes such a number as ECMAScript does, which RFC 8785 section 3.2.2.3 asks for; the others differ in the exponent.
_SAME_DIGITS = (1e-4, 1e16)
# For what is not odd (see `_plain`) the encoder of the standard library gives the canonical form, several times as fast.
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")


def canonical_json(value: object) -> bytes:
    """Return `value` as canonical JSON, UTF-8.

    Parameters
    ----------
    value : object
        Mappings with text keys, sequences, text, numbers, truth values and None. A Decimal counts as the nearest double, as
        every JSON number does in RFC 8785: ``1.50`` and ``1.5`` are one number.

    Raises
    ------
    ValueError
        If the value has no canonical form: NaN, infinity, a number beyond 2**53, a key that is no text, lone surrogates.

    References
    ----------
    RFC 8785, JSON Canonicalization Scheme.

    Examples
    --------
    >>> canonical_json({"b": 1.0, "a": Decimal("1.50")})
    b'{"a":1.5,"b":1}'
    """
    odd: list[object] = []
    plain = _plain(value, odd)
    return rfc8785.dumps(plain) if odd else _ENCODER.encode(plain).encode("utf-8")


def sha256_digest(content: bytes) -> str:
    """Return ``sha256:`` and the hex digest of `content`."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def json_digest(value: object) -> str:
    """Return the digest of the canonical JSON of `value`.

    Examples
    --------
    >>> json_digest({"a": 1}) == json_digest({"a": 1.0})
    True
    """
    return sha256_digest(canonical_json(value))


def named_information(digest: str) -> str:
    """Return a digest as a URI.

    Raises
    ------
    AttestationError
        If `digest` is no ``sha256:`` digest.

    References
    ----------
    RFC 6920 section 3: the ``ni`` scheme.

    Examples
    --------
    >>> named_information(sha256_digest(b"Hello World!"))
    'ni:///sha-256;f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGk'
    """
    return f"ni:///sha-256;{to_base64url(bytes.fromhex(require_digest(digest).removeprefix('sha256:')))}"


def digest_of_named_information(uri: str) -> str:
    """Return the digest that `named_information` wrote as a URI.

    Raises
    ------
    ValueError
        If it is no such URI.

    Examples
    --------
    >>> digest_of_named_information(named_information(sha256_digest(b""))) == sha256_digest(b"")
    True
    """
    prefix, _, text = uri.partition(";")
    content = from_base64url(text)
    if prefix != "ni:///sha-256" or len(content) != hashlib.sha256().digest_size:
        raise ValueError("no ni:///sha-256 URI")
    return f"sha256:{content.hex()}"


def require_digest(digest: str) -> str:
    """Return `digest` if it is ``sha256:`` and 64 hex digits.

    Raises
    ------
    AttestationError
        If it is anything else.
    """
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise AttestationError(
            found="a digest in another form",
            allowed="'sha256:' and 64 lower-case hex digits",
            action="have the step that made the digest write it in this form",
        )
    return digest


def instant(moment: datetime) -> str:
    """Return an aware time as a FHIR instant in UTC with milliseconds.

    Raises
    ------
    AttestationError
        If the time has no zone: it would be another moment elsewhere.

    Examples
    --------
    >>> instant(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    '2026-01-02T03:04:05.000Z'
    """
    if moment.tzinfo is None:
        raise AttestationError(found="a time without a zone", allowed="aware times", action="give the time with its zone")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_base64url(content: bytes) -> str:
    """Return `content` in base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


def from_base64url(text: str) -> bytes:
    """Return the bytes of unpadded base64url `text`.

    Raises
    ------
    ValueError
        If the text is anything else.
    """
    if not _BASE64URL.fullmatch(text):
        raise ValueError("not base64url")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError("not base64url") from error


def _plain(value: object, odd: list[object]) -> Any:
    """The value in plain JSON types; `odd` takes what only rfc8785 writes, or refuses, as the standard wants it."""
    if isinstance(value, str) or value is None or isinstance(value, bool):
        return value
    if isinstance(value, Decimal | float):
        return _number(float(value), odd)
    if isinstance(value, int):
        if abs(value) > _MAX_NUMBER:
            odd.append(value)
        return value
    if isinstance(value, Mapping):
        # Names are sorted by UTF-16 code units, which Python does for ASCII.
        odd += [key for key in value if not isinstance(key, str) or not key.isascii()]
        return {key: _plain(item, odd) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_plain(item, odd) for item in value]
    odd.append(value)
    return value


def _number(value: float, odd: list[object]) -> float | int:
    if abs(value) > _MAX_NUMBER:
        # It would be written as an integer that no reader takes back.
        raise ValueError("a number beyond 2**53")
    if value.is_integer():
        return int(value)
    if not _SAME_DIGITS[0] <= abs(value) < _SAME_DIGITS[1]:
        odd.append(value)
    return value
