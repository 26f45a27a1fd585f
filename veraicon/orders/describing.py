"""Orders as lists and HTTP show them: no patient data, no clinical value, no accession number."""

from __future__ import annotations

from typing import Any

from veraicon.orders.book import order_of
from veraicon.orders.tables import OrderRow
from veraicon.recall.outputs import aware


def describe_order(row: OrderRow) -> dict[str, Any]:
    """Return what anybody may see of an order; its reference is the sender's own name for it."""
    order = order_of(row)
    return {
        "order": row.order_id,
        "state": row.state,
        "origin": row.origin,
        "sender": row.sender,
        "kind": order.kind,
        "reference": row.reference,
        "rule": row.rule or None,
        "reason": row.reason or None,
        "error": row.error,
        "jobs": list(row.requests),
        "received_at": aware(row.received_at).isoformat(),
        "updated_at": aware(row.updated_at).isoformat(),
    }
