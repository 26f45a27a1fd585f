"""A message as bytes, as the orders that it would become and what would be done with each: what `veraicon rules test` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import sqlalchemy as sa

from domain.errors import RequestInvalid
from domain.ordering import Order, OrderOrigin
from fhir_adapter.hl7v2.orders import Action, orders_of
from fhir_adapter.json_text import parse_json
from fhir_adapter.ordering.codes import OPEN
from fhir_adapter.ordering.generate_operation import order_of_parameters
from fhir_adapter.ordering.reading import Standing, order_of_resource, standing
from fhir_adapter.store import RawResource
from generators.cards import bundle_folder, read_card
from veraicon.hl7v2.inbox import message_of, reading_of
from veraicon.orders.book import OrderBook
from veraicon.orders.channels import Channel
from veraicon.orders.fhir_task import TaskChannel
from veraicon.orders.hl7v2 import hl7v2_channels
from veraicon.orders.images import names_images
from veraicon.orders.rules import Verdict, judge, require_rules
from veraicon.orders.service import fetchable
from veraicon.orders.webhook_orders import order_of_webhook
from veraicon.orders.webhooks import WebhookChannel
from veraicon.settings import Settings

FHIR_SENDER = "fhir"
_STANDINGS = {Action.ASK: Standing.OPEN, Action.REVOKE: Standing.REVOKED, Action.NOTHING: Standing.NEITHER}


@dataclass(frozen=True, slots=True)
class AskedOrder:
    """One order of a message, and whether the message asks for it, takes it back, or does neither."""

    order: Order
    standing: Standing


@dataclass(frozen=True, slots=True)
class Expected:
    """What would be done with an order.

    Attributes
    ----------
    action : str
        ``generate``, ``ignore``, ``refuse``, ``revoke``, or ``nothing``: no order is kept of it.
    reason : str
        Why, in words without patient data.
    verdict : Verdict or None
        What the rules say; None where they are not asked.
    tell : tuple of str
        Channels that hear of it; empty: every one that takes such news.
    """

    order: Order
    action: str
    reason: str
    verdict: Verdict | None = None
    tell: tuple[str, ...] = ()


def read_message(content: bytes, settings: Settings, *, sender: str = "") -> list[AskedOrder]:
    """Return the orders of a FHIR resource, of Parameters for ``$generate``, of a webhook, or of an HL7 v2 message.

    Raises
    ------
    RequestInvalid
        If it is none of these, or malformed.
    """
    now = datetime.now(UTC)
    if content.lstrip().startswith(b"MSH"):
        return _of_hl7v2(content, settings, sender=sender, now=now)
    try:
        body = parse_json(content)
    except ValueError as error:
        raise RequestInvalid(
            found="a message that is neither JSON nor HL7 v2",
            allowed="a FHIR R4 resource, Parameters of $generate, the JSON of a webhook, or an HL7 v2 message",
            action="give the message as it is sent",
        ) from error
    if isinstance(body, Mapping) and body.get("resourceType") == "Parameters":
        order, _ = order_of_parameters(body, sender=sender or "operation", now=now, fresh="test")
        return [AskedOrder(order, Standing.OPEN)]
    if isinstance(body, Mapping) and "resourceType" in body:
        return [_of_resource(RawResource(body, content), sender or FHIR_SENDER, now)]
    order, cancels = order_of_webhook(body, sender or "webhook", now, call="test")
    return [AskedOrder(order, Standing.REVOKED if cancels else Standing.OPEN)]


def expected(asked: AskedOrder, settings: Settings) -> Expected:
    """Return what the site would do with an order, as far as that can be told before its images are looked for.

    Raises
    ------
    WeightsRejected
        If the site's model has no usable card.
    """
    order = asked.order
    if asked.standing is Standing.NEITHER:
        return Expected(order, "nothing", f"this {order.kind} neither asks for something now nor takes an order back")
    if asked.standing is Standing.REVOKED:
        return Expected(order, "revoke", f"this {order.kind} takes an order back; its jobs under way are cancelled")
    verdict = judge(order, settings.rules, settings.generation)
    tell = next((rule.tell for rule in settings.rules if rule.name == verdict.rule), ())
    if not verdict.generate:
        return Expected(order, "ignore", verdict.reason, verdict, tell)
    refusal = _refusal(order, verdict, settings)
    return Expected(order, "refuse" if refusal else "generate", refusal or verdict.reason, verdict, tell)


def require_site_rules(settings: Settings) -> None:
    """Stop where `serve` would not start with the rules of the settings; see `veraicon.orders.rules.require_rules`.

    Raises
    ------
    ConfigurationError
        If a rule could never be followed, or a channel could not be opened.
    """
    nowhere = OrderBook(sa.create_engine("sqlite://"))  # only names are wanted of the channels: none of them looks into it
    channels: list[Channel] = [*hl7v2_channels(nowhere, settings.hl7v2, settings.hl7v2_destinations)]
    channels += map(WebhookChannel, settings.webhooks)
    names = [TaskChannel.name, *(channel.name for channel in channels)]
    require_rules(settings.rules, peers=fetchable(settings), channels=names)


def _refusal(order: Order, verdict: Verdict, settings: Settings) -> str:
    """Return why an order would be refused whatever images there are; empty where it would not."""
    if not names_images(order) and not order.focus:
        return "it names neither a series, nor a study, nor an accession number, nor a resource that says which are meant"
    card = read_card(bundle_folder(settings.generation.model))
    if verdict.model not in (settings.generation.model, card.name):
        return f"it is for the model {verdict.model[:64]!r}, and this site runs {card.name}"
    return ""


def _of_resource(raw: RawResource, sender: str, now: datetime) -> AskedOrder:
    state = standing(raw)
    if state is Standing.NEITHER and raw.resource_type in OPEN:  # `serve` does not read it any further either
        return AskedOrder(Order(OrderOrigin.FHIR, sender, raw.reference, raw.resource_type, now), state)
    return AskedOrder(order_of_resource(raw, sender, now), state)


def _of_hl7v2(content: bytes, settings: Settings, *, sender: str, now: datetime) -> list[AskedOrder]:
    found = orders_of(message_of(content, settings), reading_of(settings), now)
    orders = [(replace(one.order, sender=sender) if sender else one.order, one.action) for one in found]
    return [AskedOrder(order, _STANDINGS[action]) for order, action in orders]
