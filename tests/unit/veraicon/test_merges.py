"""The book of patient merges."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path

import pytest

from domain.identifiers import PatientIdentifier
from fhir_adapter.hl7v2.merging import Merge
from veraicon.database import connect, migrate
from veraicon.merges import MergeBook
from veraicon.settings import load_settings


def _at(minute: int) -> datetime:
    return datetime(2026, 1, 2, 3, minute, tzinfo=UTC)


def _one(value: str) -> PatientIdentifier:
    return PatientIdentifier(value, "http://hospital.example/mrn")


@pytest.mark.requirement("HL7-ADT-002")
def test_a_chain_of_merges_is_followed_and_a_merge_back_ends_it(tmp_path: Path) -> None:
    engine = connect(load_settings(storage={"folder": tmp_path}))
    migrate(engine)
    book = MergeBook(engine)
    book.note([Merge(_one("1"), _one("2"))], "m1", _at(1))
    book.note([Merge(_one("2"), _one("3")), Merge(_one("9"), _one("3"))], "m2", _at(2))
    assert book.survivors(_one("1")) == (_one("2"), _one("3"))
    assert book.survivors(_one("3")) == ()
    assert book.survivors(PatientIdentifier("1", "http://elsewhere.example")) == ()
    book.note([Merge(_one("3"), _one("1"))], "m3", _at(3))  # 1 is in use again
    assert book.survivors(_one("1")) == ()
    assert book.survivors(_one("2")) == (_one("3"), _one("1"))
    engine.dispose()


@pytest.mark.requirement("HL7-ADT-002")
def test_merges_that_are_done_in_another_order_than_they_came_end_the_same(tmp_path: Path) -> None:
    engine = connect(load_settings(storage={"folder": tmp_path}))
    migrate(engine)
    book = MergeBook(engine)
    for turn, order in enumerate(permutations(((1, "1", "2"), (2, "2", "3"), (3, "3", "4"), (4, "2", "5")))):
        one = {name: _one(f"{turn}-{name}") for name in "12345"}
        for minute, retired, survivor in order:
            book.note([Merge(one[retired], one[survivor])], f"m{minute}", _at(minute))
        assert book.survivors(one["1"]) == (one["2"], one["5"])
        assert book.survivors(one["3"]) == (one["4"],)
    assert book.note([Merge(_one("a"), _one("b"))], "m6", _at(6))
    assert not book.note([Merge(_one("b"), _one("a"))], "m5", _at(5)), "b is in use, as a newer message says"
    assert book.survivors(_one("a")) == (_one("b"),)
    engine.dispose()
