"""Tells a FHIR server what becomes of orders that came through it: on the Task that asked, or on one of ours."""

from __future__ import annotations

from dataclasses import dataclass

from domain.ordering import News, Order, OrderOrigin, OrderState
from fhir_adapter.bundles import amendment_bundle, publication_bundle
from fhir_adapter.store import FhirStore
from fhir_adapter.tasks import amended_task, report_task
from veraicon.orders.standing import OrderStanding


@dataclass(frozen=True)
class TaskChannel:
    """Writes Task.status, reasons and outputs.

    What is written is where the order stands at that moment, not the news itself: two pieces of news in the wrong order leave
    the same Task. The requester's own change of the Task is never overwritten (If-Match); the next try reads it again.
    """

    fhir: FhirStore
    standing: OrderStanding
    name: str = "fhir-task"

    def wants(self, news: News) -> bool:
        """Take what concerns orders by FHIR that somebody waits for: not what no rule covers, nor what was taken back."""
        order = news.order
        if order is None or order.origin not in (OrderOrigin.FHIR, OrderOrigin.OPERATION):
            return False
        ignored = news.order_state is OrderState.IGNORED and not order.names_us
        return not ignored and news.order_state is not OrderState.REVOKED

    def send(self, news: News) -> None:
        """Write the Task; see `veraicon.orders.channels.Channel`."""
        if news.order is None:
            return
        progress = self.standing.progress(news.order.order_id)
        if not _is_task(news.order):
            self.fhir.transact(publication_bundle([report_task(news.order, progress)]))
            return
        changed = amended_task(self.fhir.read(news.order.reference).body, progress)
        if changed is not None:
            self.fhir.transact(amendment_bundle([changed], []))


def _is_task(order: Order) -> bool:
    return order.reference.startswith("Task/")
