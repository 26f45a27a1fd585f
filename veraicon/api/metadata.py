"""``GET /fhir/metadata``: what our FHIR service can do, read from its routes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute

from fhir_adapter.local.capabilities import Call, capability_statement
from fhir_adapter.local.store import LocalFhirStore
from veraicon.api import fhir, operations
from veraicon.api.fhir_answers import answer, base_of, require_json
from veraicon.wiring import Site

# What the service can do changes with the program that runs, so the statement is as old as the process.
_STARTED = datetime.now(UTC).replace(microsecond=0)


def router(site: Site) -> APIRouter:
    """Return the route; it stands before the store's, which would take the word for a resource type."""
    routes = APIRouter(dependencies=[Depends(require_json)])

    @routes.get("/metadata")
    def metadata(request: Request) -> Response:
        """Give the CapabilityStatement."""
        return answer(statement_of(site, base_of(request)))

    return routes


def statement_of(site: Site, base_url: str) -> dict[str, Any]:
    """Return the CapabilityStatement of a site."""
    calls = calls_of([operations.router(site), fhir.router(site)])
    return capability_statement(
        calls,
        base_url=base_url,
        software_version=version("veraicon"),
        built=_STARTED,
        store=isinstance(site.fhir, LocalFhirStore),
    )


def calls_of(routers: Sequence[APIRouter]) -> list[Call]:
    """Return every call that routers answer."""
    routes = [route for one in routers for route in one.routes if isinstance(route, APIRoute)]
    return [Call(method, route.path) for route in routes for method in sorted(route.methods or ())]
