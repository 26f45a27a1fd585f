"""QIDO-RS: searches for studies, series and instances, at every level and below every parent (PS3.18 10.6)."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from dicom_node.holding.entities import Entity
from dicom_node.holding.paging import page_of_uids
from dicom_node.query import UNIQUE_KEYS
from dicom_node.web.query import Search, parse_search
from veraicon.api.dicomweb.answers import json_answer, require_json, service_url
from veraicon.wiring import Site


def router(site: Site) -> APIRouter:
    """Return the search routes."""
    routes = APIRouter()

    def search(request: Request, level: str, **path: str) -> Response:
        require_json(request)
        asked = parse_search(level, path, request.query_params.multi_items())
        page, beyond = _page(site, asked)
        more = [f"There are {beyond} additional results that can be requested"] if beyond else []
        url = service_url(request)
        return json_answer([asked.as_json(entity, url) for entity in page], warnings=[*asked.warnings, *more])

    @routes.get("/studies")
    def studies(request: Request) -> Response:
        """Search for studies."""
        return search(request, "STUDY")

    @routes.get("/series")
    def all_series(request: Request) -> Response:
        """Search for series of all studies."""
        return search(request, "SERIES")

    @routes.get("/instances")
    def all_instances(request: Request) -> Response:
        """Search for instances of all studies."""
        return search(request, "IMAGE")

    @routes.get("/studies/{study}/series")
    def series(request: Request, study: str) -> Response:
        """Search for series of a study."""
        return search(request, "SERIES", StudyInstanceUID=study)

    @routes.get("/studies/{study}/instances")
    def study_instances(request: Request, study: str) -> Response:
        """Search for instances of a study."""
        return search(request, "IMAGE", StudyInstanceUID=study)

    @routes.get("/studies/{study}/series/{series_uid}/instances")
    def instances(request: Request, study: str, series_uid: str) -> Response:
        """Search for instances of a series."""
        return search(request, "IMAGE", StudyInstanceUID=study, SeriesInstanceUID=series_uid)

    return routes


def _page(site: Site, asked: Search) -> tuple[list[Entity], int]:
    """Return the matches of a page and how many there are beyond it, by the database alone where it can match all keys."""
    level, narrowing = asked.query.level, asked.query.narrowing
    if not asked.query.exact:
        return asked.page(site.archive.search(level, narrowing))
    uids, total = page_of_uids(site.engine, level, narrowing, offset=asked.offset, limit=asked.limit)
    keyword = UNIQUE_KEYS[level]
    found = {entity[keyword]: entity for entity in site.archive.find(level, {keyword: uids})} if uids else {}
    return [found[uid] for uid in uids if uid in found], max(0, total - asked.offset - asked.limit)
