"""Orders as webhooks bring them: signed JSON in, an order out. Pure, but for the schema's models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from domain.errors import RequestInvalid, SignatureRefused
from domain.identifiers import PatientIdentifier
from domain.ordering import Order, OrderOrigin, require_storable
from fhir_adapter.json_text import parse_json_once
from veraicon.asking import parse_asked
from veraicon.signing_hooks import TOLERANCE_S, is_signed

_UID = r"^$|^[0-9]+(\.[0-9]+)*$"
# Control characters name nothing, and a database may not take them.
_PRINTABLE = r"^[^\x00-\x1f\x7f]*$"


class WebhookPatient(BaseModel):
    """Whom it is about."""

    model_config = ConfigDict(extra="forbid", strict=True)
    value: str = Field(min_length=1, max_length=256, pattern=_PRINTABLE)
    system: str = Field("", max_length=512, pattern=_PRINTABLE)


class WebhookOrder(BaseModel):
    """What a webhook asks for; at least one of accession, study_uid and series_uid says of which images."""

    model_config = ConfigDict(extra="forbid", strict=True)
    reference: str = Field(
        "", max_length=200, pattern=_PRINTABLE, description="the sender's name of the order; without it the webhook-id"
    )
    accession: str = Field("", max_length=64, pattern=_PRINTABLE)
    study_uid: str = Field("", max_length=64, pattern=_UID)
    series_uid: str = Field("", max_length=64, pattern=_UID)
    patient: WebhookPatient | None = None
    modality: str = Field("", max_length=16, pattern=_PRINTABLE)
    model: str = Field("", max_length=256, pattern=_PRINTABLE)
    samples: int = Field(0, ge=0, le=1000)
    ask: dict[str, str] = Field(default_factory=dict, description='such as {"hippocampus-volume": "3.1 cm3"}')
    cancel: bool = Field(False, description="takes the order of this reference back")


def require_signed(headers: Mapping[str, str], content: bytes, secrets: Sequence[str], now: datetime) -> str:
    """Return the id of a signed call.

    Parameters
    ----------
    headers : mapping
        Names in lower case.
    secrets : sequence of str
        Each of them may have signed.
    now : datetime
        Aware; the call may be 5 minutes older or younger.

    Raises
    ------
    SignatureRefused
        If a header is missing or malformed, the time is off, or no signature fits.

    References
    ----------
    Standard Webhooks specification, "Verifying signatures".
    """
    identity, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not 1 <= len(identity) <= 200 or not stamp.isascii() or not stamp.isdigit() or len(stamp) > 15:
        raise _unsigned("a call without webhook-id and webhook-timestamp")
    if abs(now.timestamp() - int(stamp)) > TOLERANCE_S:
        raise _unsigned(f"a webhook-timestamp more than {TOLERANCE_S} s off")
    if not is_signed(secrets, identity, int(stamp), content, headers.get("webhook-signature", "")):
        raise _unsigned("a webhook-signature that does not fit")
    return identity


def order_of_webhook(content: bytes | object, sender: str, now: datetime, *, call: str) -> tuple[Order, bool]:
    """Return the order of a webhook, and whether it takes the order back.

    Parameters
    ----------
    content : bytes or object
        Its body, or the JSON value of it.
    call : str
        Its webhook-id: the order's reference where the body gives none.

    Raises
    ------
    RequestInvalid
        If it is no JSON of the documented schema, names a member twice, or holds a string that cannot be kept.
    """
    try:
        value = parse_json_once(content) if isinstance(content, bytes) else content
        asked = WebhookOrder.model_validate(value)
    except ValidationError as error:
        raise _malformed("; ".join(_problem(item) for item in error.errors(include_input=False)[:5])) from error
    except ValueError as error:
        raise _malformed("a body that is no JSON, or names a member twice") from error
    if not (asked.cancel or asked.accession or asked.study_uid or asked.series_uid):
        raise _malformed("a webhook that does not say of which images")
    order = Order(
        origin=OrderOrigin.WEBHOOK,
        sender=sender,
        reference=asked.reference or call,
        kind="webhook",
        received_at=now,
        patient=PatientIdentifier(asked.patient.value, asked.patient.system) if asked.patient else None,
        accession=asked.accession,
        study_uid=asked.study_uid,
        series_uid=asked.series_uid,
        names_us=True,
        modality=asked.modality,
        asked=parse_asked([f"{kind}={value}" for kind, value in asked.ask.items()]),
        model=asked.model,
        samples=asked.samples,
    )
    require_storable(order)
    return order, asked.cancel


def _problem(item: Any) -> str:
    # A key that is not of the schema is the sender's text: it is not repeated.
    unknown, place = item["type"] == "extra_forbidden", item["loc"]
    named = place[:1] if place[:1] == ("ask",) else place
    return "an unknown key" if unknown else f"{'.'.join(str(part) for part in named)}: {item['msg']}"


def _malformed(found: str) -> RequestInvalid:
    allowed = f"a JSON object with {', '.join(WebhookOrder.model_fields)}"
    return RequestInvalid(found=found, allowed=allowed, action="correct the call; nothing was asked for")


def _unsigned(found: str) -> SignatureRefused:
    return SignatureRefused(
        found=found,
        allowed="webhook-id, webhook-timestamp within 5 minutes, and webhook-signature v1 by a secret of this sender",
        action="check the secret and the clock of the sender; the body must be signed as it is sent",
    )
