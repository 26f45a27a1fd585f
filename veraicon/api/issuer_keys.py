"""Public keys of the authorization server whose tokens we take: fetched, kept, and fetched again for a key id that is new."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import structlog
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, RSAKey

from domain.errors import ConfigurationError, PeerAnswerInvalid, PeerError, PeerUnreachable
from fhir_adapter.json_text import parse_json
from fhir_adapter.server.bodies import whole_body

_log = structlog.get_logger()

# A token with a made-up key id must not make us ask its issuer each time.
_PAUSE_S = 60.0
_SHORT_PAUSE_S = 5.0  # while no key is known at all
# A key that its issuer took back opens nothing after the first of these; while the issuer cannot be asked, after the second.
_FRESH_S = 600.0
_STALE_S = 3600.0
_LARGEST = 1 << 20

PublicKey = ECKey | RSAKey


class IssuerKeys:
    """The issuer's JWKS, from a URL or a file.

    Parameters
    ----------
    url, file : str
        Where it is: one of them.
    timeout_s : float
        For the fetch.
    monotonic : callable
        Injected for tests.
    """

    def __init__(
        self, *, url: str = "", file: str = "", timeout_s: float = 5.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._url, self._file, self._timeout_s, self._monotonic = url, file, timeout_s, monotonic
        self._keys: dict[str, PublicKey] = {}
        self._asked_s: float | None = None
        self._had_s = 0.0
        self._failed: PeerError | None = None
        self._one_at_a_time = threading.Lock()

    def find(self, kid: str) -> PublicKey | None:
        """Return the key with this id, or the only key for a token that names none; None where there is no such key.

        A host that is down leaves the keys usable for an hour that are known.

        Raises
        ------
        PeerUnreachable, PeerAnswerInvalid, ConfigurationError
            If no key is known any more, and none comes.
        """
        with self._one_at_a_time:
            if self._keys and self._monotonic() - self._had_s > _STALE_S and self._failed is not None:
                self._keys = {}
            if self._due(self._held(kid) is not None):
                self._refresh()
            elif not self._keys and self._failed is not None:
                raise self._failed
            return self._held(kid)

    def _due(self, known: bool) -> bool:
        """Tell whether the issuer is to be asked now."""
        if self._asked_s is None:
            return True
        age = self._monotonic() - self._asked_s
        if self._failed is not None:
            return age > (_PAUSE_S if self._keys else _SHORT_PAUSE_S)
        return age > _FRESH_S or (not known and age > _PAUSE_S)

    def _held(self, kid: str) -> PublicKey | None:
        return self._keys.get(kid) or (next(iter(self._keys.values())) if not kid and len(self._keys) == 1 else None)

    def _refresh(self) -> None:
        try:
            self._keys = _public_keys(self._fetched() if self._url else self._read())
        except PeerError as error:
            # Whoever calls without a good token must not make us wait for a silent host each time.
            self._failed, self._asked_s = error, self._monotonic()
            if not self._keys:
                raise
            _log.warning("public keys of the issuer are not to be had: the known ones stay", code=error.code)
        else:
            self._failed, self._asked_s = None, self._monotonic()
            self._had_s = self._asked_s

    def _read(self) -> bytes:
        try:
            return Path(self._file).read_bytes()
        except OSError as error:
            raise ConfigurationError(
                found=f"a jwks_file that cannot be read ({type(error).__name__})",
                allowed="a JWKS",
                action="correct [http] jwks_file",
            ) from error

    def _fetched(self) -> bytes:
        end_s = time.monotonic() + 2 * self._timeout_s
        try:
            with httpx.stream("GET", self._url, timeout=self._timeout_s, headers={"Accept": "application/json"}) as response:
                received = whole_body(response, lambda found, _: _unusable(found), limit=_LARGEST, end_s=end_s)
                status = response.status_code
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise PeerUnreachable(
                found=f"{type(error).__name__} at the issuer's JWKS",
                allowed="an answer",
                action="check [http] jwks_url and that the authorization server runs",
            ) from error
        if status != 200:
            raise _unusable(f"HTTP status {status}")
        return received


def _public_keys(content: bytes) -> dict[str, PublicKey]:
    """Return the EC and RSA keys for signatures; secrets (kty oct) are never taken, so no token is checked by HMAC."""
    try:
        listed = [one for one in parse_json(content)["keys"] if one.get("kty") in ("EC", "RSA") and one.get("use") != "enc"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unusable("no JWKS") from error
    keys = [key for one in listed if (key := _public_key(one)) is not None]
    found = {str(key.as_dict().get("kid", "")) or key.thumbprint(): key for key in keys}
    if not found:
        raise _unusable("a JWKS without a key for signatures")
    return found


def _public_key(listed: dict[str, Any]) -> PublicKey | None:
    """Return one key; None where it is of a kind that we cannot use: the others are good (RFC 7517 section 5)."""
    try:
        key = JWKRegistry.import_key(listed)
    except (JoseError, ValueError, KeyError, TypeError) as error:
        _log.warning("a public key of the issuer cannot be used", reason=type(error).__name__)
        return None
    return key if isinstance(key, ECKey | RSAKey) else None


def _unusable(found: str) -> PeerAnswerInvalid:
    return PeerAnswerInvalid(
        found=f"{found} for the issuer's public keys", allowed="a JWKS (RFC 7517)", action="check [http] jwks_url or jwks_file"
    )
