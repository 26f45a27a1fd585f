"""The times of an output: in order, none in the future, and each signature by a key that was valid then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from provenance.checks.companions import Attested, provenance_jws
from provenance.checks.names import NOT_SIGNED
from provenance.log_proof import LogProof
from provenance.report import Answer, no, unknown, yes
from provenance.signatures.keyring import require_valid_at
from provenance.signing import key_id_of
from provenance.statement import SignedClaims

# The clocks of a site's machines, and the one here, differ by no more than this.
CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Moments:
    """Where the times of an output stand; what was not given is None.

    Attributes
    ----------
    statement_kid : str
        Key that signed the statement in the instances; empty where no instance was given.
    """

    signed: SignedClaims | None
    statement_kid: str
    attested: Attested | None
    provenance: Mapping[str, Any] | None
    proof: LogProof | None


def check_times(moments: Moments, now: datetime) -> Answer:
    """Say whether everything happened in the order in which it must have, and nothing later than `now`, up to `CLOCK_SKEW`."""
    known = _known(moments)
    if not known:
        return unknown(NOT_SIGNED)
    for (earlier, before), (later, after) in pairwise(known):
        if before > after + CLOCK_SKEW:
            return no(f"{later} ({after.isoformat()}) before it was {earlier} ({before.isoformat()})")
    name, last = max(known, key=lambda one: one[1])
    if last > now + CLOCK_SKEW:
        return no(f"{name} on {last.isoformat()}, which is still to come")
    return yes(f"{', '.join(name for name, _ in known)}: in this order, and nothing in the future")


def _known(moments: Moments) -> list[tuple[str, datetime]]:
    known: list[tuple[str, datetime]] = []
    if moments.signed is not None:
        claims = moments.signed.claims
        known += [
            ("requested", _aware(claims["requestedAt"])),
            ("generated", _aware(claims["generatedAt"])),
            ("approved", _aware(claims["approval"]["at"])),
        ]
    if moments.attested is not None:
        if moments.attested.accepted_at:
            known.append(("accepted", max(moments.attested.accepted_at)))
        known.append(("attested", moments.attested.attested_at))
    if moments.provenance is not None and moments.proof is not None:
        known.append(("recorded", _aware(moments.provenance["recorded"])))
    if moments.proof is not None:
        known += [("logged", moments.proof.logged_at), ("under a signed tree head", moments.proof.head.signed_at)]
    return known


def check_keys(moments: Moments, keys: Mapping[str, Any]) -> Answer:
    """Say whether each key was valid when it signed.

    The log's own time is believed before the attestation's. It is worth as much as the key of the tree heads: whoever steals an
    old key can write any date into what he signs, and make a log of his own around it. That it is not the site's log, only a
    tree head shows that somebody kept (`veraicon log witness`).
    """
    checked: list[str] = []
    if moments.signed is not None and moments.statement_kid:
        require_valid_at(moments.statement_kid, keys, _aware(moments.signed.claims["approval"]["at"]))
        checked.append("statement")
    if moments.attested is not None:
        at = moments.proof.logged_at if moments.proof else moments.attested.attested_at
        require_valid_at(moments.attested.kid, keys, at)
        checked.append("attestation")
    jws = provenance_jws(moments.provenance) if moments.provenance else None
    if jws and moments.provenance:
        require_valid_at(key_id_of(jws), keys, _aware(moments.provenance["recorded"]))
        checked.append("Provenance")
    if not checked:
        return unknown(NOT_SIGNED)
    return yes(f"valid when it signed: {', '.join(checked)}")


def _aware(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment
