"""From an order to requests to news: rules, images, crashes, and what channels are told."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlmodel import Session, col

from domain.clinical import Coding
from domain.errors import ConfigurationError, PeerRefused, PeerUnreachable, RequestInvalid, ResourceNotFound
from domain.ordering import News, Order, OrderOrigin
from fhir_adapter.store import RawResource
from tests.builders_dicom import part10_series
from veraicon import faults
from veraicon.api.app import create_app
from veraicon.database import connect
from veraicon.orders.announcing import Announcements
from veraicon.orders.book import OrderBook
from veraicon.orders.fetching import ImageFetching
from veraicon.orders.fhir_task import TaskChannel
from veraicon.orders.newsroom import Newsroom
from veraicon.orders.placing import OrderPlacing
from veraicon.orders.rules import judge, require_rules
from veraicon.orders.service import OrderService, placing_of
from veraicon.orders.standing import OrderStanding
from veraicon.orders.tables import DeliveryRow, OrderRow
from veraicon.orders.telling import Telling
from veraicon.pipeline import JobState
from veraicon.sections import GenerationSettings, RuleSettings
from veraicon.settings import load_settings
from veraicon.tables import JobRow
from veraicon.wiring import Site, open_site

_SAMPLE = sorted((Path(__file__).parents[3] / "veraicon" / "sample" / "series").glob("*.dcm"))
_BRAIN = Coding("http://loinc.org", "24590-2")


class PowerLossError(BaseException):
    """What no handler catches, as a loss of power."""


class Receiver:
    """A channel that remembers, and fails as it is told."""

    def __init__(self, name: str = "receiver", *failures: Exception) -> None:
        self.name, self.failures, self.told = name, list(failures), list[News]()

    def wants(self, news: News) -> bool:
        return True

    def send(self, news: News) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.told.append(news)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(load_settings(storage={"folder": str(tmp_path / "data"), "min_free_mib": 1})) as opened:
        yield opened


_ANYTHING = RuleSettings(name="anything", fit_wait_s=0)


def order(reference: str = "Task/a", **elements: Any) -> Order:
    return Order(OrderOrigin.FHIR, "fhir", reference, "Task", datetime.now(UTC), **{"names_us": True, **elements})


def hold(site: Site, contents: list[bytes]) -> str:
    """Keep a series that has settled; returns its study's UID."""
    for content in contents:
        site.archive.land(content, source="PACS")
    for settled in site.archive.unannounced(0.0):
        site.archive.announce(settled.series_uid, settled.series_digest)
    return str(dcmread(BytesIO(contents[0]), stop_before_pixels=True).StudyInstanceUID)


def place(site: Site, one: Order, *rules: RuleSettings, **parts: Any) -> OrderRow:
    """Decide once upon an order; by default any order is met, by whatever is there."""
    site.orders.take(one)
    placing(site, *rules, **parts).place(site.orders.row(one.order_id))
    return site.orders.row(one.order_id)


def placing(site: Site, *rules: RuleSettings, **parts: Any) -> OrderPlacing:
    fields = {name: getattr(placing_of(site, {}), name) for name in OrderPlacing.__dataclass_fields__}
    return OrderPlacing(**{**fields, "rules": rules or (_ANYTHING,), **parts})


def newsroom(site: Site, *channels: Receiver, rules: tuple[RuleSettings, ...] = ()) -> Newsroom:
    return Newsroom(site.engine, site.orders, site.jobs, site.outputs, channels, rules)


def fail_at(monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    def reach(reached: str) -> None:
        if reached == point:
            raise PowerLossError

    monkeypatch.setattr(faults, "reach", reach)


@pytest.mark.requirement("ORDER-RULE-001")
def test_the_first_rule_that_covers_an_order_decides_and_each_rule_says_why() -> None:
    rules = [
        RuleSettings(name="ct", modality="CT"),
        RuleSettings(name="elsewhere", code="http://snomed.info/sct|24590-2"),
        RuleSettings(name="brain", code="http://loinc.org|24590-2", samples=3, ask={"hippocampus-volume": "3.1 cm3"}),
        RuleSettings(name="never", action="ignore"),
    ]
    verdict = judge(order(names_us=False, codes=(_BRAIN,)), rules, GenerationSettings())
    assert (verdict.rule, verdict.generate, verdict.samples) == ("brain", True, 3)
    assert [(fact.text, fact.value, fact.unit) for fact in verdict.asked] == [("hippocampus-volume", 3.1, "cm3")]
    assert [one.matches for one in verdict.considered] == [False, False, True]
    assert "modality is not said, not CT" in verdict.considered[0].why
    assert judge(order(codes=(_BRAIN,)), [RuleSettings(name="none", action="ignore")], GenerationSettings()).generate is False


@pytest.mark.requirement("ORDER-RULE-001")
def test_without_a_rule_only_what_asks_us_by_name_is_met() -> None:
    assert judge(order(), [], GenerationSettings()).generate
    verdict = judge(order(names_us=False), [], GenerationSettings())
    assert not verdict.generate
    assert "no rule covers" in verdict.reason


@pytest.mark.requirement("ORDER-RULE-002")
@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([RuleSettings(name="a", fetch="pcas")], "pcas"),
        ([RuleSettings(name="a", tell=("webhook:gone",))], "webhook:gone"),
        ([RuleSettings(name="a", ask={"hippocampus-volume": "much"})], "concept=number"),
        ([RuleSettings(name="a"), RuleSettings(name="a")], "earlier"),
    ],
)
def test_a_rule_that_could_never_be_followed_stops_the_start(rules: list[RuleSettings], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        require_rules(rules, peers={"pacs"}, channels=["fhir-task"])


def test_the_service_checks_its_rules(tmp_path: Path) -> None:
    rules = ({"name": "brain", "fetch": "nobody"},)
    with (
        open_site(load_settings(storage={"folder": str(tmp_path), "min_free_mib": 1}, rules=rules)) as opened,
        pytest.raises(ConfigurationError, match="nobody"),
    ):
        OrderService(opened)


@pytest.mark.requirement("ORDER-BOOK-001")
def test_one_order_that_comes_everywhere_at_once_is_taken_once(site: Site) -> None:
    engines = [connect(site.settings) for _ in range(6)]
    start, taken = threading.Barrier(len(engines)), list[bool]()

    def take(engine: sa.Engine) -> None:
        start.wait()
        taken.append(OrderBook(engine).take(order(study_uid="2.25.1")))

    threads = [threading.Thread(target=take, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for engine in engines:
        engine.dispose()
    assert sorted(taken) == [False] * 5 + [True]
    assert len(site.orders.recent()) == 1


@pytest.mark.requirement("ORDER-PLACE-001")
@pytest.mark.parametrize("point", ["order:found", "order:submitting", "order:submitted"])
def test_a_crash_between_any_two_steps_asks_for_nothing_twice(site: Site, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    one = order(study_uid=hold(site, part10_series(3)), samples=2)
    with monkeypatch.context() as context:
        fail_at(context, point)
        with pytest.raises(PowerLossError):
            place(site, one)
    row = place(site, one)
    jobs = site.jobs.of_order(one.order_id)
    assert (row.state, sorted(row.requests)) == ("requested", sorted(job.request_id for job in jobs))
    assert len(jobs) == 2


@pytest.mark.requirement("ORDER-PLACE-002")
def test_of_a_study_only_series_that_the_model_can_take_are_asked_for(site: Site) -> None:
    study_uid = str(dcmread(_SAMPLE[0], stop_before_pixels=True).StudyInstanceUID)

    def localizer(ds: Dataset) -> None:
        ds.StudyInstanceUID = study_uid

    hold(site, [path.read_bytes() for path in _SAMPLE])
    hold(site, part10_series(3, change=localizer))
    row = place(site, order(study_uid=study_uid))
    wanted = str(dcmread(_SAMPLE[0], stop_before_pixels=True).SeriesInstanceUID)
    assert [site.jobs.get(one).series_uid for one in row.requests] == [wanted]


@pytest.mark.requirement("ORDER-PLACE-002")
def test_images_are_waited_for_and_found_by_accession_when_they_come(site: Site) -> None:
    def numbered(ds: Dataset) -> None:
        ds.AccessionNumber = "A-1"

    one = order(accession="A-1")
    assert place(site, one).state == "waiting"
    hold(site, part10_series(3, change=numbered))
    assert place(site, one).state == "requested"


@pytest.mark.requirement("ORDER-PLACE-003")
@pytest.mark.parametrize(
    ("elements", "state", "words"),
    [
        ({"subject_reference": "Patient/p"}, "refused", "neither a series, nor a study"),
        ({"study_uid": "2.25.9", "model": "other"}, "refused", "other"),
        ({"study_uid": "2.25.9", "received_at": datetime.now(UTC) - timedelta(days=8)}, "refused", "did not come within"),
        ({"focus": "ImagingStudy/none"}, "waiting", "FHIR server that it needs"),
    ],
)
def test_what_stands_in_the_way_of_an_order_is_named(site: Site, elements: dict[str, Any], state: str, words: str) -> None:
    one = Order(**{"origin": OrderOrigin.FHIR, "sender": "fhir", "reference": "Task/a", "kind": "Task", "names_us": True,
                   "received_at": datetime.now(UTC), **elements})  # fmt: skip
    row = place(site, one)
    assert row.state == state
    assert words in row.reason
    assert site.orders.retry(one.order_id).state == "received", "and it may be tried again"


@pytest.mark.requirement("ORDER-PLACE-004")
def test_images_are_fetched_from_the_peer_of_the_rule_also_after_it_was_away(site: Site) -> None:
    class Puller:
        away = True

        def studies(self, **keys: object) -> list[dict[str, object]]:
            if self.away:
                raise PeerUnreachable("no answer", allowed="an answer", action="wait")
            return [keys]

        def series_of(self, studies: list[dict[str, object]], **_: object) -> list[dict[str, object]]:
            return studies

        def pull(self, study: dict[str, object]) -> None:
            assert study == {"accession": "A-7", "priors": False}
            hold(site, part10_series(3, change=lambda ds: setattr(ds, "AccessionNumber", "A-7")))

    puller, one = Puller(), order(accession="A-7")
    rule = RuleSettings(name="brain", fetch="pacs", fit_wait_s=0)
    passed_on: Any = puller
    fetching = ImageFetching("pacs", lambda: passed_on, site.orders, away_s=0)

    def placed_and_fetched() -> OrderRow:
        place(site, one, rule, fetch=lambda _, *what: fetching.ask(*what))
        assert fetching.fetch_next()
        return site.orders.row(one.order_id)

    row = placed_and_fetched()
    assert (row.state, (row.error or {})["code"]) == ("waiting", "VI-1101")
    assert not fetching.fetch_next(), "what was asked for once is not asked for twice"
    puller.away = False
    placed_and_fetched()
    row = place(site, one, rule)
    assert (row.state, row.error, row.rule) == ("requested", None, "brain")


@pytest.mark.requirement("ORDER-PLACE-002")
def test_a_localizer_that_came_first_is_not_taken_for_what_was_ordered(site: Site) -> None:
    study_uid = str(dcmread(_SAMPLE[0], stop_before_pixels=True).StudyInstanceUID)
    one, patient = order(study_uid=study_uid), RuleSettings(name="patient")
    hold(site, part10_series(3, change=lambda ds: setattr(ds, "StudyInstanceUID", study_uid)))
    row = place(site, one, patient)
    assert (row.state, "more may come" in row.reason) == ("waiting", True)
    hold(site, [path.read_bytes() for path in _SAMPLE])
    row = place(site, one, patient)
    wanted = str(dcmread(_SAMPLE[0], stop_before_pixels=True).SeriesInstanceUID)
    assert [site.jobs.get(request).series_uid for request in row.requests] == [wanted]


@pytest.mark.requirement("ORDER-BOOK-001")
def test_what_was_decided_upon_an_earlier_version_does_not_stand_for_the_newer_one(site: Site) -> None:
    first = order(study_uid=hold(site, part10_series(3)), samples=3)
    site.orders.take(first)
    seen = site.orders.row(first.order_id)
    assert site.orders.take(order(study_uid=first.study_uid, samples=1)), "its sender changed it"
    placing(site).place(seen)
    assert site.orders.row(first.order_id).state == "received", "the newer version is decided upon anew"
    row = place(site, order(study_uid=first.study_uid, samples=1))
    assert (row.state, len(row.requests)) == ("requested", 1)
    states = {job.request_id: job.state for job in site.jobs.of_order(first.order_id)}
    assert [states[request] for request in row.requests] == ["requested"]
    assert sorted(states.values()) == ["cancelled", "cancelled", "requested"], "what the earlier one asked for is not made"


@pytest.mark.requirement("ORDER-PLACE-003")
def test_an_order_that_breaks_us_is_refused_and_those_behind_it_are_met(site: Site) -> None:
    broken, whole = order("Task/broken", study_uid="2.25.1"), order("Task/whole", study_uid=hold(site, part10_series(3)))
    for one in (broken, whole):
        site.orders.take(one)

    def ours(uids: Sequence[str]) -> set[str]:
        if not uids:
            raise RuntimeError("Doe^Jane")
        return set()

    placing(site, ours=ours).place_due()
    row = site.orders.row(broken.order_id)
    assert (row.state, "RuntimeError" in row.reason, "Doe" in row.reason) == ("refused", True, False)
    assert site.orders.row(whole.order_id).state == "requested"


@pytest.mark.requirement("ORDER-PLACE-003")
def test_an_order_whose_jobs_all_failed_may_be_tried_again(site: Site) -> None:
    one = order(study_uid=hold(site, part10_series(3)))
    row = place(site, one)
    with pytest.raises(RequestInvalid):
        site.orders.retry(one.order_id)
    end_job(site, row.requests[0], JobState.FAILED)
    assert site.orders.retry(one.order_id).state == "received"


@pytest.mark.requirement("ORDER-PLACE-005")
def test_jobs_of_an_order_that_was_taken_back_are_cancelled(site: Site) -> None:
    one = order(study_uid=hold(site, part10_series(3)))
    row = place(site, one)
    site.orders.revoke(one, "its Task is cancelled")
    assert placing(site).cancel_revoked() == 1
    assert site.jobs.get(row.requests[0]).state == "cancelled"
    assert place(site, one).state == "revoked", "and it does not come back"


@pytest.mark.requirement("ORDER-NEWS-001")
def test_each_change_is_news_once_and_a_receiver_that_was_away_hears_of_it_later(site: Site) -> None:
    away = PeerUnreachable("no answer", allowed="an answer", action="wait")
    receiver, one = Receiver("receiver", away), order(study_uid=hold(site, part10_series(3)))
    row = place(site, one)
    assert [newsroom(site, receiver).collect() for _ in range(2)] == [1, 0]
    end_job(site, row.requests[0], JobState.FAILED)
    assert [newsroom(site, receiver).collect() for _ in range(2)] == [2, 0]
    telling = Telling(site.engine, (receiver,))
    for _ in range(2):
        telling.tell_due(receiver)
        due_now(site)
    assert sorted(news.kind for news in receiver.told) == ["job.failed", "order.completed", "order.requested"]
    assert {delivery.state for _, delivery in telling.of_order(one.order_id) if delivery} == {"told"}


@pytest.mark.requirement("ORDER-NEWS-001")
def test_a_crash_while_news_is_written_down_loses_none(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver, orders = Receiver(), [order(f"Task/{number}", study_uid="2.25.9") for number in range(3)]
    for one in orders:
        place(site, one)
    room = newsroom(site, receiver)
    with monkeypatch.context() as context:
        context.setattr(Session, "merge", lambda *_: (_ for _ in ()).throw(PowerLossError()))
        with pytest.raises(PowerLossError):
            room.collect()
    assert newsroom(site, receiver).collect() == 3
    assert newsroom(site, receiver).collect() == 0


@pytest.mark.requirement("ORDER-NEWS-001")
def test_what_only_goes_on_waiting_is_no_news(site: Site) -> None:
    receiver, one = Receiver(), order(study_uid="2.25.9")
    before = place(site, one)
    room = newsroom(site, receiver)
    assert room.collect() == 1
    after = place(site, one)
    assert (after.state, after.turn, after.updated_at) == ("waiting", before.turn, before.updated_at)
    assert room.collect() == 0


@pytest.mark.requirement("ORDER-NEWS-001")
def test_two_processes_tell_one_piece_of_news_once(site: Site) -> None:
    place(site, order(study_uid="2.25.9"))
    receiver = Receiver()
    newsroom(site, receiver).collect()
    first, second = (Telling(site.engine, (receiver,)) for _ in range(2))
    due = second._due(receiver.name, 10)
    assert first.tell_due(receiver) == 1
    assert [second._tell(receiver, *one) for one in due] == [False]
    assert len(receiver.told) == 1


@pytest.mark.requirement("ORDER-NEWS-001")
def test_a_crash_after_sending_sends_the_same_news_again_under_the_same_id(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = Receiver()
    place(site, order(study_uid="2.25.9"))
    newsroom(site, receiver).collect()
    telling = Telling(site.engine, (receiver,))
    with monkeypatch.context() as context:
        fail_at(context, "news:sent")
        with pytest.raises(PowerLossError):
            telling.tell_due(receiver)
    assert telling.tell_due(receiver) == 0, "another process may still have it"
    due_now(site)
    assert telling.tell_due(receiver) == 1
    assert len(receiver.told) == 2
    assert len({news.news_id for news in receiver.told}) == 1


@pytest.mark.requirement("ORDER-NEWS-002")
def test_news_that_a_receiver_refuses_stays_in_sight_until_it_is_told_again_by_hand(site: Site) -> None:
    receiver, one = (
        Receiver("receiver", RequestInvalid("a thing", allowed="another", action="mend it")),
        order(study_uid="2.25.9"),
    )
    place(site, one)
    newsroom(site, receiver).collect()
    telling = Telling(site.engine, (receiver,))
    assert [telling.tell_due(receiver) for _ in range(2)] == [0, 0]
    ((_, delivery),) = telling.of_order(one.order_id)
    assert delivery is not None
    assert (delivery.state, (delivery.error or {})["code"]) == ("failed", "VI-2006")
    assert telling.again(order_id=one.order_id) == 1
    assert telling.tell_due(receiver) == 1
    with pytest.raises(ResourceNotFound):
        telling.again(order_id=one.order_id)


@pytest.mark.requirement("ORDER-NEWS-003")
def test_a_rule_says_which_channels_hear_of_its_orders(site: Site) -> None:
    first, second = Receiver("first"), Receiver("second")
    rule = RuleSettings(name="quiet", tell=("second",), fit_wait_s=0)
    one = order(study_uid="2.25.9")
    place(site, one, rule)
    newsroom(site, first, second, rules=(rule,)).collect()
    told = [delivery.channel for _, delivery in Telling(site.engine, ()).of_order(one.order_id) if delivery]
    assert told == ["second"]


@pytest.mark.requirement("ORDER-FHIR-004")
@pytest.mark.parametrize("changes", [1, 9])
def test_a_task_that_its_requester_changes_meanwhile_is_read_again(site: Site, changes: int) -> None:
    """Servers say 409 or 412 then, and each in its own words."""
    one = order(study_uid="2.25.9")
    place(site, one)
    write(site, {"resourceType": "Task", "id": "a", "status": "requested", "intent": "order"})
    store = Meddling(site, changes)
    passed_on: Any = store
    channel = TaskChannel(passed_on, OrderStanding(site.orders, site.jobs, site.outputs))
    receiver = Receiver("fhir-task")
    newsroom(site, receiver).collect()
    telling = Telling(site.engine, (channel,))
    assert telling.tell_due(channel) == (changes == 1)
    body = site.fhir.read("Task/a").body
    assert body["description"] == f"change {min(changes, 3)}", "what the requester wrote stands"
    assert (body["status"] == "on-hold") is (changes == 1)
    ((_, delivery),) = telling.of_order(one.order_id)
    assert delivery is not None
    assert delivery.state == ("told" if changes == 1 else "waiting")


class Meddling:
    """A server on which somebody changes the Task just before we write it."""

    def __init__(self, site: Site, changes: int) -> None:
        self._site, self._left, self._made = site, changes, 0

    def read(self, reference: str) -> RawResource:
        return self._site.fhir.read(reference)

    def transact(self, bundle: Any) -> Any:
        if self._left:
            self._left, self._made = self._left - 1, self._made + 1
            write(self._site, {**self.read("Task/a").body, "description": f"change {self._made}"})
            raise PeerRefused("HTTP status 409 with no issue", allowed="2xx", action="look")
        return self._site.fhir.transact(bundle)


def write(site: Site, resource: dict[str, Any]) -> None:
    reference = f"{resource['resourceType']}/{resource['id']}"
    entry = {"fullUrl": reference, "resource": resource, "request": {"method": "PUT", "url": reference}}
    site.fhir.transact({"resourceType": "Bundle", "type": "transaction", "entry": [entry]})


def end_job(site: Site, request_id: str, state: JobState) -> None:
    with Session(site.engine) as session:
        statement = sa.update(JobRow).where(col(JobRow.request_id) == request_id)
        session.execute(statement.values(state=state.value, updated_at=datetime.now(UTC)))
        session.commit()


def due_now(site: Site) -> None:
    with Session(site.engine) as session:
        session.execute(sa.update(DeliveryRow).values(next_at=datetime.now(UTC)))
        session.commit()


@pytest.mark.requirement("ORDER-FHIR-002")
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "lost after its Task"])
def test_a_call_is_one_order_though_its_task_is_found_by_the_poll_too(
    site: Site, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    body = {"resourceType": "Parameters", "parameter": [{"name": "study-uid", "valueString": "2.25.9"}]}
    with monkeypatch.context() as context, TestClient(create_app(site)) as caller:
        if not kept:
            context.setattr(OrderBook, "take", lambda *_: False)
        answer = caller.post("/fhir/$generate", json=body, headers={"Content-Type": "application/fhir+json"})
    assert answer.status_code == 202, answer.text
    reference = answer.headers["Content-Location"]
    announcements = Announcements(site.orders, "fhir")
    for _ in range(2):
        announcements.take(site.fhir.read(reference))
    assert [(row.origin, row.reference, row.turn) for row in site.orders.recent()] == [("fhir-operation", reference, 0)]
    write(site, {**site.fhir.read(reference).body, "status": "cancelled"})
    announcements.take(site.fhir.read(reference))
    assert [row.state for row in site.orders.recent()] == ["revoked"]
