"""Keys over time: what a retired or revoked key signed before stays true, what it signs after is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from domain.errors import VerificationFailed
from provenance.signatures.keyring import Keyring, RetiredKey, require_valid_at, sign_handover, sign_revocation, with_successor
from provenance.signing import ATTESTATION_KIND, SigningKey, verify

OLD, NEW, FOREIGN = SigningKey.generate(), SigningKey.generate(), SigningKey.generate()
STOPPED = datetime(2026, 3, 1, tzinfo=UTC)
BEFORE, AFTER = STOPPED - timedelta(days=1), STOPPED + timedelta(seconds=1)


def _retired(**more: Any) -> RetiredKey:
    return RetiredKey(OLD.public_jwks()["keys"][0], STOPPED, **more)


@pytest.mark.requirement("PROV-KEY-001")
def test_a_retired_key_holds_for_the_time_before_it_stopped() -> None:
    keys = Keyring(NEW, (_retired(),)).public_jwks()
    assert verify(OLD.sign({"a": 1}, kind=ATTESTATION_KIND), keys, kind=ATTESTATION_KIND) == {"a": 1}
    require_valid_at(OLD.kid, keys, BEFORE)
    require_valid_at(NEW.kid, keys, AFTER)
    for moment in (STOPPED, AFTER):
        with pytest.raises(VerificationFailed, match="had stopped on 2026-03-01"):
            require_valid_at(OLD.kid, keys, moment)


@pytest.mark.requirement("PROV-KEY-001")
def test_a_revoked_key_holds_for_the_time_before_its_revocation() -> None:
    keys = Keyring(NEW, (_retired(revoked_at=BEFORE, reason="compromised"),)).public_jwks()
    assert keys["keys"][1]["revoked"] == {"revoked_at": int(BEFORE.timestamp()), "reason": "compromised"}
    require_valid_at(OLD.kid, keys, BEFORE - timedelta(seconds=1))
    with pytest.raises(VerificationFailed, match="compromised"):
        require_valid_at(OLD.kid, keys, BEFORE)


def test_a_key_set_cannot_make_a_stopped_key_valid_by_holding_it_twice_or_under_another_label() -> None:
    stopped = _retired().to_jwk() | {"kid": "another label"}
    for keys in ([OLD.public_jwks()["keys"][0], stopped], [stopped]):
        with pytest.raises(VerificationFailed, match="had stopped"):
            require_valid_at(OLD.kid, {"keys": keys}, AFTER)


@pytest.mark.parametrize("change", [{"exp": "soon"}, {"exp": True}, {"revoked": {}}, {"revoked": 7}, {"exp": 1e300}])
def test_times_that_cannot_be_read_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(VerificationFailed, match="cannot be read"):
        require_valid_at(OLD.kid, {"keys": [_retired().to_jwk() | change]}, BEFORE)


def test_an_unknown_key_is_valid_at_no_time() -> None:
    with pytest.raises(VerificationFailed, match="not among the trusted"):
        require_valid_at(FOREIGN.kid, NEW.public_jwks(), BEFORE)


def test_a_retired_key_comes_back_from_its_jwk() -> None:
    for key in (_retired(), _retired(revoked_at=BEFORE, reason="superseded")):
        assert RetiredKey.from_jwk(key.to_jwk()) == key


@pytest.mark.requirement("PROV-KEY-002")
def test_who_trusts_the_old_key_comes_to_trust_the_one_that_it_names() -> None:
    handover = sign_handover(OLD, NEW, BEFORE)
    assert handover == sign_handover(OLD, NEW, BEFORE)
    keys = with_successor(OLD.public_jwks(), handover)
    require_valid_at(NEW.kid, keys, AFTER)
    assert with_successor(keys, handover) == keys
    with pytest.raises(VerificationFailed, match="not among the trusted"):
        with_successor(OLD.public_jwks(), sign_handover(FOREIGN, FOREIGN, BEFORE))
    with pytest.raises(VerificationFailed, match="had stopped"):
        with_successor(Keyring(NEW, (_retired(),)).public_jwks(), sign_handover(OLD, FOREIGN, AFTER))


@pytest.mark.requirement("PROV-KEY-002")
def test_a_signed_revocation_changes_the_trusted_keys() -> None:
    keys = with_successor(OLD.public_jwks(), sign_handover(OLD, NEW, BEFORE))
    told = with_successor(keys, sign_revocation(NEW, _retired(revoked_at=BEFORE, reason="compromised"), AFTER))
    with pytest.raises(VerificationFailed, match="compromised"):
        require_valid_at(OLD.kid, told, AFTER - timedelta(days=1))
