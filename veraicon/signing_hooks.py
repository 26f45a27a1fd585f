"""Signatures of webhooks as the Standard Webhooks specification has them: HMAC-SHA-256 over id, time and body."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable

_PREFIX = "whsec_"
# Shortest and longest key (Standard Webhooks: 24 to 64 bytes).
_KEY_BYTES = range(24, 65)
TOLERANCE_S = 300


def hook_key(secret: str) -> bytes:
    """Return the key of a secret ``whsec_`` + base64.

    Raises
    ------
    ValueError
        If it has another form, or its key is not of 24 to 64 bytes.

    References
    ----------
    Standard Webhooks specification, "Symmetric signatures".
    """
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("no base64 behind whsec_") from error
    if not secret.startswith(_PREFIX) or len(key) not in _KEY_BYTES:
        raise ValueError("no secret of the form whsec_ + base64 of 24 to 64 bytes")
    return key


def signature(secret: str, identity: str, timestamp: int, body: bytes) -> str:
    """Return one signature, ``v1,`` and base64.

    Examples
    --------
    >>> signature("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    signed = f"{identity}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(hook_key(secret), signed, hashlib.sha256).digest()).decode()


def is_signed(secrets: Iterable[str], identity: str, timestamp: int, body: bytes, signatures: str) -> bool:
    """Tell whether one of the signatures of a header is made with one of the secrets."""
    given = signatures.split(" ")[:16]
    wanted = [signature(secret, identity, timestamp, body) for secret in secrets]
    return any(hmac.compare_digest(one.encode(), want.encode()) for one in given for want in wanted)
