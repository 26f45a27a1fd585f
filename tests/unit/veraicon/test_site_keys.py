"""Keys of a site: where they come from, how one takes the place of another, and how one is revoked."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from domain.errors import ConfigurationError, RequestInvalid, VerificationFailed
from provenance.log_proof import ATTESTATION_ENTRY, proof_to_json, require_logged
from provenance.signatures.keyring import require_valid_at
from provenance.signing import ATTESTATION_KIND, SigningKey, key_id_of, verify
from veraicon.database import connect, migrate
from veraicon.doctor import examine
from veraicon.key_changes import revoke, rotate
from veraicon.settings import Settings, load_settings
from veraicon.site_keys import KeyStore, SiteKey, key_store, keyring_of, site_keyring
from veraicon.transparency.log import TransparencyLog
from veraicon.transparency.witness import Kept, LocalSource, witness


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(storage={"folder": str(tmp_path / "data"), "min_free_mib": 1})


@pytest.fixture
def store(settings: Settings) -> KeyStore:
    return key_store(settings)


@pytest.fixture
def key(store: KeyStore) -> SiteKey:
    return SiteKey(store)


@pytest.fixture
def log(settings: Settings, store: KeyStore, key: SiteKey) -> Iterator[TransparencyLog]:
    engine = connect(settings)
    migrate(engine)
    yield TransparencyLog(engine, key, lambda: keyring_of(store, key).public_jwks())
    engine.dispose()


@pytest.mark.requirement("PROV-KEY-002")
def test_after_a_rotation_the_old_signature_verifies_and_the_same_process_signs_with_the_new_key(
    settings: Settings, store: KeyStore, key: SiteKey, log: TransparencyLog
) -> None:
    old, before = key.kid, key.sign({"a": 1}, kind=ATTESTATION_KIND)
    done = rotate(store, log)
    after = key.sign({"a": 1}, kind=ATTESTATION_KIND)
    assert (done.old, done.new, key_id_of(after)) == (old, key.kid, key.kid)
    assert old != key.kid
    keys = site_keyring(settings).public_jwks()
    assert [one["kid"] for one in keys["keys"]] == [key.kid, old]
    for jws in (before, after):
        verify(jws, keys, kind=ATTESTATION_KIND)
    require_valid_at(old, keys, datetime.now(UTC))  # made at this very moment: it is given two seconds
    with pytest.raises(VerificationFailed, match="had stopped"):
        require_valid_at(old, keys, datetime.now(UTC) + timedelta(minutes=1))
    require_logged(
        proof_to_json(log.enter(ATTESTATION_ENTRY, after)), log.prove(1).entry and _digest(log, 1), "attestation", keys
    )
    assert log.check().ok
    assert _modes(store) == {"signing.jwk": 0o600, f"{old}.jwk": 0o600}
    assert "d" not in json.loads((store.retired / f"{old}.jwk").read_text())


def _digest(log: TransparencyLog, index: int) -> str:
    return str(log.entries(index, index + 1)[0]["entry"]["digest"])


def _modes(store: KeyStore) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.retired.parent.rglob("*") if path.is_file()}


def test_the_old_private_key_is_kept_only_where_that_is_asked(store: KeyStore, key: SiteKey, log: TransparencyLog) -> None:
    old = key.kid
    rotate(store, log, keep=True)
    kept = store.retired.parent / "kept" / f"{old}.jwk"
    assert SigningKey.load_or_create(kept).kid == old


@pytest.mark.requirement("PROV-KEY-001")
def test_a_revoked_key_is_refused_and_the_log_goes_on(
    settings: Settings, store: KeyStore, key: SiteKey, log: TransparencyLog
) -> None:
    old, first = key.kid, log.enter(ATTESTATION_ENTRY, "header.first.signature")
    seen = witness(None, LocalSource(log, keyring_of(store, key).public_jwks()))
    with pytest.raises(RequestInvalid, match="keys rotate"):
        revoke(store, log, key, old, reason="compromised")
    rotate(store, log)
    revoke(store, log, key, old[:8], reason="compromised", since=datetime.now(UTC) - timedelta(days=1))
    keys = site_keyring(settings).public_jwks()
    assert keys["keys"][1]["revoked"]["reason"] == "compromised"
    with pytest.raises(VerificationFailed, match="revoked since"):
        require_logged(proof_to_json(first), _digest(log, 0), ATTESTATION_ENTRY, keys)
    log.enter(ATTESTATION_ENTRY, "header.second.signature")
    assert (log.check().ok, log.head().size) == (True, 4)
    told = witness(Kept(seen.now.jws, seen.keys), LocalSource(log, {"keys": []}))
    assert told.now.size == 4
    with pytest.raises(VerificationFailed, match="revoked since"):
        require_valid_at(old, told.keys, datetime.now(UTC))
    for wrong in ({"kid": old, "reason": "superseded"}, {"kid": "nobody", "reason": "superseded"}, {"kid": old, "reason": "x"}):
        with pytest.raises(RequestInvalid):
            revoke(store, log, key, **wrong)


@pytest.mark.requirement("PROV-KEY-002")
def test_a_witness_who_trusts_the_old_key_follows_it_to_the_new_one_and_to_no_other(
    store: KeyStore, key: SiteKey, log: TransparencyLog
) -> None:
    seen = witness(None, LocalSource(log, key.public_jwks()))
    rotate(store, log)
    rotate(store, log)
    told = witness(Kept(seen.now.jws, seen.keys), LocalSource(log, {"keys": []}))
    assert {one["kid"] for one in told.keys["keys"]} == {key.kid, *(one.kid for one in store.retired_keys())}
    with pytest.raises(VerificationFailed, match="not among the trusted"):
        witness(None, LocalSource(log, key.public_jwks()), SigningKey.generate().public_jwks())


def test_a_key_from_the_environment_signs_and_its_rotation_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = SigningKey.generate()
    monkeypatch.setenv("VERAICON_PROVENANCE__KEY", given._private_text())
    settings = load_settings(storage={"folder": str(tmp_path / "data")})
    store = key_store(settings)
    key = SiteKey(store)
    assert (key.kid, store.file) == (given.kid, None)
    assert json.loads(given._private_text())["d"] not in repr(store) + repr(settings) + repr(key)
    engine = connect(settings)
    migrate(engine)
    log = TransparencyLog(engine, key, lambda: keyring_of(store, key).public_jwks())
    with pytest.raises(ConfigurationError, match="rotate --to FILE"):
        rotate(store, log)
    done = rotate(store, log, to=tmp_path / "new.jwk")
    assert not done.in_place
    with pytest.raises(ConfigurationError, match="retired"):
        key.sign({}, kind=ATTESTATION_KIND)
    assert {check.name: check.ok for check in examine(settings)}["signing key"] is False
    with pytest.raises(ConfigurationError, match="retired"):
        rotate(store, log, to=tmp_path / "newer.jwk")
    monkeypatch.setenv("VERAICON_PROVENANCE__KEY", (tmp_path / "new.jwk").read_text())
    restarted = load_settings(storage={"folder": str(tmp_path / "data")})
    assert key_id_of(SiteKey(key_store(restarted)).sign({}, kind=ATTESTATION_KIND)) == done.new
    assert [one.kid for one in site_keyring(restarted).retired] == [given.kid]
    engine.dispose()


def test_a_key_given_twice_and_a_text_that_is_no_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="key_file and key are both given"):
        load_settings(provenance={"key": "secret-text", "key_file": "x"})
    settings = load_settings(storage={"folder": str(tmp_path)}, provenance={"key": "secret-text"})
    with pytest.raises(ConfigurationError) as caught:
        site_keyring(settings)
    assert "secret-text" not in str(caught.value)


def test_a_retired_key_file_that_cannot_be_read_is_named(settings: Settings, store: KeyStore) -> None:
    store.retired.mkdir(parents=True)
    (store.retired / "broken.jwk").write_text('{"kty": "EC"}')
    with pytest.raises(ConfigurationError, match=r"retired/broken\.jwk"):
        site_keyring(settings)


def test_the_doctor_names_open_key_files_unknown_keys_and_a_log_that_was_changed(
    settings: Settings, store: KeyStore, log: TransparencyLog
) -> None:
    log.enter(ATTESTATION_ENTRY, "header.first.signature")
    checks = {check.name: check for check in examine(settings)}
    assert [checks[name].ok for name in ("signing key", "attestation keys", "transparency log")] == [True, True, True]
    assert store.file is not None
    store.file.chmod(0o644)
    (site,) = [check for check in examine(settings) if check.name == "site"]
    assert "chmod 600" in site.detail
    store.file.unlink()
    checks = {check.name: check for check in examine(settings)}
    assert checks["transparency log"].ok is False
    assert "not among the trusted keys" in checks["transparency log"].detail
