"""`veraicon rules test` and `veraicon order`, as a person calls them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from domain.errors import ConfigurationError
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
    "identifier": [
        {"type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]}, "value": "A-SECRET"}
    ],
    "subject": {"reference": "Patient/p"},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "veraicon.toml"
    rules = '[[rules]]\nname = "ct"\nmodality = "CT"\n[[rules]]\nname = "brain"\ncode = "24590-2"\nsamples = 2\ntell = ["fhir-task"]\n'
    issuers = '[pairing.issuers]\nN = "http://north.example/mrn"\n'
    path.write_text(f'[storage]\nfolder = "{tmp_path / "data"}"\n{issuers}{rules}', encoding="utf-8")
    return path


@pytest.mark.requirement("ORDER-RULE-001")
def test_a_message_is_tried_against_the_rules_and_nothing_is_kept(config: Path, tmp_path: Path) -> None:
    message = tmp_path / "request.json"
    message.write_text(json.dumps(_REQUEST), encoding="utf-8")
    answer = CliRunner().invoke(app, ["--config", str(config), "rules", "test", str(message), "--json"])
    assert answer.exit_code == 0, answer.output
    (told,) = json.loads(answer.stdout)
    assert (told["action"], told["rule"], told["samples"]) == ("generate", "brain", 2)
    assert (told["priors"], told["tell"]) == (False, ["fhir-task"])
    assert [(one["rule"], one["matches"]) for one in told["considered"]] == [("ct", False), ("brain", True)]
    assert not (tmp_path / "data").exists()
    message.write_text("{}", encoding="utf-8")
    assert CliRunner().invoke(app, ["--config", str(config), "rules", "test", str(message)]).exit_code != 0


def _tried(config: Path, tmp_path: Path, message: str | bytes | dict[str, object]) -> list[tuple[str, str]]:
    path = tmp_path / "message"
    text = json.dumps(message) if isinstance(message, dict) else message
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    answer = CliRunner().invoke(app, ["--config", str(config), "rules", "test", str(path), "--json"])
    assert answer.exit_code == 0, answer.output
    assert "SECRET" not in answer.output
    assert CliRunner().invoke(app, ["--config", str(config), "rules", "test", str(path)]).exit_code == 0
    return [(one["action"], one["reason"]) for one in json.loads(answer.stdout)]


_ORM = (
    "MSH|^~\\&|RIS|NORTH|V|V|20260101||ORM^O01|1|P|2.5.1\r"
    "PID|1||SECRET^^^N\r"
    "ORC|NW|1\rOBR|1|1||24590-2^MRI^LN||||||||||||||A-SECRET\r"
    "ORC|CA|2\rOBR|2|2||24590-2^MRI^LN\r"
    "ORC|SC|3\rOBR|3|3||24590-2^MRI^LN\r"
)


@pytest.mark.requirement("ORDER-RULE-001")
@pytest.mark.parametrize(
    ("message", "actions"),
    [
        (_REQUEST | {"status": "revoked"}, ["revoke"]),
        (_REQUEST | {"status": "draft", "code": "malformed"}, ["nothing"]),
        ({"accession": "A-SECRET", "cancel": True}, ["revoke"]),
        ({"accession": "A-SECRET", "model": "no-such-model"}, ["refuse"]),
        ({name: value for name, value in _REQUEST.items() if name != "identifier"}, ["refuse"]),
        (_ORM, ["generate", "revoke", "nothing"]),
    ],
    ids=["revoked", "draft", "cancelled", "another model", "no images", "three ORC"],
)
def test_trying_a_message_says_for_each_of_its_orders_what_serve_would_do(
    config: Path, tmp_path: Path, message: str | dict[str, object], actions: list[str]
) -> None:
    assert [action for action, _ in _tried(config, tmp_path, message)] == actions


@pytest.mark.requirement("ORDER-RULE-002")
@pytest.mark.parametrize("mistake", ['tell = ["webhook:nobody"]', 'fetch = "nowhere"', 'name = "ct"'])
def test_trying_a_message_stops_at_rules_with_which_serve_would_not_start(config: Path, tmp_path: Path, mistake: str) -> None:
    name = "" if mistake.startswith("name") else 'name = "more"\n'
    config.write_text(f"{config.read_text(encoding='utf-8')}[[rules]]\n{name}{mistake}\n", encoding="utf-8")
    message = tmp_path / "request.json"
    message.write_text(json.dumps(_REQUEST), encoding="utf-8")
    answer = CliRunner().invoke(app, ["--config", str(config), "rules", "test", str(message)])
    assert isinstance(answer.exception, ConfigurationError), answer.output


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
