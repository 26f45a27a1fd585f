"""What requesters send that cannot be kept, ask anew or take back, and what we answer then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import Session
from typer.testing import CliRunner

from domain.errors import RequestInvalid, ResourceNotFound
from domain.ordering import JobNews, News, Order, OrderOrigin, OrderState
from fhir_adapter.ordering.generate_operation import order_of_parameters
from fhir_adapter.ordering.reading import order_of_resource, standing, study_of_focus
from fhir_adapter.ordering.tasks import Progress, amended_task
from fhir_adapter.store import RawResource
from tests.builders_dicom import Clock, new_archive, part10_series
from veraicon.cli import app
from veraicon.intake import Intake
from veraicon.orders.announcing import Announcements, Heard
from veraicon.orders.fhir_task import TaskChannel
from veraicon.orders.retelling import tell_again
from veraicon.orders.rules import judge
from veraicon.orders.standing import OrderStanding
from veraicon.orders.tables import DeliveryRow, NewsRow
from veraicon.orders.webhook_orders import order_of_webhook
from veraicon.sections import GenerationSettings, RuleSettings
from veraicon.settings import load_settings
from veraicon.wiring import Site, open_site

_NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
_SYSTEM = "https://veraicon.dev/fhir/CodeSystem/task"
_ERROR = RequestInvalid(found="a thing", allowed="another", action="mend it")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(load_settings(storage={"folder": str(tmp_path / "data"), "min_free_mib": 1})) as opened:
        yield opened


def _task(status: str = "requested", version: str = "1", **inputs: str) -> RawResource:
    entries = [
        {"type": {"coding": [{"system": _SYSTEM, "code": name}]}, "valueString": value} for name, value in inputs.items()
    ]
    code = {"coding": [{"system": _SYSTEM, "code": "generate"}]}
    body = {"resourceType": "Task", "id": "a", "meta": {"versionId": version}, "status": status, "code": code, "input": entries}
    return RawResource(body, json.dumps(body).encode())


def _request(status: str) -> RawResource:
    return RawResource({"resourceType": "ServiceRequest", "id": "s", "status": status, "subject": {"reference": "Patient/p"}})


def _news(order: Order, state: OrderState) -> News:
    return News("n", f"order.{state.value}", _NOW, order, state, ())


@pytest.mark.requirement("ORDER-FHIR-007")
@pytest.mark.parametrize("text", ["A\0", "A\ud800"])
def test_a_string_that_no_database_keeps_is_refused_wherever_an_order_is_read(text: str) -> None:
    """JSON may escape it, so the bytes look harmless."""
    parameters = {"resourceType": "Parameters", "parameter": [{"name": "accession", "valueString": text}]}
    number = {"type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]}, "value": text}
    webhook = json.dumps({"accession": "A", "ask": {text: "3.1 cm3"}}).encode()
    with pytest.raises(RequestInvalid):
        order_of_resource(_task(accession=text), "fhir", _NOW)
    with pytest.raises(RequestInvalid):
        order_of_parameters(parameters, sender="operation", now=_NOW, fresh="1")
    with pytest.raises(RequestInvalid):
        study_of_focus(RawResource({"resourceType": "ServiceRequest", "id": "s", "identifier": [number]}))
    with pytest.raises(RequestInvalid) as refused:
        order_of_webhook(webhook, "ris", _NOW, call="1")
    assert text not in str(refused.value)


@pytest.mark.requirement("ORDER-FHIR-007")
@pytest.mark.parametrize("element", [{"status": []}, {"identifier": [{"system": [], "value": "x"}]}])
def test_elements_of_the_wrong_kind_break_nothing(element: dict[str, Any]) -> None:
    raw = RawResource({"resourceType": "ImagingStudy", "id": "i", "status": "available", **element})
    standing(raw)
    with pytest.raises(RequestInvalid):
        order_of_resource(raw, "fhir", _NOW)


@pytest.mark.requirement("ORDER-FHIR-007")
@pytest.mark.parametrize("text", ["A\0", "A\ud800"])
def test_what_cannot_be_read_is_refused_with_its_error_and_stops_nothing(site: Site, text: str) -> None:
    announcements = Announcements(site.orders, "fhir")
    assert [announcements.take(_task(accession=text)) for _ in range(2)] == [Heard.UNREADABLE] * 2
    (row,) = site.orders.recent()
    assert (row.state, (row.error or {})["code"], row.turn) == ("refused", "VI-2006", 0), "in one step, and once"
    assert site.orders.due(datetime.now(UTC)) == []


@pytest.mark.parametrize("state", ["refused", "ignored"])
def test_a_task_that_is_set_back_to_requested_is_looked_at_again_once_for_each_version(site: Site, state: str) -> None:
    announcements = Announcements(site.orders, "fhir")
    assert announcements.take(_task(version="9")) is Heard.NEW
    row = site.orders.recent()[0]
    assert site.orders.refused(row, _ERROR) if state == "refused" else site.orders.ignored(row, "no rule")
    for status, version in (("requested", "9"), ("on-hold", "10"), ("requested", "8")):
        assert announcements.take(_task(status, version)) is Heard.KNOWN
    assert [announcements.take(_task(version="11")) for _ in range(2)] == [Heard.NEW, Heard.KNOWN]
    assert site.orders.recent()[0].state == "received"


@pytest.mark.requirement("ORDER-FHIR-001")
def test_jobs_that_somebody_here_cancelled_are_a_failure_and_not_the_requesters_revocation() -> None:
    cancelled = JobNews("r", "cancelled", "m", _NOW, error=(("code", "VI-1101"), ("found", "an older error")))
    told = amended_task(_task("in-progress").body, Progress(OrderState.REQUESTED, (cancelled,), "", {}, _NOW))
    assert told is not None
    assert (told["status"], "coding" in told["statusReason"]) == ("failed", False)
    assert "cancelled" in told["statusReason"]["text"]
    assert standing(RawResource(told)).value == "neither"
    after = amended_task(told, Progress(OrderState.REQUESTED, (JobNews("r", "requested", "m", _NOW),), "", {}, _NOW))
    assert after is not None, "a retried job is told again"


@pytest.mark.requirement("ORDER-FHIR-005")
@pytest.mark.parametrize("told_before", [True, False])
def test_our_report_ends_with_the_request_that_was_taken_back(site: Site, told_before: bool) -> None:
    channel = TaskChannel(site.fhir, OrderStanding(site.orders, site.jobs, site.outputs))
    announcements = Announcements(site.orders, "fhir")
    announcements.take(_request("active"))
    order = site.orders.order(site.orders.recent()[0].order_id)
    assert order is not None
    if told_before:
        assert site.orders.waits(site.orders.row(order.order_id), "none of its images are here yet", rule="r", pause_s=60)
        channel.send(_news(order, OrderState.WAITING))
    announcements.take(_request("revoked"))
    assert channel.wants(_news(order, OrderState.REVOKED))
    channel.send(_news(order, OrderState.REVOKED))
    assert [found.body["status"] for found in site.fhir.search("Task", {})] == ["cancelled"] * told_before
    task = Order(OrderOrigin.FHIR, "fhir", "Task/a", "Task", _NOW, names_us=True)
    assert not channel.wants(_news(task, OrderState.REVOKED)), "a requester's own Task stays as they left it"


@pytest.mark.requirement("ORDER-RULE-001")
def test_a_requester_cannot_ask_for_more_volumes_than_the_site_allows() -> None:
    asked = Order(OrderOrigin.FHIR, "fhir", "Task/a", "Task", _NOW, names_us=True, samples=5)
    verdict = judge(asked, [], GenerationSettings(max_samples=4))
    assert not verdict.generate
    assert "5 volumes" in verdict.reason
    assert judge(asked, [RuleSettings(name="more", max_samples=5)], GenerationSettings(max_samples=4)).generate
    assert not judge(asked, [RuleSettings(name="less", max_samples=3)], GenerationSettings(max_samples=5)).generate


@pytest.mark.requirement("ORDER-NEWS-002")
def test_all_that_a_channel_refused_is_told_again_also_of_jobs_without_an_order(site: Site) -> None:
    with Session(site.engine) as session:
        for news_id, order_id in (("1", ""), ("2", "o"), ("3", "o")):
            session.add(NewsRow(news_id=news_id, kind="job.failed", order_id=order_id, content={}, at=_NOW))
            for channel in ("webhook:ris", "fhir-task"):
                state = "told" if news_id == "3" else "failed"
                session.add(DeliveryRow(news_id=news_id, channel=channel, state=state, attempts=7, next_at=_NOW))
        session.commit()
    assert tell_again(site.engine, channel="webhook:ris") == 2
    with pytest.raises(ResourceNotFound):
        tell_again(site.engine, channel="webhook:ris")
    assert tell_again(site.engine, news_id="1") == 1
    assert tell_again(site.engine, order_id="o") == 1


def test_telling_again_says_what_is_missing(tmp_path: Path) -> None:
    config = tmp_path / "veraicon.toml"
    config.write_text(f'[storage]\nfolder = "{tmp_path / "data"}"\n', encoding="utf-8")
    for arguments in ([], ["x", "--all"], ["--channel", "webhook:ris"]):
        assert CliRunner().invoke(app, ["--config", str(config), "order", "tell", *arguments]).exit_code == 2


def test_a_series_that_breaks_us_holds_up_no_other(tmp_path: Path) -> None:
    clock, asked = Clock(), list[str]()

    class Jobs:
        def made_by_us(self, series_uid: str) -> bool:
            return False

        def submit(self, request: Any) -> bool:
            asked.append(request.series_uid)
            if request.series_uid == asked[0]:
                raise OSError(28, "No space left on device")
            return True

    archive, jobs = new_archive(tmp_path, clock=clock), Jobs()
    for content in (*part10_series(3, name="first"), *part10_series(3, name="second")):
        archive.land(content, source="PACS")
    clock.advance(60)
    passed_on: Any = jobs
    with pytest.raises(OSError, match="No space"):
        Intake(archive, passed_on, GenerationSettings(), settle_s=1).announce_settled()
    assert len(set(asked)) == 2
    assert [settled.series_uid for settled in archive.unannounced(1)] == asked[:1]
