"""SMART Backend Services: how we get a token for a FHIR server, and keep it fresh.

    .well-known/smart-configuration -> token endpoint -> signed assertion -> token, until shortly before it expires

One token serves all threads; whoever finds it too old gets the next one, and the others wait for it.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import structlog

from domain.errors import ConfigurationError, PeerAnswerInvalid, PeerRefused, PeerUnreachable
from fhir_adapter.json_text import parse_json
from fhir_adapter.server.addresses import origin_text, require_base_url
from fhir_adapter.server.bodies import whole_body
from fhir_adapter.server.client_keys import ClientKey

_log = structlog.get_logger()

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
# SMART: at most five minutes. Less, so that a clock that runs ahead of the server's does not make it more.
_ASSERTION_S = 240
_RENEW_BEFORE_S = 60.0
_LARGEST_ANSWER = 1 << 20
_TOLERABLE_SKEW_S = 60.0
# RFC 6749 section 5.2. Another code may be anything, so it is not repeated.
_ACTIONS = {
    "invalid_client": "register our public key (`veraicon keys client`) for [fhir] client_id; look at the clocks",
    "invalid_scope": "set [fhir] scopes to those that the server grants to this client",
    "unauthorized_client": "let the server allow this client the grant client_credentials",
    "unsupported_grant_type": "let the server offer the grant client_credentials: SMART Backend Services needs it",
    "invalid_request": "look at the authorization server's log: it takes another form of request",
    "invalid_grant": "register our public key (`veraicon keys client`) under [fhir] client_id",
}


@dataclass(frozen=True, slots=True)
class Granted:
    """What the authorization server gave us.

    Attributes
    ----------
    token : str
        Access token; never shown.
    scopes : tuple of str
        Scopes it is good for.
    renew_at_s : float
        Monotonic time from which it is too old to be sent.
    """

    token: str = field(repr=False)
    scopes: tuple[str, ...]
    renew_at_s: float


class BackendServices:
    """Our identity towards the authorization server of one FHIR server; called, it returns a token that is fresh.

    Parameters
    ----------
    base_url : str
        Service base URL of the FHIR server.
    client_id : str
        As it was registered.
    key : ClientKey
        Private key whose public half was registered.
    scopes : tuple of str
        SMART v2 scopes to ask for, such as ``system/Patient.rs``.
    token_endpoint : str
        Where tokens are given; empty: what the server's smart-configuration says.
    verify : ssl.SSLContext or bool
        As in httpx.
    timeout_s : float
        Longest silence of either server; a whole answer may take twice as long.
    clock, monotonic : callable
        Injected for tests.

    References
    ----------
    SMART App Launch 2.2, "Backend Services"; RFC 7523; RFC 6749 section 4.4.
    """

    def __init__(
        self,
        base_url: str,
        *,
        client_id: str,
        key: ClientKey,
        scopes: tuple[str, ...],
        token_endpoint: str = "",
        verify: Any = True,
        timeout_s: float = 30.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base_url = require_base_url(base_url)
        self._client_id, self._key, self._scopes = client_id, key, scopes
        self._endpoint = require_base_url(token_endpoint) and token_endpoint if token_endpoint else ""
        self._found = ""
        self._answer_timeout_s = 2 * timeout_s
        self._clock, self._monotonic = clock, monotonic
        self._http = httpx.Client(timeout=timeout_s, verify=verify, follow_redirects=False)
        self._held: Granted | None = None
        self._one_at_a_time = threading.Lock()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __call__(self) -> str:
        """Return an access token that is good for a while.

        Raises
        ------
        PeerUnreachable, PeerRefused, PeerAnswerInvalid, ConfigurationError
            If the authorization server gives none.
        """
        return self.granted().token

    def granted(self) -> Granted:
        """Return the token that is held, or the next one, with its scopes; errors as when called."""
        held = self._held
        if held is not None and self._monotonic() < held.renew_at_s:
            return held
        with self._one_at_a_time:
            if self._held is None or self._monotonic() >= self._held.renew_at_s:
                self._held = self._ask()
            return self._held

    def forget(self, token: str) -> None:
        """Drop a token that the FHIR server refused; one that another thread has renewed since stays."""
        with self._one_at_a_time:
            if self._held is not None and self._held.token == token:
                self._held = None

    def _ask(self) -> Granted:
        found, self._found = self._found, ""
        endpoint = self._endpoint or found or self._discovered()
        asked_at = self._monotonic()
        status, headers, body = self._answer(lambda: self._token_request(endpoint), origin_text(endpoint))
        if status != 200:
            raise self._refusal(status, headers, body)
        granted = self._granted(body, asked_at)
        # Kept only while it works: tokens may be given elsewhere tomorrow, so after any failure it is looked up again.
        self._found = endpoint
        _log.info("access token for the FHIR server", scopes=len(granted.scopes))
        return granted

    def _token_request(self, endpoint: str) -> httpx.Request:
        now = int(self._clock().timestamp())
        claims = {
            "iss": self._client_id,
            "sub": self._client_id,
            "aud": endpoint,
            "iat": now,
            "exp": now + _ASSERTION_S,
            "jti": secrets.token_urlsafe(24),
        }
        form = {
            "grant_type": "client_credentials",
            "scope": " ".join(self._scopes),
            "client_assertion_type": _ASSERTION_TYPE,
            "client_assertion": self._key.assertion(claims),
        }
        return self._http.build_request("POST", endpoint, data=form, headers={"Accept": "application/json"})

    def _discovered(self) -> str:
        url = f"{self._base_url}/.well-known/smart-configuration"
        request = self._http.build_request("GET", url, headers={"Accept": "application/json"})
        status, _, body = self._answer(lambda: request, origin_text(self._base_url))
        if status != 200 or body is None:
            raise PeerAnswerInvalid(
                found=f"HTTP status {status} without a JSON object for .well-known/smart-configuration of the FHIR server",
                allowed="its SMART configuration, with token_endpoint",
                action="set [fhir] token_endpoint, or let the server publish its SMART configuration",
            )
        self._require_offered(body)
        endpoint = body.get("token_endpoint")
        secure = urlsplit(self._base_url).scheme == "http" or str(endpoint).startswith("https://")
        if not isinstance(endpoint, str) or not secure or not _is_address(endpoint):
            raise PeerAnswerInvalid(
                found="a SMART configuration without a token_endpoint that can be used",
                allowed="an absolute URL, https where the FHIR server is",
                action="set [fhir] token_endpoint, or mend the server's SMART configuration",
            )
        return endpoint

    def _require_offered(self, configuration: Mapping[str, Any]) -> None:
        """Refuse a server that says it has no use for what we do; one that says nothing is asked."""
        needs = (
            ("grant_types_supported", "client_credentials"),
            ("token_endpoint_auth_methods_supported", "private_key_jwt"),
            ("token_endpoint_auth_signing_alg_values_supported", self._key.algorithm),
        )
        for name, value in needs:
            offered = configuration.get(name)
            if isinstance(offered, list) and value not in offered:
                raise PeerRefused(
                    found=f"a SMART configuration whose {name} lacks {value}",
                    allowed="SMART Backend Services with private_key_jwt",
                    action="let the server offer it, or use a key of the other kind (ES384, RS384), or set [fhir] token",
                )

    def _answer(self, request: Callable[[], httpx.Request], origin: str) -> tuple[int, httpx.Headers, Mapping[str, Any] | None]:
        """Return status, headers and JSON object of an answer; None where it holds none."""
        end_s = time.monotonic() + self._answer_timeout_s
        try:
            response = self._http.send(request(), stream=True)
            with contextlib.closing(response):
                received = whole_body(response, _wrong_body, limit=_LARGEST_ANSWER, end_s=end_s)
        except httpx.TransportError as error:
            raise _away(f"{type(error).__name__} at the authorization server {origin}") from error
        if response.status_code == 429 or response.status_code >= 500:
            raise _away(f"HTTP status {response.status_code} from the authorization server {origin}")
        try:
            body = parse_json(received)
        except ValueError:
            body = None
        return response.status_code, response.headers, body if isinstance(body, Mapping) else None

    def _granted(self, body: Mapping[str, Any] | None, asked_at: float) -> Granted:
        if body is None:
            raise _invalid("a token answer that is no JSON object")
        token, kind, seconds = body.get("access_token"), body.get("token_type"), body.get("expires_in")
        if not isinstance(token, str) or not token:
            raise _invalid("a token answer without access_token")
        if str(kind).lower() != "bearer":
            raise _invalid("a token answer whose token_type is not bearer")
        if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds <= 0:
            raise _invalid("a token answer without a usable expires_in")
        scope = body.get("scope")
        scopes = tuple(scope.split()) if isinstance(scope, str) else self._scopes
        # Short-lived tokens are renewed at four fifths of their time, long ones a minute before the end.
        return Granted(token, scopes, asked_at + max(seconds - _RENEW_BEFORE_S, seconds * 0.8))

    def _refusal(self, status: int, headers: httpx.Headers, body: Mapping[str, Any] | None) -> PeerRefused | PeerAnswerInvalid:
        code = (body or {}).get("error")
        if code not in _ACTIONS:
            return _invalid(f"HTTP status {status} {'with an unknown error code' if body else 'without JSON'} for a token")
        skew = self._skew_s(headers)
        clocks = f"; its clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} ours" if skew else ""
        scopes = f"; asked for {' '.join(self._scopes)}" if code == "invalid_scope" else ""
        return PeerRefused(
            found=f"{code} from the authorization server{clocks}{scopes}",
            allowed="an access token for our client",
            action=("set the clocks by NTP; " if skew else "") + _ACTIONS[str(code)],
        )

    def _skew_s(self, headers: httpx.Headers) -> float:
        """Return how far the server's clock is ahead of ours; 0 where that is little or unknown."""
        try:
            theirs = parsedate_to_datetime(headers.get("Date", ""))
        except ValueError:
            return 0.0
        skew = ((theirs if theirs.tzinfo else theirs.replace(tzinfo=UTC)) - self._clock()).total_seconds()
        return skew if abs(skew) > _TOLERABLE_SKEW_S else 0.0


def _is_address(url: str) -> bool:
    try:
        require_base_url(url)
    except ConfigurationError:
        return False
    return True


def _invalid(found: str) -> PeerAnswerInvalid:
    return PeerAnswerInvalid(
        found=f"{found} from the authorization server",
        allowed="an answer as RFC 6749 section 5 has it, with expires_in",
        action="check [fhir] token_endpoint and the authorization server's log, then retry the job",
    )


def _wrong_body(found: str, allowed: str) -> PeerAnswerInvalid:
    return PeerAnswerInvalid(
        found=f"{found} from the authorization server",
        allowed=allowed,
        action="check [fhir] token_endpoint and the authorization server's log, then retry the job",
    )


def _away(found: str) -> PeerUnreachable:
    return PeerUnreachable(found, allowed="an answer", action="check that it runs; the job tries again")
