"""Where others ask us for volumes by a signed JSON call. The signature is the key: no bearer token is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import SecretStr

from domain.errors import BodyTooLarge, SignatureRefused
from veraicon.orders.describing import describe_order
from veraicon.orders.webhook_orders import order_of_webhook, require_signed
from veraicon.wiring import Site

HOOKS = "/hooks/webhook"
_MAX_BODY_BYTES = 256 * 1024
_REVOKED = "its sender took it back"


async def _content(request: Request) -> bytes:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > _MAX_BODY_BYTES:
            raise BodyTooLarge(found="a webhook of more than 256 KiB", allowed="at most 256 KiB", action="send the order alone")
    return bytes(content)


def router(site: Site) -> APIRouter:
    """Return the routes below /hooks/webhook."""
    routes = APIRouter()
    senders = {one.name: [one.secret, *one.old_secrets] for one in site.settings.webhook_senders}

    @routes.post("/{name}", status_code=202)
    def take_webhook(name: str, request: Request, content: Annotated[bytes, Depends(_content)]) -> dict[str, Any]:
        """Keep the order of a signed call, and tell where it stands; the same reference again is the same order."""
        now = datetime.now(UTC)
        call = require_signed(request.headers, content, _secrets(senders.get(name)), now)
        order, taken_back = order_of_webhook(content, name, now, call=call)
        if taken_back:
            site.orders.revoke(order, _REVOKED, content)
        else:
            site.orders.take(order, content)
        return describe_order(site.orders.row(order.order_id))

    return routes


def _secrets(secrets: Sequence[SecretStr] | None) -> list[str]:
    if secrets is None:
        # Who guesses names learns nothing that a wrong signature does not tell.
        raise SignatureRefused(
            found="a webhook-signature that does not fit",
            allowed="a sender of [[webhook_senders]], and its secret",
            action="check the name in the path, and the secret",
        )
    return [secret.get_secret_value() for secret in secrets]
