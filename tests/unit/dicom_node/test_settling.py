"""When a series with a procedure step or a declaration is handed on, without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.archive import Archive
from dicom_node.holding.procedure_steps import Change, ListedInstance, ProcedureSteps, StepState
from domain.errors import RequestInvalid, ResourceNotFound
from domain.identifiers import derive_uid
from tests.builders_dicom import Clock, index_engine, new_archive, part10_series

SERIES = derive_uid("series", "series")
STEP = derive_uid("step", "mpps")
QUIET_S = 5.0


class Site:
    """An archive with procedure steps and a clock in one database."""

    def __init__(self, folder: Path) -> None:
        engine, self.clock = index_engine(folder), Clock()
        self.archive = Archive(engine, folder / "archive", min_free_bytes=1, clock=self.clock)
        self.steps = ProcedureSteps(engine, clock=self.clock)

    def land(self, numbers: range, **options: str) -> None:
        for data in part10_series(numbers.stop)[numbers.start :]:
            self.archive.land(data, source="CT1", **options)

    def settled(self) -> list[str]:
        return [found.series_uid for found in self.archive.unannounced(QUIET_S)]

    def settled_after(self, quiet_s: float) -> bool:
        """Whether the series settles after this long, and not before."""
        self.clock.advance(quiet_s - 0.1)
        before = self.settled()
        self.clock.advance(0.2)
        return not before and self.settled() == [SERIES]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def _listing(count: int) -> set[ListedInstance]:
    return {ListedInstance(SERIES, derive_uid("series", "instance", str(number))) for number in range(1, count + 1)}


@pytest.mark.requirement("DICOM-MPPS-002")
def test_a_series_whose_listed_instances_are_all_held_settles_at_once(site: Site) -> None:
    site.steps.create(STEP, (), source="CT1")
    site.land(range(3))
    assert site.settled() == []
    assert site.steps.change(STEP, state=StepState.COMPLETED, listed=_listing(3)) is Change.DONE
    assert site.settled() == [SERIES]
    assert site.archive.announce(SERIES, site.archive.series_digest(SERIES))
    assert site.settled() == []


@pytest.mark.requirement("DICOM-MPPS-002")
def test_a_series_that_lacks_listed_instances_waits_for_them_and_settles_with_the_last(site: Site) -> None:
    site.steps.create(STEP, (), source="CT1")
    site.steps.change(STEP, state=StepState.COMPLETED, listed=_listing(4))
    site.land(range(3))
    site.clock.advance(29.0)
    assert site.settled() == []
    site.land(range(3, 4))
    assert site.settled() == [SERIES]


def test_listed_instances_that_never_come_are_waited_for_six_times_as_long(site: Site) -> None:
    site.steps.create(STEP, _listing(4), source="CT1")
    site.steps.change(STEP, state=StepState.COMPLETED, listed=None)
    site.land(range(3))
    assert site.settled_after(6 * QUIET_S)


@pytest.mark.requirement("DICOM-MPPS-002")
@pytest.mark.parametrize("state", [None, StepState.DISCONTINUED])
def test_a_step_that_is_not_completed_leaves_the_usual_quiet(site: Site, state: StepState | None) -> None:
    site.steps.create(STEP, _listing(3), source="CT1")
    site.steps.change(STEP, state=state, listed=_listing(9))
    site.land(range(3))
    assert site.settled_after(QUIET_S)


def test_a_later_listing_replaces_the_earlier_one(site: Site) -> None:
    site.steps.create(STEP, _listing(9), source="CT1")
    site.steps.change(STEP, state=StepState.COMPLETED, listed=_listing(2))
    site.land(range(2))
    assert site.settled() == [SERIES]


def test_a_step_that_ended_stays_as_it_is(site: Site) -> None:
    assert site.steps.create(STEP, (), source="CT1")
    assert not site.steps.create(STEP, _listing(1), source="CT1")
    assert site.steps.change(derive_uid("other", "mpps"), state=None, listed=None) is Change.UNKNOWN
    site.steps.change(STEP, state=StepState.COMPLETED, listed=_listing(2))
    assert site.steps.change(STEP, state=None, listed=_listing(9)) is Change.FINAL
    site.land(range(2))
    assert site.settled() == [SERIES]


@pytest.mark.requirement("DICOM-SETTLE-002")
def test_a_declared_series_settles_at_once_and_only_as_it_stood(site: Site) -> None:
    site.land(range(2))
    declared = site.archive.declare_complete(SERIES, asked_by="test")
    assert (declared.instances, declared.handed_on) == (2, False)
    assert site.settled() == [SERIES]
    site.land(range(2, 3))
    assert site.settled() == [], "another instance has come: the declaration speaks of the two before"
    assert site.settled_after(QUIET_S)


@pytest.mark.requirement("DICOM-SETTLE-002")
def test_a_declaration_stands_above_a_listing(site: Site) -> None:
    site.steps.create(STEP, (), source="CT1")
    site.steps.change(STEP, state=StepState.COMPLETED, listed=_listing(9))
    site.land(range(2))
    site.archive.declare_complete(SERIES, asked_by="test")
    assert site.settled() == [SERIES]


def test_only_a_held_series_of_others_can_be_declared_complete(site: Site) -> None:
    with pytest.raises(ResourceNotFound):
        site.archive.declare_complete(SERIES, asked_by="test")
    site.land(range(2), origin="generated")
    with pytest.raises(RequestInvalid):
        site.archive.declare_complete(SERIES, asked_by="test")


def test_a_series_that_was_handed_on_is_said_to_be(site: Site) -> None:
    site.land(range(2))
    site.archive.announce(SERIES, site.archive.series_digest(SERIES))
    assert site.archive.declare_complete(SERIES, asked_by="test").handed_on
    assert site.settled() == []


def test_a_prior_becomes_a_source_when_it_is_pushed_or_declared_complete(tmp_path: Path) -> None:
    clock = Clock()
    for number, act in enumerate(("push", "declare")):
        archive = new_archive(tmp_path / act, clock=clock)
        first, second = part10_series(2, name=f"prior {number}")
        landed = archive.land(first, source="PACS", origin="pulled")
        clock.advance(100)
        assert not archive.unannounced(1.0)
        if act == "push":
            archive.land(second, source="PACS")
        else:
            archive.declare_complete(landed.series_uid, asked_by="test")
        clock.advance(100)
        assert [one.series_uid for one in archive.unannounced(1.0)] == [landed.series_uid]
