"""Whether the record knew something at the imaging time. Pure.

A record time that a resource states decides (``issued``, ``recordedDate``, ``dateAsserted``, ``authoredOn``). Where none is
stated, ``meta.lastUpdated`` is all there is, and it may be the time at which a whole archive was loaded into a new server. So
it decides alone only where the resource states no time at all; of what states when it was true, three things are left out:

1. What was made from this scan: what refers to an ImagingStudy that started on the imaging day or later, as the report on it or
   on its order, a measurement in it, a result or member of these, a diagnosis by its evidence, or what was done for such a
   reason. Only a record time to the second, at or before the scan, speaks for it: a date of that day does not.
2. What is dated the imaging day itself and was last changed after the scan.
3. What was last changed after the scan on a server that is shown to have held resources of that type of this patient by then:
   one of them was last changed at or before the scan. Where none was, they were all loaded later, and that says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from fhir_adapter.clinical.statements.claims import Stated
from fhir_adapter.elements import objects, optional_object
from fhir_adapter.moments import Moment, optional_moment
from fhir_adapter.store import RawResource

# What a resource was made from (upward), and what is a part of a result (downward). FHIR R4 Observation, DiagnosticReport.
_FROM = ("derivedFrom", "imagingStudy", "reasonReference")
_PARTS = ("result", "hasMember")
# basedOn the order of the scan: only of results; what else an order led to need not come from the images.
_RESULTS = ("DiagnosticReport", "Observation")


@dataclass(frozen=True, slots=True)
class RecordedBy:
    """What one patient's resources tell of the imaging time, all taken together.

    Attributes
    ----------
    as_of : datetime
        Imaging time; aware.
    from_scan : frozenset of str
        References of what was made from this scan, or from a later one.
    held : frozenset of str
        Types of which the server is shown to have held a resource of the patient at the imaging time.
    """

    as_of: datetime
    from_scan: frozenset[str]
    held: frozenset[str]

    @classmethod
    def of(cls, resources: Sequence[RawResource], as_of: datetime) -> RecordedBy:
        """Return what a patient's resources tell; malformed ones tell nothing here, and their readers say what is wrong."""
        held = frozenset(raw.resource_type for raw in resources if (at := updated_at(raw, as_of)) and at.known_by(as_of))
        return cls(as_of, _made_from_scan(resources, as_of), held)

    def untimely(self, stated: Stated, raw: RawResource) -> str:
        """Return why a statement does not count at the imaging time; empty where it counts."""
        true, recorded = stated.effective, stated.recorded
        if true is not None and not true.known_by(self.as_of):
            return "after the imaging time"
        if recorded is not None and not recorded.known_by(self.as_of):
            return "recorded after the imaging time"
        if raw.reference in self.from_scan and not (recorded and self._before(recorded)):
            return "made from this scan"
        return self._by_last_change(true, raw) if recorded is None else ""

    def _by_last_change(self, true: Moment | None, raw: RawResource) -> str:
        updated = updated_at(raw, self.as_of)
        if updated is None:
            return "no time" if true is None else ""
        if updated.known_by(self.as_of):
            return ""
        if true is None:
            return "recorded after the imaging time"
        late = raw.resource_type in self.held or self._last_day(true) >= self.as_of.date()
        return "changed after the imaging time, and no time of record" if late else ""

    def _before(self, recorded: Moment) -> bool:
        return recorded.last_day is None or recorded.last_day < self.as_of.date()

    def _last_day(self, moment: Moment) -> date:
        return moment.last_day or moment.start.astimezone(self.as_of.tzinfo).date()


def updated_at(raw: RawResource, as_of: datetime) -> Moment | None:
    """Return when its server last changed a resource; None where that is not stated, or not in a way that can be read."""
    try:
        return optional_moment(optional_object(raw.body, "meta") or {}, "lastUpdated", as_of.tzinfo)
    except ValueError:
        return None


def _made_from_scan(resources: Sequence[RawResource], as_of: datetime) -> frozenset[str]:
    scans = [raw for raw in resources if raw.resource_type == "ImagingStudy" and _of_the_day(raw.body, as_of)]
    images = {scan.reference for scan in scans}
    orders = {target for scan in scans for target in _targets(scan.body, "basedOn")}
    led_to: dict[str, set[str]] = {}
    for raw in resources if scans else ():
        for origin in _origins(raw):
            led_to.setdefault(origin, set()).add(raw.reference)
        led_to.setdefault(raw.reference, set()).update(*(_targets(raw.body, name) for name in _PARTS))
    results = [raw for raw in resources if raw.resource_type in _RESULTS]
    made: set[str] = set()
    ahead = [*images, *(raw.reference for raw in results if not orders.isdisjoint(_targets(raw.body, "basedOn")))]
    while ahead:
        one = ahead.pop()
        if one not in made:
            made.add(one)
            ahead += led_to.get(one, ())
    # A scan is no result of itself: its kind and its reason were known when it was taken.
    return frozenset(made - images)


def _origins(raw: RawResource) -> Iterator[str]:
    for name in (*_FROM, *(("partOf",) if raw.resource_type == "Observation" else ())):
        yield from _targets(raw.body, name)
    for evidence in _listed(raw.body, "evidence"):
        yield from _targets(evidence, "detail")


def _targets(body: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yield ``Type/id`` of each reference in a repeating element, relative or absolute, of any version."""
    for item in _listed(body, name):
        reference = item.get("reference")
        if isinstance(reference, str):
            yield "/".join(reference.split("/_history/", 1)[0].split("/")[-2:])


def _listed(body: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    try:
        return objects(body, name)
    except ValueError:
        return []


def _of_the_day(study: Mapping[str, Any], as_of: datetime) -> bool:
    """Tell whether a study started on the imaging day or later; one that states no start is taken for an older one."""
    try:
        started = optional_moment(study, "started", as_of.tzinfo)
    except ValueError:
        return False
    if started is None:
        return False
    last = started.last_day or started.start.astimezone(as_of.tzinfo).date()
    return last >= as_of.date()
