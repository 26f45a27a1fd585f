"""The Subscription resource of a rest-hook as FHIR R4 has it, and as HAPI wants it. Pure.

References
----------
FHIR R4 Subscription (``criteria``, ``channel``, ``status``); status is ``requested`` when we write it and the server's after.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

Json = dict[str, Any]

_REASON = "Veraicon looks for orders; a notification only says that it has to look"
# Elements that are ours: where one of them differs, the Subscription is written anew.
_OURS = ("criteria", "_criteria", "reason", "channel")


def rest_hook(identity: str, criteria: str, endpoint: str, token: str, *, payload: bool, end: datetime) -> Json:
    """Return the Subscription to write.

    Parameters
    ----------
    identity : str
        Its id, ours and never numeric only.
    endpoint : str
        Where the server calls us; it appends ``/Type/id`` where there is a payload.
    token : str
        Bearer token that the server has to send.
    payload : bool
        Whether the server sends the resource; without it the call is empty and tells nothing on its way.
    end : datetime
        When the server may forget it; aware.
    """
    channel: Json = {"type": "rest-hook", "endpoint": endpoint, "header": [f"Authorization: Bearer {token}"]}
    if payload:
        channel["payload"] = "application/fhir+json"
    return {
        "resourceType": "Subscription",
        "id": identity,
        "status": "requested",
        "end": end.isoformat(timespec="seconds"),
        "reason": _REASON,
        "criteria": criteria,
        "channel": channel,
    }


def needs_writing(held: Mapping[str, Any] | None, wanted: Mapping[str, Any], *, renew_before: datetime) -> str:
    """Return why a Subscription has to be written again, in words; empty where it stands as it should.

    A server may answer without our header, which it need not show; then only the rest is compared.
    """
    if held is None:
        return "it is not there"
    if held.get("status") in ("off", "error"):
        return f"its status is {held['status']}"
    for name in _OURS:
        if _without_header(held.get(name)) != _without_header(wanted.get(name)):
            return f"its {name.strip('_')} differs"
    return "it ends soon" if _ends_before(held.get("end"), renew_before) else ""


def _ends_before(end: Any, moment: datetime) -> bool:
    """Compare moments, not texts: a server may answer in another time zone. One without an end never does."""
    if end is None:
        return False
    try:
        return datetime.fromisoformat(str(end)) < moment
    except (ValueError, TypeError):  # no time, or one without a zone: ours had one
        return True


def _without_header(value: Any) -> Any:
    return {name: part for name, part in value.items() if name != "header"} if isinstance(value, Mapping) else value
