"""A message as bytes, as the order that it would become: what `veraicon rules test` looks at."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from domain.errors import RequestInvalid
from domain.ordering import Order
from fhir_adapter.generate_operation import order_of_parameters
from fhir_adapter.json_text import parse_json
from fhir_adapter.orders_as_fhir import order_of_resource
from fhir_adapter.store import RawResource
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
    raise RequestInvalid(
        found="JSON that is no FHIR resource", allowed="a FHIR R4 resource", action="give the message as it is sent"
    )
