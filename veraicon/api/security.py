"""Who may call: the site's bearer token, or a JWT of the issuer that the site trusts, with a scope for what is asked.

Below /fhir a JWT needs SMART v2 system scopes by type and interaction (system/Patient.r, system/Task.c); everywhere else
veraicon/read for GET and HEAD, and veraicon/write for the rest.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Collection

import structlog
from fastapi import HTTPException, Request
from joserfc import jws, jwt
from joserfc.errors import JoseError

from domain.errors import CallerUnknown, ScopeMissing, VeraiconError
from fhir_adapter.server.scopes import missing_scopes, scope_needed
from veraicon.api.issuer_keys import IssuerKeys
from veraicon.sections import HttpSettings

_log = structlog.get_logger()

_FHIR = "/fhir"
_LONGEST_TOKEN = 16_384


def bearer_check(token: str) -> Callable[[Request], None]:
    """Return a dependency that refuses calls without the bearer token; none configured lets everyone in (loopback only)."""

    def check(request: Request) -> None:
        given = request.headers.get("Authorization", "")
        if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": 'Bearer realm="veraicon"'})

    return check


def gate(settings: HttpSettings) -> Callable[[Request], None]:
    """Return a dependency that lets callers in by the bearer token (everything) or by a JWT of the issuer (its scopes).

    Where neither is configured everyone is let in: the settings allow that on loopback only.

    References
    ----------
    RFC 6750; RFC 7519; RFC 8725 (algorithms on an allow-list, issuer and audience checked); SMART App Launch 2.2, scopes.
    """
    token = settings.token.get_secret_value()
    issuer = TrustedIssuer(settings) if settings.issuer else None

    def check(request: Request) -> None:
        if not token and issuer is None:
            return
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or not given:
            raise _unknown("no bearer token")
        if token and hmac.compare_digest(given.encode(), token.encode()):
            return
        if issuer is None:
            raise _unknown("another bearer token than the site's")
        scopes = issuer.scopes(given)
        require_scope(request.method, request.url.path, scopes)
        request.state.scopes = scopes

    return check


def require_scope(method: str, path: str, scopes: Collection[str]) -> None:
    """Stop where a token's scopes do not cover a request.

    Raises
    ------
    ScopeMissing
        Naming the scope.
    """
    if path == _FHIR or path.startswith(f"{_FHIR}/"):
        needed = _fhir_scope(method, path[len(_FHIR) :].strip("/"))
        lacking: Collection[str] = missing_scopes(scopes, [needed] if needed else [])
    else:
        lacking = {"veraicon/read" if method in ("GET", "HEAD") else "veraicon/write"} - set(scopes)
    if lacking:
        raise _lacking(lacking)


def holds_scope(request: Request, scope: str) -> bool:
    """Tell whether the caller, whom the gate let in, holds a further SMART scope; one without a JWT holds each."""
    scopes = getattr(request.state, "scopes", None)
    return scopes is None or not missing_scopes(scopes, [scope])


def require_held_scope(request: Request, scope: str) -> None:
    """Stop a caller who does not hold a further SMART scope, which a header of the request asks for.

    Raises
    ------
    ScopeMissing
        Naming the scope.
    """
    if not holds_scope(request, scope):
        raise _lacking([scope])


def _lacking(scopes: Collection[str]) -> ScopeMissing:
    return ScopeMissing(
        found="a token whose scopes do not cover this request",
        allowed=" ".join(scopes),
        action="ask the authorization server for this scope",
    )


def _fhir_scope(method: str, path: str) -> str:
    """Return the scope of a request below /fhir.

    A Bundle may do anything to any type, so it needs all of it; `$generate` is a way to write a Task.
    """
    method = "GET" if method == "HEAD" else method
    if path.endswith("$generate"):
        return "system/Task.c"
    if not path and method == "POST":
        return "system/*.cruds"
    return scope_needed(method, path)


class TrustedIssuer:
    """The authorization server whose tokens open our endpoints.

    Parameters
    ----------
    settings : HttpSettings
        Issuer, audience, algorithms, leeway and where its public keys are.
    now_s : callable
        Unix time; injected for tests.
    keys : IssuerKeys or None
        Its public keys; None: where the settings say.
    """

    def __init__(
        self, settings: HttpSettings, *, now_s: Callable[[], float] = time.time, keys: IssuerKeys | None = None
    ) -> None:
        self._issuer, self._audience, self._leeway_s = settings.issuer, settings.audience, settings.leeway_s
        self._algorithms, self._now_s = list(settings.algorithms), now_s
        self._keys = keys or IssuerKeys(url=settings.jwks_url, file=settings.jwks_file)

    def scopes(self, token: str) -> frozenset[str]:
        """Return the scopes of a token that holds.

        Raises
        ------
        CallerUnknown
            If signature, algorithm, issuer, audience, expiry or not-before do not hold. The token is not repeated.
        PeerUnreachable, PeerAnswerInvalid
            If no public key of the issuer was ever had, and none comes.
        """
        claims = self._claims(token)
        if claims.get("iss") != self._issuer:
            raise _unknown("a token of another issuer")
        audience = claims.get("aud")
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise _unknown("a token for another audience")
        now = self._now_s()
        if _moment(claims, "exp", required=True) + self._leeway_s <= now:
            raise _unknown("an expired token")
        if _moment(claims, "nbf") - self._leeway_s > now:
            raise _unknown("a token that is not valid yet")
        scope = claims.get("scope", claims.get("scp", ""))
        named = scope if isinstance(scope, list) else str(scope).split()
        return frozenset(str(name) for name in named)

    def _claims(self, token: str) -> dict[str, object]:
        if len(token) > _LONGEST_TOKEN:
            raise _unknown("a token that is too long")
        try:
            header = jws.extract_compact(token.encode("ascii")).headers()
        except (JoseError, ValueError) as error:
            raise _unknown("a token that is no JWT") from error
        # Before any key is looked for: a key must never meet an algorithm that the token chose.
        if header.get("alg") not in self._algorithms:
            raise _unknown("a token signed by an algorithm that is not on the list")
        key = self._keys.find(str(header.get("kid", "")))
        if key is None:
            raise _unknown("a token signed by a key that its issuer does not publish")
        try:
            return dict(jwt.decode(token, key, algorithms=self._algorithms).claims)
        except (JoseError, ValueError) as error:
            raise _unknown("a token whose signature does not hold") from error


def challenge(error: VeraiconError, *, shown: bool) -> dict[str, str]:
    """Return the WWW-Authenticate header of a refusal (RFC 6750 section 3), or none for another error.

    Parameters
    ----------
    error : VeraiconError
        The refusal.
    shown : bool
        Whether the caller showed anything: who shows nothing is not told an error code.
    """
    if isinstance(error, CallerUnknown):
        return {"WWW-Authenticate": 'Bearer realm="veraicon"' + (', error="invalid_token"' if shown else "")}
    if isinstance(error, ScopeMissing):
        return {"WWW-Authenticate": f'Bearer realm="veraicon", error="insufficient_scope", scope="{error.allowed}"'}
    return {}


def _moment(claims: dict[str, object], name: str, *, required: bool = False) -> float:
    """Return a NumericDate of RFC 7519; 0 where one that is not required is absent."""
    value = claims.get(name, None if required else 0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unknown(f"a token without a usable {name}")
    return value


def _unknown(found: str) -> CallerUnknown:
    _log.info("caller refused", reason=found)
    return CallerUnknown(
        found,
        allowed="the site's bearer token, or a JWT of the configured issuer for this audience",
        action="get a token and send it as Authorization: Bearer",
    )
