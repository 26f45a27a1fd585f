"""`veraicon rules test` and `veraicon order`, as a person calls them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from domain.ordering import Order, OrderOrigin
from veraicon.cli import app
from veraicon.database import connect, migrate
from veraicon.orders.book import OrderBook
from veraicon.settings import load_settings

_CODED = {"coding": [{"system": "http://loinc.org", "code": "24590-2"}]}
_REQUEST = {
    "resourceType": "ServiceRequest",
    "id": "sr",
    "status": "active",
    "code": _CODED,
    "subject": {"reference": "Patient/p"},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "veraicon.toml"
    rules = '[[rules]]\nname = "ct"\nmodality = "CT"\n[[rules]]\nname = "brain"\ncode = "24590-2"\nsamples = 2\n'
    path.write_text(f'[storage]\nfolder = "{tmp_path / "data"}"\n{rules}', encoding="utf-8")
    return path


@pytest.mark.requirement("ORDER-RULE-001")
def test_a_message_is_tried_against_the_rules_and_nothing_is_kept(config: Path, tmp_path: Path) -> None:
    message = tmp_path / "request.json"
    message.write_text(json.dumps(_REQUEST), encoding="utf-8")
    answer = CliRunner().invoke(app, ["--config", str(config), "rules", "test", str(message), "--json"])
    assert answer.exit_code == 0, answer.output
    told = json.loads(answer.stdout)
    assert (told["action"], told["rule"], told["samples"]) == ("generate", "brain", 2)
    assert [(one["rule"], one["matches"]) for one in told["considered"]] == [("ct", False), ("brain", True)]
    assert not (tmp_path / "data").exists()
    message.write_text("{}", encoding="utf-8")
    assert CliRunner().invoke(app, ["--config", str(config), "rules", "test", str(message)]).exit_code != 0


def test_an_ignored_order_is_listed_without_patient_data_and_may_be_tried_again(config: Path, tmp_path: Path) -> None:
    engine = connect(load_settings(config))
    migrate(engine)
    book = OrderBook(engine)
    order = Order(OrderOrigin.HL7V2, "RIS|NORTH", "ORM^O01 1", "ORM^O01", datetime.now(UTC), accession="A-SECRET")
    book.take(order, b"MSH|SECRET")
    book.ignored(book.row(order.order_id), "no rule covers this ORM^O01")
    engine.dispose()
    for command in (["order", "list", "--json"], ["order", "list"], ["order", "show", order.order_id]):
        answer = CliRunner().invoke(app, ["--config", str(config), *command])
        assert answer.exit_code == 0, answer.output
        assert "ignored" in answer.output
        assert "SECRET" not in answer.output
    assert CliRunner().invoke(app, ["--config", str(config), "order", "retry", order.order_id]).exit_code == 0
    listed = CliRunner().invoke(app, ["--config", str(config), "order", "list", "--json", "--state", "received"])
    assert [one["order"] for one in json.loads(listed.stdout)] == [order.order_id]
