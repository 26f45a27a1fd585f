"""Keys of a site: where they come from, how one takes the place of another, and how one is revoked."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from domain.errors import ConfigurationError, RequestInvalid, VerificationFailed
from provenance.attest import _entered
from provenance.canonical import canonical_json, sha256_digest
from provenance.digesting.merkle import consistency_path, inclusion_path, leaf_hash, nodes_of, tree_root
from provenance.log_proof import ATTESTATION_ENTRY, KEY_ENTRY, log_entry, proof_to_json, require_logged, sign_head
from provenance.signatures.keyring import require_valid_at, sign_handover
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
        proof_to_json(log.enter(ATTESTATION_ENTRY, after)), log.prove(2).entry and _digest(log, 2), "attestation", keys
    )
    assert log.check().ok
    assert _modes(store) == {"signing.jwk": 0o600, f"{old}.jwk": 0o600, f"{key.kid}.jwk": 0o600}
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
    assert (log.check().ok, log.head().size) == (True, 5)
    told = witness(Kept(seen.now.jws, seen.keys), LocalSource(log, {"keys": []}))
    assert told.now.size == 5
    with pytest.raises(VerificationFailed, match="revoked since"):
        require_valid_at(old, told.keys, datetime.now(UTC))
    told_before = revoke(store, log, key, old, reason="compromised", since=datetime.now(UTC) - timedelta(days=9))
    assert told_before.revoked_at is not None
    assert told_before.revoked_at < datetime.now(UTC) - timedelta(days=8)
    for wrong in ({"kid": old, "reason": "superseded"}, {"kid": "nobody", "reason": "superseded"}, {"kid": old, "reason": "x"}):
        with pytest.raises(RequestInvalid):
            revoke(store, log, key, **wrong)


@pytest.mark.requirement("PROV-KEY-001")
def test_what_the_next_key_signed_stays_in_the_log_when_the_one_before_is_revoked(
    settings: Settings, store: KeyStore, key: SiteKey, log: TransparencyLog
) -> None:
    old, since = key.kid, datetime.now(UTC) - timedelta(days=1)
    log.enter(ATTESTATION_ENTRY, key.sign({"a": 1}, kind=ATTESTATION_KIND))
    rotate(store, log)
    proof = log.enter(ATTESTATION_ENTRY, key.sign({"a": 2}, kind=ATTESTATION_KIND))
    head_of_old = replace(proof, previous=log.prove(1).previous, consistency=log.consistency(1, proof.head.size))
    revoke(store, log, key, old, reason="compromised", since=since)
    digest = _digest(log, proof.index)
    require_logged(proof_to_json(head_of_old), digest, ATTESTATION_ENTRY, site_keyring(settings).public_jwks())


@pytest.mark.requirement("PROV-KEY-001")
def test_an_attestation_that_waited_until_its_key_had_stopped_is_signed_again(
    store: KeyStore, key: SiteKey, log: TransparencyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, waited = key.kid, key.sign({"a": 1}, kind=ATTESTATION_KIND)
    rotate(store, log)
    monkeypatch.setattr("veraicon.transparency.log._now", lambda: datetime.now(UTC) + timedelta(minutes=1))
    with pytest.raises(VerificationFailed, match="had stopped"):
        log.enter(ATTESTATION_ENTRY, waited)
    answers = [waited]
    monkeypatch.setattr(
        key, "sign", lambda payload, *, kind: answers.pop() if answers else SiteKey.sign(key, payload, kind=kind)
    )
    jws, proof = _entered({"a": 1}, key, lambda one: log.enter(ATTESTATION_ENTRY, one))
    assert key_id_of(waited) == old
    assert key_id_of(jws) == key.kid
    require_valid_at(key.kid, keyring_of(store, key).public_jwks(), proof.logged_at)


@pytest.mark.requirement("PROV-KEY-002")
def test_a_lost_key_is_retired_and_the_log_goes_on(
    settings: Settings, store: KeyStore, key: SiteKey, log: TransparencyLog
) -> None:
    lost, jws = key.kid, key.sign({"a": 1}, kind=ATTESTATION_KIND)
    log.enter(ATTESTATION_ENTRY, jws)
    assert store.file is not None
    store.file.unlink()
    made = SiteKey(store)
    assert (made.kid != lost, store.is_retired(lost)) == (True, True)
    log.enter(ATTESTATION_ENTRY, made.sign({"a": 2}, kind=ATTESTATION_KIND))
    assert log.check().ok
    verify(jws, site_keyring(settings).public_jwks(), kind=ATTESTATION_KIND)


class Forged:
    """A log that continues the true one by `more`, under a head of another key."""

    def __init__(
        self,
        log: TransparencyLog,
        signer: SigningKey,
        document: str = "",
        *,
        shown: bool = True,
        later: timedelta = timedelta(),
    ) -> None:
        now = datetime.now(UTC) + later
        self._true = log.entries(0, log.head().size)
        kind = KEY_ENTRY if document else ATTESTATION_ENTRY
        entry = log_entry(kind, sha256_digest(document.encode()), now)
        self._given = [*self._true, {"entry": json.loads(entry), "document": document}]
        in_tree = self._given if shown else [*self._true, {"entry": json.loads(log_entry(kind, sha256_digest(b"x"), now))}]
        self._leaves = [leaf_hash(canonical_json(one["entry"])) for one in in_tree]
        node = nodes_of(self._leaves)
        self._head = sign_head(log.head().log_id, len(in_tree), tree_root(len(in_tree), node), now, signer)

    def head(self) -> str:
        return self._head.jws

    def consistency(self, first: int, second: int) -> tuple[bytes, ...]:
        return consistency_path(first, second, nodes_of(self._leaves))

    def inclusion(self, index: int, size: int) -> tuple[bytes, tuple[bytes, ...]]:
        return canonical_json(self._given[index]["entry"]), inclusion_path(index, size, nodes_of(self._leaves))

    def entries(self, start: int, end: int) -> list[dict[str, Any]]:
        return self._given[start:end]

    def keys(self) -> dict[str, Any]:
        return {"keys": []}


@pytest.mark.requirement("PROV-KEY-002")
def test_a_witness_is_bound_by_a_rotation_and_believes_no_entry_that_is_in_no_tree(
    store: KeyStore, key: SiteKey, log: TransparencyLog
) -> None:
    assert store.file is not None
    stolen, thief = SigningKey.from_text(store.file.read_text()), SigningKey.generate()
    seen = witness(None, LocalSource(log, {}), key.public_jwks())
    before = Kept(seen.now.jws, seen.keys)
    for shown, why in ((False, "not those of its own tree head"), (True, "")):
        forged = Forged(log, thief, sign_handover(stolen, thief, datetime.now(UTC)), shown=shown)
        if why:
            with pytest.raises(VerificationFailed, match=why):
                witness(before, forged)
        else:  # as long as the key has not stopped, whoever holds it is the site
            assert thief.kid in json.dumps(witness(before, forged).keys)
    rotate(store, log)
    log.enter(ATTESTATION_ENTRY, key.sign({"a": 1}, kind=ATTESTATION_KIND))
    told = witness(before, LocalSource(log, {}))
    after, later = Kept(told.now.jws, told.keys), timedelta(minutes=1)
    assert {one["kid"]: "exp" in one for one in told.keys["keys"]} == {stolen.kid: True, key.kid: False}
    with pytest.raises(VerificationFailed, match="had stopped"):
        witness(after, Forged(log, stolen, later=later))
    early = datetime.now(UTC) - timedelta(days=1)  # what the document says: the log says when it came
    with pytest.raises(VerificationFailed, match="not among the trusted"):
        witness(after, Forged(log, thief, sign_handover(stolen, thief, early), later=later))


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
    shutil.rmtree(store.retired.parent / "public")  # as at a site that kept no public halves
    checks = {check.name: check for check in examine(settings)}
    assert checks["transparency log"].ok is False
    assert "not among the trusted keys" in checks["transparency log"].detail
