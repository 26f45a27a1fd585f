"""The transparency log in a database: appending, proving, and what `check` and a witness say after somebody changed it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from domain.attestation import Attestation
from domain.errors import RequestInvalid, ResourceNotFound, VerificationFailed
from provenance.canonical import canonical_json, sha256_digest
from provenance.digesting.merkle import leaf_hash, nodes_of, require_consistent, tree_root
from provenance.log_proof import (
    ATTESTATION_ENTRY,
    RECALL_ENTRY,
    log_entry,
    parse_hashes,
    proof_to_json,
    require_logged,
    sign_head,
)
from provenance.signing import SigningKey
from veraicon.api.app import create_app
from veraicon.database import connect, migrate
from veraicon.publishing import ATTESTATION
from veraicon.settings import load_settings
from veraicon.transparency import log as transparency
from veraicon.transparency.evidence import kept_proofs
from veraicon.transparency.log import TransparencyLog
from veraicon.transparency.witness import Kept, LocalSource, witness
from veraicon.wiring import open_site

KEY = SigningKey.generate()
KEYS = KEY.public_jwks()
OBJECTS = [f"header.payload{number}.signature" for number in range(11)]


def _digest(jws: str) -> str:
    return sha256_digest(jws.encode())


def _open(folder: Path) -> tuple[sa.Engine, TransparencyLog]:
    engine = connect(load_settings(storage={"folder": str(folder)}))
    migrate(engine)
    return engine, TransparencyLog(engine, KEY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def log(folder: Path) -> Iterator[TransparencyLog]:
    engine, opened = _open(folder)
    yield opened
    engine.dispose()


@pytest.fixture
def filled(log: TransparencyLog) -> TransparencyLog:
    for jws in OBJECTS:
        log.enter(ATTESTATION_ENTRY, jws)
    return log


def _job(folder: Path, name: str, jws: str, log: TransparencyLog) -> None:
    """What an attested job leaves in its folder."""
    proof = proof_to_json(log.enter(ATTESTATION_ENTRY, jws))
    attestation = Attestation(name, "1.2.3", (), "Provenance/p", (), jws, datetime(2026, 1, 1, tzinfo=UTC), log=proof)
    place = folder / "jobs" / name
    place.mkdir(parents=True)
    ATTESTATION.write(attestation, place / "attested.json")


@pytest.mark.requirement("PROV-LOG-001")
def test_each_append_gives_a_proof_that_holds_and_the_same_one_again(log: TransparencyLog) -> None:
    proofs = [log.enter(ATTESTATION_ENTRY, jws) for jws in OBJECTS]
    for index, (jws, proof) in enumerate(zip(OBJECTS, proofs, strict=True)):
        assert (proof.index, proof.head.size, proof.previous is None) == (index, index + 1, index == 0)
        require_logged(proof_to_json(proof), _digest(jws), ATTESTATION_ENTRY, KEYS)
        assert log.enter(ATTESTATION_ENTRY, jws) == proof
        require_logged(proof_to_json(log.prove(index)), _digest(jws), ATTESTATION_ENTRY, KEYS)
    assert log.enter(RECALL_ENTRY, OBJECTS[0]).index == len(OBJECTS)
    assert log.check().ok


@pytest.mark.requirement("PROV-LOG-001")
def test_the_root_is_that_of_the_entries_and_each_tree_is_the_beginning_of_the_next(filled: TransparencyLog) -> None:
    leaves = [leaf_hash(canonical_json(item["entry"])) for item in filled.entries(0, 100)]
    roots = [tree_root(size, nodes_of(leaves[:size])) for size in range(len(leaves) + 1)]
    assert filled.head().root == roots[-1]
    for first in range(len(roots)):
        for second in range(first, len(roots)):
            require_consistent(first, roots[first], second, roots[second], filled.consistency(first, second))


def test_an_empty_log_has_a_signed_head_and_no_proofs(log: TransparencyLog) -> None:
    assert (log.head().size, log.head().log_id) == (0, log.head().log_id)
    assert log.check().ok
    for wrong in (lambda: log.prove(0), lambda: log.consistency(0, 1), lambda: log.find("sha256:00")):
        with pytest.raises(ResourceNotFound):
            wrong()
    with pytest.raises(RequestInvalid):
        log.enter("note", OBJECTS[0])


def test_the_time_of_the_log_never_goes_back(log: TransparencyLog, monkeypatch: pytest.MonkeyPatch) -> None:
    first = log.enter(ATTESTATION_ENTRY, OBJECTS[0])
    monkeypatch.setattr(transparency, "_now", lambda: datetime(2020, 1, 1, tzinfo=UTC))
    second = log.enter(ATTESTATION_ENTRY, OBJECTS[1])
    assert second.head.signed_at == first.head.signed_at
    require_logged(proof_to_json(second), _digest(OBJECTS[1]), ATTESTATION_ENTRY, KEYS)


Change = Callable[[sqlite3.Connection], Any]


def _cut(tail: int) -> Change:
    def change(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM log_leaf WHERE leaf_index >= ?", (tail,))
        db.execute("DELETE FROM log_head WHERE size > ?", (tail,))
        db.execute("DELETE FROM log_node WHERE ((place + 1) << level) > ?", (tail,))

    return change


def _swap(db: sqlite3.Connection) -> None:
    db.execute("UPDATE log_leaf SET leaf_index = -1 WHERE leaf_index = 4")
    db.execute("UPDATE log_leaf SET leaf_index = 4 WHERE leaf_index = 6")
    db.execute("UPDATE log_leaf SET leaf_index = 6 WHERE leaf_index = -1")


def _rewrite_with_hashes(db: sqlite3.Connection) -> None:
    """Another entry in leaf 4, with all hashes above it made to fit: only the signed heads tell."""
    (moment,) = db.execute("SELECT logged_at FROM log_leaf WHERE leaf_index = 4").fetchone()
    entry = log_entry(ATTESTATION_ENTRY, _digest("forged"), datetime.fromisoformat(moment).replace(tzinfo=UTC))
    db.execute("UPDATE log_leaf SET digest = ?, entry = ? WHERE leaf_index = 4", (_digest("forged"), entry))
    leaves = [leaf_hash(one) for (one,) in db.execute("SELECT entry FROM log_leaf ORDER BY leaf_index")]
    node = nodes_of(leaves)
    for level, place in db.execute("SELECT level, place FROM log_node").fetchall():
        db.execute("UPDATE log_node SET hash = ? WHERE level = ? AND place = ?", (node(level, place), level, place))


def _foreign_head(db: sqlite3.Connection) -> None:
    (log_id,) = db.execute("SELECT log_id FROM log_identity").fetchone()
    head = sign_head(log_id, 7, b"\x01" * 32, datetime(2026, 1, 1, tzinfo=UTC), SigningKey.generate())
    db.execute("UPDATE log_head SET jws = ? WHERE size = 7", (head.jws,))


_CHANGES: dict[str, tuple[str, Change]] = {
    "a leaf is deleted": ("leaf 5 is missing", lambda db: db.execute("DELETE FROM log_leaf WHERE leaf_index = 5")),
    "a digest is changed": (
        "leaf 3: its row and its entry",
        lambda db: db.execute("UPDATE log_leaf SET digest = ? WHERE leaf_index = 3", (_digest("x"),)),
    ),
    "an entry is changed with its digest": ("leaf 4: its tree head, of 5 entries, was signed for other", _rewrite_with_hashes),
    "two leaves are swapped": ("leaf 4: it is not the entry", _swap),
    "the tail is dropped, its heads stay": (
        "leaf 8 is missing, of 11",
        lambda db: db.execute("DELETE FROM log_leaf WHERE leaf_index >= 8"),
    ),
    "a head is replaced by that of another size": (
        "of 7 entries, was replaced",
        lambda db: db.execute("UPDATE log_head SET jws = (SELECT jws FROM log_head WHERE size = 6) WHERE size = 7"),
    ),
    "a head is replaced by one of another key": ("of 7 entries, does not hold", _foreign_head),
    "a head is deleted": ("of 7 entries, is missing", lambda db: db.execute("DELETE FROM log_head WHERE size = 7")),
    "a hash is changed": (
        "leaf 3: the hash 2 levels above",
        lambda db: db.execute("UPDATE log_node SET hash = zeroblob(32) WHERE level = 2 AND place = 0"),
    ),
    "the log gets another name": ("leaf 0: its tree head", lambda db: db.execute("UPDATE log_identity SET log_id = 'x'")),
    "a leaf is put before the first": (
        "12 leaves where",
        lambda db: db.execute("INSERT INTO log_leaf SELECT -1, kind, 'x', entry, logged_at, NULL FROM log_leaf LIMIT 1"),
    ),
}


@pytest.mark.requirement("PROV-LOG-003")
@pytest.mark.parametrize("name", _CHANGES)
def test_check_names_the_first_entry_that_somebody_changed(name: str, filled: TransparencyLog, folder: Path) -> None:
    named, change = _CHANGES[name]
    assert filled.check().ok
    with sqlite3.connect(folder / "veraicon.sqlite") as db:
        change(db)
    report = filled.check()
    assert [named in problem for problem in report.problems] == [True], report.problems


@pytest.mark.requirement("PROV-LOG-003")
def test_an_attested_job_whose_entry_was_cut_off_is_named(filled: TransparencyLog, folder: Path) -> None:
    _job(folder, "early", OBJECTS[2], filled)
    _job(folder, "late", "header.late.signature", filled)
    assert filled.check(kept_proofs(folder / "jobs")).attested == 2
    with sqlite3.connect(folder / "veraicon.sqlite") as db:
        _cut(11)(db)
    assert filled.check().ok, "what is left is a sound log: only what is kept elsewhere tells"
    report = filled.check(kept_proofs(folder / "jobs"))
    assert report.problems == ("job late: leaf 11, its entry, is missing",)


@pytest.mark.requirement("PROV-LOG-003")
def test_nothing_is_put_on_top_of_a_log_that_was_changed(filled: TransparencyLog, folder: Path) -> None:
    with sqlite3.connect(folder / "veraicon.sqlite") as db:
        db.execute("DELETE FROM log_leaf WHERE leaf_index = 10")
    with pytest.raises(VerificationFailed, match="10 entries under a tree head of 11"):
        filled.enter(ATTESTATION_ENTRY, "header.new.signature")
    with pytest.raises(VerificationFailed):
        filled.require_sound_end()


@pytest.mark.requirement("PROV-LOG-004")
def test_a_witness_finds_a_log_that_was_set_back_and_one_that_was_forked(
    log: TransparencyLog, folder: Path, tmp_path: Path
) -> None:
    source = LocalSource(log, KEYS)
    log.enter(ATTESTATION_ENTRY, OBJECTS[0])
    with sqlite3.connect(folder / "veraicon.sqlite") as db, sqlite3.connect(tmp_path / "old.sqlite") as copy:
        db.backup(copy)
    for jws in OBJECTS[1:4]:
        log.enter(ATTESTATION_ENTRY, jws)
    first = witness(None, source)
    Kept(first.now.jws, first.keys).write(tmp_path / "kept.json")
    kept = Kept.read(tmp_path / "kept.json")
    log.enter(ATTESTATION_ENTRY, OBJECTS[4])
    assert (witness(kept, source).before, witness(kept, source).now.size) == (first.now, 5)

    (folder / "veraicon.sqlite").unlink()
    for left in folder.glob("veraicon.sqlite-*"):
        left.unlink()
    shutil.copy(tmp_path / "old.sqlite", folder / "veraicon.sqlite")
    engine, old = _open(folder)
    with pytest.raises(VerificationFailed, match="of 1 entries, which had 4"):
        witness(kept, LocalSource(old, KEYS))
    for jws in OBJECTS[5:9]:
        old.enter(ATTESTATION_ENTRY, jws)
    assert old.check().ok
    with pytest.raises(VerificationFailed, match="does not begin with the 4 entries"):
        witness(kept, LocalSource(old, KEYS))
    engine.dispose()
    other_engine, other = _open(tmp_path / "other")
    with pytest.raises(VerificationFailed, match="another log"):
        witness(kept, LocalSource(other, KEYS))
    other_engine.dispose()


@pytest.mark.requirement("PROV-LOG-001")
def test_the_log_is_open_over_http_and_bad_numbers_are_told(tmp_path: Path) -> None:
    settings = load_settings(storage={"folder": str(tmp_path / "data"), "min_free_mib": 1}, http={"token": "secret"})
    with open_site(settings) as site, TestClient(create_app(site)) as client:
        for jws in OBJECTS[:5]:
            site.log.enter(ATTESTATION_ENTRY, jws)
        keys = client.get("/.well-known/jwks.json").json()
        head = client.get("/log/head").json()
        entries = client.get("/log/entries", params={"start": 1, "end": 4}).json()["entries"]
        assert [one["index"] for one in entries] == [1, 2, 3]
        proof = client.get("/log/proof", params={"index": 3}).json()
        assert require_logged(proof, entries[2]["entry"]["digest"], ATTESTATION_ENTRY, keys).head.jws == head["jws"]
        path = parse_hashes(client.get("/log/consistency", params={"first": 2, "second": 5}).json()["consistency"])
        require_consistent(2, site.log.prove(0, 2).head.root, 5, site.log.head().root, path)
        assert client.get("/jobs").status_code == 401
        for url, status in (
            ("/log/proof", 422),
            ("/log/proof?index=-1", 422),
            ("/log/proof?index=²", 422),
            ("/log/proof?index=99999999999", 422),
            ("/log/proof?index=5", 404),
            ("/log/proof?index=1&size=9", 404),
            ("/log/consistency?first=4&second=2", 404),
            ("/log/entries?start=3&end=1", 422),
        ):
            answer = client.get(url)
            assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), url
