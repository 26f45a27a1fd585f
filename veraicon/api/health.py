"""Health and public keys: open to all."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter

from veraicon.wiring import Site


def router(site: Site) -> APIRouter:
    """Return the open routes."""
    routes = APIRouter()

    @routes.get("/health")
    def health() -> dict[str, Any]:
        """Say that the process lives and the database answers."""
        with site.engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
        return {"status": "ok", "version": version("veraicon"), "ae_title": site.settings.node.ae_title}

    @routes.get("/.well-known/jwks.json")
    def public_keys() -> dict[str, Any]:
        """Give the public keys that our signatures verify with; those that sign no more say when they stopped (RFC 7517)."""
        return site.keyring.public_jwks()

    return routes
