"""Orders over HTTP: where they stand. No patient data."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from domain.ordering import OrderState
from veraicon.orders.describing import describe_order
from veraicon.wiring import Site


def router(site: Site) -> APIRouter:
    """Return the routes of orders."""
    routes = APIRouter()

    @routes.get("/orders")
    def list_orders(
        state: Annotated[list[OrderState] | None, Query()] = None, limit: Annotated[int, Query(ge=1, le=1000)] = 200
    ) -> list[dict[str, Any]]:
        """List orders, the one that changed last first."""
        return [describe_order(row) for row in site.orders.recent(states=state or [], limit=limit)]

    @routes.get("/orders/{order_id}")
    def show_order(order_id: str) -> dict[str, Any]:
        """Show one order."""
        return describe_order(site.orders.row(order_id))

    return routes
