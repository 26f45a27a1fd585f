"""The keys of an installation over time: the one that signs, and those that have stopped.

A retired key stays in the JWK Set, with the moment when it stopped (`exp`) and, where it was revoked, since when and why
(`revoked`): what it signed before that stays true, what it signs later is refused.

References
----------
RFC 7517 (JWK Set); OpenID Federation 1.0 section 8.7, for `exp` and `revoked` of historical keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from domain.errors import VerificationFailed
from provenance.canonical import instant
from provenance.signing import KEY_KIND, SigningKey, find_key, key_id_of, verify

KEY_VERSION = "veraicon-key/1"
HANDOVER, RETIREMENT, REVOCATION = "handover", "retirement", "revocation"
# OpenID Federation 1.0 section 8.7.3.
REASONS = ("unspecified", "compromised", "superseded")
PUBLIC_MEMBERS = ("kty", "crv", "x", "y", "kid", "use", "alg")

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RetiredKey:
    """The public half of a key that signs no more.

    Attributes
    ----------
    public : mapping
        Public JWK.
    stopped_at : datetime
        Signatures from then on are not valid.
    revoked_at : datetime or None
        Since when it counts as revoked; None: it was only replaced.
    reason : str
        One of `REASONS`; empty where it is not revoked.
    """

    public: Json
    stopped_at: datetime
    revoked_at: datetime | None = None
    reason: str = ""

    @property
    def kid(self) -> str:
        """Its key id."""
        return str(self.public["kid"])

    def to_jwk(self) -> dict[str, Any]:
        """Return the JWK with `exp` and, where it was revoked, `revoked`."""
        jwk = {name: self.public[name] for name in PUBLIC_MEMBERS} | {"exp": int(self.stopped_at.timestamp())}
        if self.revoked_at is not None:
            jwk["revoked"] = {"revoked_at": int(self.revoked_at.timestamp()), "reason": self.reason}
        return jwk

    @classmethod
    def from_jwk(cls, jwk: Json) -> RetiredKey:
        """Return the key of a JWK as `to_jwk` writes it.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a member is missing or of another type.
        """
        revoked = jwk.get("revoked")
        return cls(
            public={name: str(jwk[name]) for name in PUBLIC_MEMBERS},
            stopped_at=_moment(jwk["exp"]),
            revoked_at=None if revoked is None else _moment(revoked["revoked_at"]),
            reason="" if revoked is None else str(revoked.get("reason", REASONS[0])),
        )


@dataclass(frozen=True, slots=True)
class Keyring:
    """The key that signs, and the public halves of those before it."""

    current: SigningKey
    retired: tuple[RetiredKey, ...] = ()

    def public_jwks(self) -> dict[str, Any]:
        """Return all public keys as a JWK Set, the current one first."""
        return {"keys": [*self.current.public_jwks()["keys"], *(key.to_jwk() for key in self.retired)]}


def require_valid_at(kid: str, jwks: Json, moment: datetime) -> None:
    """Check that a key signed, or was free to sign, at a moment.

    Parameters
    ----------
    kid : str
        Key id: the thumbprint (RFC 7638) of the key itself, whatever label the set gives it.
    jwks : mapping
        JWK Set of the keys that the verifier trusts. If it holds the key twice, each copy has to allow the moment.
    moment : datetime
        When the signature was made, aware.

    Raises
    ------
    VerificationFailed
        If the set does not hold the key, or the key had stopped or was revoked by then.
    """
    for jwk in find_key(kid, jwks):
        try:
            stopped = _moment(jwk["exp"]) if "exp" in jwk else None
            revoked = _moment(jwk["revoked"]["revoked_at"]) if "revoked" in jwk else None
            reason = str(jwk["revoked"].get("reason", REASONS[0]))[:20] if "revoked" in jwk else ""
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise _not_valid("a key set whose exp or revoked cannot be read") from error
        if stopped is not None and moment >= stopped:
            raise _not_valid(f"a signature of {instant(moment)} by a key that had stopped on {instant(stopped)}")
        if revoked is not None and moment >= revoked:
            raise _not_valid(f"a signature of {instant(moment)} by a key revoked since {instant(revoked)} ({reason})")


def keys_of_site(kid: str, jwks: Json) -> Json:
    """Return the keys of the site that a key belongs to: those with the same member ``site``, or with none as it has none.

    Who trusts several sites marks each key so; else all of them count as one site's, and each may speak for the others.
    A key that is not in the set leaves the set as it is.
    """
    try:
        sites = [one.get("site") for one in find_key(kid, jwks)]
    except VerificationFailed:
        return jwks
    return {"keys": [one for one in jwks["keys"] if isinstance(one, Mapping) and one.get("site") in sites]}


def without_times(jwks: Json) -> dict[str, Any]:
    """Return the keys of a set without `exp` and `revoked`: for whoever asks only whether one of them signed."""
    return {"keys": [{name: jwk[name] for name in PUBLIC_MEMBERS if name in jwk} for jwk in jwks["keys"]]}


def sign_handover(old: SigningKey, new: SigningKey, at: datetime) -> str:
    """Return the JWS by which a key names its successor; the same arguments give the same bytes."""
    payload = {"version": KEY_VERSION, "action": HANDOVER, "at": instant(at), "key": new.public_jwks()["keys"][0]}
    return old.sign(payload, kind=KEY_KIND)


def sign_retirement(new: SigningKey, old: RetiredKey, at: datetime) -> str:
    """Return the JWS by which a successor says when the key before it stops; a witness cannot know it otherwise."""
    payload = {"version": KEY_VERSION, "action": RETIREMENT, "at": instant(at), "key": replace(old, revoked_at=None).to_jwk()}
    return new.sign(payload, kind=KEY_KIND)


def sign_revocation(current: SigningKey, revoked: RetiredKey, at: datetime) -> str:
    """Return the JWS by which the installation says, at a moment, that a retired key is revoked."""
    payload = {"version": KEY_VERSION, "action": REVOCATION, "at": instant(at), "key": revoked.to_jwk()}
    return current.sign(payload, kind=KEY_KIND)


def with_successor(jwks: Json, jws: str, logged_at: datetime | None = None) -> dict[str, Any]:
    """Return the trusted keys with what a key document of the log adds: a successor, when a key stops, or a revocation.

    Parameters
    ----------
    jwks : mapping
        JWK Set of the keys that the verifier trusts so far.
    jws : str
        From `sign_handover`, `sign_retirement` or `sign_revocation`.
    logged_at : datetime or None
        When it was entered in the log, aware: whoever steals an old key can write any date into the document itself.

    Raises
    ------
    VerificationFailed
        If no trusted key signed it, that key was not valid then, or it says when it stops itself.
    """
    payload = verify(jws, jwks, kind=KEY_KIND)
    members = [dict(one) for one in jwks["keys"]]
    try:
        jwk = dict(payload["key"])
        if payload["version"] != KEY_VERSION or payload["action"] not in {HANDOVER, RETIREMENT, REVOCATION}:
            raise ValueError("version or action")
        at = datetime.fromisoformat(payload["at"])
        replaced = [] if payload["action"] == HANDOVER else find_key(RetiredKey.from_jwk(jwk).kid, jwks)
    except (KeyError, TypeError, ValueError) as error:
        raise _not_valid("a key document of another form") from error
    signer = key_id_of(jws)
    for moment in (at, logged_at or at):
        require_valid_at(signer, jwks, moment)
    if payload["action"] == RETIREMENT:
        if replaced == find_key(signer, jwks):
            raise _not_valid("a key that says itself when it stops")
        return {"keys": [one | {"exp": jwk["exp"]} if one in replaced else one for one in members]}
    return {"keys": [one for one in members if one not in replaced and one != jwk] + [jwk]}


def _moment(seconds: object) -> datetime:
    """A NumericDate (RFC 7519 section 2) as an aware time."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ValueError("no NumericDate")
    return datetime.fromtimestamp(seconds, UTC)


def _not_valid(found: str) -> VerificationFailed:
    return VerificationFailed(
        found=found,
        allowed="a signature by a trusted key, made before that key stopped and before it was revoked",
        action="do not trust the object; get the present key set of the installation, and ask it when the object was signed",
    )
