"""The ways on which others are told what became of their orders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from domain.ordering import News
from veraicon.orders.fhir_task import TaskChannel
from veraicon.orders.hl7v2 import hl7v2_channels
from veraicon.orders.standing import OrderStanding
from veraicon.orders.webhooks import WebhookChannel

if TYPE_CHECKING:
    from veraicon.wiring import Site


class Channel(Protocol):
    """One way to one receiver."""

    @property
    def name(self) -> str:
        """Name of its own, as rules and lists call it."""
        ...

    def wants(self, news: News) -> bool:
        """Tell whether the receiver is to hear of it."""
        ...

    def send(self, news: News) -> None:
        """Tell it; the same news may be sent again, and its id is the same then.

        Raises
        ------
        PeerError
            If the receiver may take it later: it is sent again, with growing pauses.
        VeraiconError
            If it never will: the news stays as failed, in sight, until somebody tries again by hand.
        """
        ...


def channels_of(site: Site) -> tuple[Channel, ...]:
    """Return the channels of a site, each with a name of its own."""
    standing = OrderStanding(site.orders, site.jobs, site.outputs)
    engines = hl7v2_channels(site.orders, site.settings.hl7v2, site.settings.hl7v2_destinations)
    webhooks = tuple(WebhookChannel(one) for one in site.settings.webhooks)
    return (TaskChannel(site.fhir, standing), *engines, *webhooks)
