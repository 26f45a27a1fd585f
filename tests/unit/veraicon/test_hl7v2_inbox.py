"""What is done with HL7 v2 messages: in the order in which they came, and nothing under an AA that was not done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from domain.identifiers import PatientIdentifier
from fhir_adapter.hl7v2.message import read_header
from tests.builders_hl7v2 import adt, orm
from veraicon.cli import app
from veraicon.database import connect, migrate
from veraicon.hl7v2.book import MessageBook
from veraicon.hl7v2.inbox import Inbox
from veraicon.merges import MergeBook
from veraicon.orders.book import OrderBook, order_of
from veraicon.settings import Settings, load_settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "veraicon.toml").write_text(
        f'[storage]\nfolder = "{tmp_path}"\n[pairing]\nissuers = {{ HOSP = "h" }}\n', encoding="utf-8"
    )
    return load_settings(tmp_path / "veraicon.toml")


@pytest.fixture
def engine(settings: Settings) -> Iterator[sa.Engine]:
    made = connect(settings)
    migrate(made)
    yield made
    made.dispose()


@pytest.fixture
def inbox(settings: Settings, engine: sa.Engine) -> Inbox:
    return Inbox(settings, MessageBook(engine), OrderBook(engine), MergeBook(engine))


def _take(inbox: Inbox, content: bytes) -> list[str]:
    """Take a message; return MSA-1 of its answers."""
    return [_code(one) for one in inbox.take(content)]


def _code(answer: bytes) -> str:
    return next(line for line in answer.decode().split("\r") if line.startswith("MSA")).split("|")[1]


def _keep(inbox: Inbox, content: bytes) -> str:
    """Keep a message as one that we were stopped over."""
    return inbox.messages.keep(read_header(content), content).message_id


def _later() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=1)


def _studies(inbox: Inbox) -> list[str]:
    return [order_of(row).study_uid for row in inbox.orders.recent()]


@pytest.mark.requirement("HL7-KEEP-001")
def test_a_change_that_comes_after_the_requests_is_answered_in_error(inbox: Inbox) -> None:
    assert _take(inbox, orm("1", study="1.2.1")) == ["AA"]
    assert _take(inbox, orm("2", study="1.2.2", control="XO")) == ["AA"], "nothing was made yet"
    (row,) = inbox.orders.recent()
    inbox.orders.requested(row, ["r1"], rule="")
    assert _take(inbox, orm("3", study="1.2.2")) == ["AA"], "it says nothing new"
    assert _take(inbox, orm("4", study="1.2.3", control="XO")) == ["AE"]
    assert _studies(inbox) == ["1.2.2"]
    refused = inbox.messages.recent()[0]
    assert (refused.state, (refused.error or {})["name"]) == ("refused", "OrderConflict")


@pytest.mark.requirement("HL7-ORDER-002")
def test_a_number_that_was_taken_back_is_not_used_again(inbox: Inbox) -> None:
    for number, (control, code) in enumerate([("NW", "AA"), ("CA", "AA"), ("NW", "AE")]):
        assert _take(inbox, orm(str(number), control=control)) == [code]
    early = _take(inbox, orm("5", placer="9^RIS", control="CA", study="", code="")), _take(inbox, orm("6", placer="9^RIS"))
    assert early == (["AA"], ["AA"]), "a cancellation overtook its order: both are as the sender wants it"
    assert {row.state for row in inbox.orders.recent()} == {"revoked"}


@pytest.mark.requirement("HL7-KEEP-001")
def test_what_was_left_behind_does_not_undo_what_came_after_it(inbox: Inbox) -> None:
    _keep(inbox, orm("1", study="1.2.1"))
    _keep(inbox, adt("A40", "B^^^HOSP^MR", "A^^^HOSP^MR", "2"))
    assert _take(inbox, orm("3", study="1.2.2", control="XO")) == ["AA"]
    assert _take(inbox, adt("A40", "A^^^HOSP^MR", "B^^^HOSP^MR", "4")) == ["AA"]
    assert inbox.sweep(before=_later()) == 2
    assert _studies(inbox) == ["1.2.2"]
    assert inbox.merges.survivors(PatientIdentifier("A", "h")) == ()
    assert {row.control_id: row.state for row in inbox.messages.recent()} == {
        "1": "not-needed",
        "2": "not-needed",
        "3": "done",
        "4": "done",
    }


@pytest.mark.requirement("HL7-KEEP-001")
def test_a_sweep_does_everything_in_the_order_in_which_it_came(inbox: Inbox) -> None:
    for number in range(205):  # more than a list shows
        _keep(inbox, orm(str(number), study=f"1.2.{number}", control="XO"))
    assert inbox.sweep(before=_later()) == 205
    assert _studies(inbox) == ["1.2.204"]
    assert inbox.sweep(before=_later()) == 0


@pytest.mark.requirement("HL7-MLLP-001")
def test_a_message_that_is_too_long_is_rejected_and_in_the_list(inbox: Inbox) -> None:
    assert [_code(one) for one in inbox.refuse(orm("LONG")[:200])] == ["AR"]
    (row,) = inbox.messages.recent()
    assert (row.state, row.control_id, row.raw.count(b"\r")) == ("refused", "LONG", 1)
    assert [_code(one) for one in inbox.refuse(b"no header")] == ["AE"]


@pytest.mark.requirement("HL7-ADT-002")
def test_a_merge_is_undone_by_hand(inbox: Inbox, tmp_path: Path) -> None:
    merged = adt("A40", "B^^^HOSP^MR", "A^^^HOSP^MR", "1")
    _take(inbox, merged)
    run = CliRunner().invoke
    config = ["--config", str(tmp_path / "veraicon.toml"), "merge"]
    (told,) = json.loads(run(app, [*config, "list", "--json"]).stdout)
    assert (told["retired_value"], told["survivor_value"]) == ("A", "B")
    assert run(app, [*config, "undo", told["merge"]]).exit_code == 0
    assert inbox.merges.survivors(PatientIdentifier("A", "h")) == ()
    assert _take(inbox, merged) == ["AA"]
    assert inbox.merges.all() == [], "a repeat is not done again"
    assert run(app, [*config, "undo", told["merge"]]).exit_code != 0
