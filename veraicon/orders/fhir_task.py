"""Tells a FHIR server what becomes of orders that came through it: on the Task that asked, or on one of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from domain.errors import PeerRefused, VersionChanged
from domain.ordering import News, Order, OrderOrigin, OrderState
from fhir_adapter.bundles import amendment_bundle, publication_bundle
from fhir_adapter.ordering.tasks import Progress, amended_task, has_ended, report_id, report_task
from fhir_adapter.store import FhirStore
from veraicon.orders.standing import OrderStanding

_TRIES = 3


@dataclass(frozen=True)
class TaskChannel:
    """Writes Task.status, reasons and outputs.

    What is written is where the order stands at that moment, not the news itself: two pieces of news in the wrong order leave
    the same Task. The requester's own change of the Task is never overwritten (If-Match): it is read again, and answered anew.
    """

    fhir: FhirStore
    standing: OrderStanding
    name: str = "fhir-task"

    def wants(self, news: News) -> bool:
        """Take what concerns orders by FHIR that somebody waits for: not what no rule covers, nor a Task taken back."""
        order = news.order
        if order is None or order.origin not in (OrderOrigin.FHIR, OrderOrigin.OPERATION):
            return False
        ignored = news.order_state is OrderState.IGNORED and not order.names_us
        return not ignored and not (news.order_state is OrderState.REVOKED and _is_task(order))

    def send(self, news: News) -> None:
        """Write the Task; see `veraicon.orders.channels.Channel`."""
        if news.order is None:
            return
        progress = self.standing.progress(news.order.order_id)
        if not _is_task(news.order):
            if progress.state is not OrderState.REVOKED or self._reports(news.order):
                self.fhir.transact(publication_bundle([report_task(news.order, progress)]))
            return
        for _ in range(_TRIES):
            if self._amend(news.order.reference, progress):
                return
        raise VersionChanged(
            found="a Task that others change all the time",
            allowed="a Task that stays as it is from reading to writing",
            action="nothing: it is written again by itself",
        )

    def _reports(self, order: Order) -> bool:
        """Tell whether a Task of ours still says that somebody is to wait: most orders that are taken back have none."""
        return any(not has_ended(found.body) for found in self.fhir.search("Task", {"_id": report_id(order)}))

    def _amend(self, reference: str, progress: Progress) -> bool:
        """Write our answer into a Task; False where somebody else changed it meanwhile.

        Servers refuse that with 409 or 412 and other words each, so the version that they hold now decides.
        """
        task = self.fhir.read(reference).body
        changed = amended_task(task, progress)
        if changed is None:
            return True
        try:
            self.fhir.transact(amendment_bundle([changed], []))
        except PeerRefused:
            if _version(self.fhir.read(reference).body) == _version(task):
                raise
            return False
        return True


def _version(resource: Mapping[str, object]) -> object:
    meta = resource.get("meta")
    return meta.get("versionId") if isinstance(meta, Mapping) else None


def _is_task(order: Order) -> bool:
    return order.reference.startswith("Task/")
