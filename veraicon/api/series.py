"""Held series over HTTP: declaring one complete."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from domain.identifiers import require_uid
from veraicon.wiring import Site


def router(site: Site) -> APIRouter:
    """Return the routes of series."""
    routes = APIRouter()

    @routes.post("/series/{uid}/settle", status_code=202)
    def settle(uid: str) -> dict[str, Any]:
        """Declare a received series complete as it stands; it is handed on at once instead of after its quiet time."""
        declared = site.archive.declare_complete(require_uid(uid, attribute="SeriesInstanceUID"), asked_by="http")
        return {"series_uid": declared.series_uid, "instances": declared.instances, "handed_on": declared.handed_on}

    return routes
