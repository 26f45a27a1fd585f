"""Where the FHIR server calls us: rest-hooks as HAPI sends them, and notifications of topic subscriptions."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, Protocol

from fastapi import APIRouter, Depends, Response

from domain.errors import RequestInvalid, ResourceNotFound
from fhir_adapter.subscribing.topics import Notification, parse_notification
from veraicon.api.bodies import Body
from veraicon.api.security import bearer_check


class Hearing(Protocol):
    """Who takes notifications."""

    @property
    def names(self) -> Mapping[str, str]:
        """Criteria by the name of their hook."""
        ...

    def hear(self, criteria: str, notification: Notification | None) -> None:
        """Take one; it returns soon."""
        ...


def router(hearing: Hearing, token: str) -> APIRouter:
    """Return the routes below /hooks/fhir; each call has to carry the hooks' own bearer token.

    The answer is an empty 200: a body that is no OperationOutcome counts as a failed delivery on HAPI.
    """
    routes = APIRouter(dependencies=[Depends(bearer_check(token))])

    @routes.post("/{name}")
    def take_call(name: str, content: Body) -> Response:
        """Take an empty call, a resource, or a notification Bundle."""
        return _hear(hearing, name, content)

    @routes.put("/{name}/{resource_type}/{resource_id}")
    def take_payload(name: str, resource_type: str, resource_id: str) -> Response:
        """Take a call with a resource as payload, which is left unread: what counts is what the server says when we ask."""
        return _hear(hearing, name, None)

    return routes


def _hear(hearing: Hearing, name: str, content: Any) -> Response:
    criteria = next((text for known, text in hearing.names.items() if hmac.compare_digest(known, name)), None)
    if criteria is None:
        raise ResourceNotFound(
            found="a call of a hook that is not ours",
            allowed="hooks of the criteria in [subscriptions]",
            action="`veraicon subscriptions remove` on the site that made this subscription",
        )
    if not isinstance(content, Mapping) or content.get("resourceType") != "Bundle":
        hearing.hear(criteria, None)
        return Response(status_code=200)
    try:
        hearing.hear(criteria, parse_notification(content))
    except RequestInvalid:
        hearing.hear(criteria, None)  # whatever it wanted to say: it is time to look
        raise
    return Response(status_code=200)
