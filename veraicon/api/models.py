"""Model cards over HTTP."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from veraicon.model_cards import FORMS, form_for, known_card
from veraicon.wiring import Site


def router(site: Site) -> APIRouter:
    """Return the routes of models."""
    routes = APIRouter()

    @routes.get("/models/{name}/card")
    def card(name: str, request: Request, format: str | None = None) -> Any:
        """Give the card of a model as Markdown, CHAI XML or JSON: by ``format``, else by what the caller accepts."""
        content = known_card(name, site.settings.generation.model)
        form = FORMS[form_for(format, request.headers.get("accept", ""))]
        return Response(form.render(content), media_type=form.names[0], headers={"Vary": "Accept"})

    return routes
