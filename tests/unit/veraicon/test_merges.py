"""The book of patient merges."""

from __future__ import annotations

from pathlib import Path

import pytest

from domain.identifiers import PatientIdentifier
from fhir_adapter.hl7v2.merging import Merge
from veraicon.database import connect, migrate
from veraicon.merges import MergeBook
from veraicon.settings import load_settings


def _one(value: str) -> PatientIdentifier:
    return PatientIdentifier(value, "http://hospital.example/mrn")


@pytest.mark.requirement("HL7-ADT-002")
def test_a_chain_of_merges_is_followed_and_a_merge_back_ends_it(tmp_path: Path) -> None:
    engine = connect(load_settings(storage={"folder": tmp_path}))
    migrate(engine)
    book = MergeBook(engine)
    book.note([Merge(_one("1"), _one("2"))], "m1")
    book.note([Merge(_one("2"), _one("3")), Merge(_one("9"), _one("3"))], "m2")
    assert book.survivors(_one("1")) == (_one("2"), _one("3"))
    assert book.survivors(_one("3")) == ()
    assert book.survivors(PatientIdentifier("1", "http://elsewhere.example")) == ()
    book.note([Merge(_one("3"), _one("1"))], "m3")  # 1 is in use again
    assert book.survivors(_one("1")) == ()
    assert book.survivors(_one("2")) == (_one("3"), _one("1"))
    engine.dispose()
