"""Where others ask us for volumes by a signed JSON call. The signature is the key: no bearer token is asked for."""

from __future__ import annotations

import base64
import secrets
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from domain.errors import BodyTooLarge, OrderConflict
from domain.ordering import Order
from veraicon.orders.book import ORDER, order_of
from veraicon.orders.describing import describe_order
from veraicon.orders.images import names_images
from veraicon.orders.tables import OrderRow
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
    senders = {
        one.name: [secret.get_secret_value() for secret in (one.secret, *one.old_secrets)]
        for one in site.settings.webhook_senders
    }
    # A sender that does not exist is checked like one that does, so who guesses names learns nothing.
    nobody = ["whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()]

    @routes.post("/{name}", status_code=202)
    def take_webhook(name: str, request: Request, content: Annotated[bytes, Depends(_content)]) -> dict[str, Any]:
        """Keep the order of a signed call, and tell where it stands; the same reference again is the same order."""
        now = datetime.now(UTC)
        call = require_signed(request.headers, content, senders.get(name, nobody), now)
        order, taken_back = order_of_webhook(content, name, now, call=call)
        if taken_back:
            site.orders.revoke(order, _REVOKED, content)
        elif not site.orders.take(order, content):
            _require_same(order, site.orders.row(order.order_id))
        return describe_order(site.orders.row(order.order_id))

    return routes


def _require_same(order: Order, row: OrderRow) -> None:
    """Stop where the book keeps another order under this reference, which can no longer be changed.

    One that was taken back before it came says nothing of images, so there is nothing that the order could differ from.
    """
    kept = order_of(row)
    if names_images(kept) and _said(kept) != _said(order):
        raise OrderConflict(
            found=f"another order than the one of this reference, which is {row.state}",
            allowed="the same order again, or a reference of its own",
            action="send it under a new reference; take the first one back if it is no longer wanted",
        )


def _said(order: Order) -> dict[str, object]:
    return {name: value for name, value in ORDER.dump_python(order, mode="json").items() if name != "received_at"}
