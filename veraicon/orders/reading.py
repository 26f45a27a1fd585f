"""A message as bytes, as the order that it would become: what `veraicon rules test` looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from domain.errors import RequestInvalid
from domain.ordering import Order
from fhir_adapter.hl7v2.message import read_message as read_hl7v2
from fhir_adapter.hl7v2.orders import orders_of
from fhir_adapter.json_text import parse_json
from fhir_adapter.ordering.generate_operation import order_of_parameters
from fhir_adapter.ordering.reading import order_of_resource
from fhir_adapter.store import RawResource
from veraicon.hl7v2.inbox import reading_of
from veraicon.orders.webhook_orders import order_of_webhook
from veraicon.settings import Settings

FHIR_SENDER = "fhir"


def read_message(content: bytes, settings: Settings, *, sender: str = "") -> Order:
    """Return the order of a FHIR resource, of Parameters for ``$generate``, of a webhook, or of an HL7 v2 message.

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
        return order_of_parameters(body, sender=sender or "operation", now=now, fresh="test")[0]
    if isinstance(body, Mapping) and "resourceType" in body:
        return order_of_resource(RawResource(body, content), sender or FHIR_SENDER, now)
    return order_of_webhook(body, sender or "webhook", now, call="test")[0]


def _of_hl7v2(content: bytes, settings: Settings, *, sender: str, now: datetime) -> Order:
    """Return the first order of an HL7 v2 message."""
    order = orders_of(read_hl7v2(content), reading_of(settings), now)[0].order
    return replace(order, sender=sender) if sender else order
