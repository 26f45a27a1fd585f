"""Our own FHIR store over HTTP: intake of Bundles and resources, read and search. For sites without a FHIR server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request, Response

from domain.errors import BodyUnsupported, PeerRefused, RequestInvalid, ResourceNotFound, VeraiconError
from fhir_adapter.local.intake import prepare_create, prepare_entry, prepare_intake, prepare_put
from fhir_adapter.local.store import LocalFhirStore, Written
from fhir_adapter.resource_types import STORED_TYPES
from fhir_adapter.store import RawResource
from veraicon.api.bodies import Body, Content
from veraicon.api.fhir_answers import (
    Pages,
    answer,
    base_of,
    media_type,
    own_references,
    preference,
    read_answer,
    require_json,
    write_answer,
    written_bundle,
)
from veraicon.api.security import holds_scope, require_held_scope
from veraicon.wiring import Site

_FORM = "application/x-www-form-urlencoded"


def router(site: Site) -> APIRouter:
    """Return the routes below /fhir."""
    routes = APIRouter(dependencies=[Depends(require_json)])
    _add_writes(routes, site)
    _add_searches(routes, site)
    return routes


def _add_writes(routes: APIRouter, site: Site) -> None:
    @routes.post("")
    @routes.post("/", include_in_schema=False)
    def take_bundle(request: Request, content: Body) -> Response:
        """Take a batch entry by entry; a Bundle of another kind, or one resource, as one transaction."""
        store, base = _store(site), base_of(request)
        if isinstance(content, Mapping) and (content.get("resourceType"), content.get("type")) == ("Bundle", "batch"):
            return answer(written_bundle("batch", _batch(store, content.get("entry"), base)))
        return answer(written_bundle("transaction", store.write(prepare_intake(content), base_url=base)))

    @routes.post("/{resource_type}")
    def create(resource_type: str, request: Request, content: Body) -> Response:
        """Write one resource under a new id."""
        wanted = request.headers.get("If-None-Exist", "")
        kind = _type(resource_type)
        if wanted:  # it is a search: whether there is such a resource is told
            require_held_scope(request, f"system/{kind}.s")
        return _written(site, prepare_create(kind, content, if_none_exist=wanted), request)

    @routes.put("/{resource_type}/{resource_id}")
    def put_resource(resource_type: str, resource_id: str, request: Request, content: Body) -> Response:
        """Write one resource under its id."""
        version = request.headers.get("If-Match", "")
        return _written(site, prepare_put(_type(resource_type), resource_id, content, only_version=version), request)


def _add_searches(routes: APIRouter, site: Site) -> None:
    pages = Pages(site.salt)

    @routes.post("/{resource_type}/_search")
    def search_by_form(resource_type: str, request: Request, content: Content) -> Response:
        """Search by parameters in the body, where they stand in no log."""
        if content and media_type(request.headers.get("Content-Type", "")).name != _FORM:
            raise BodyUnsupported(found="a search that is not sent as a form", allowed=_FORM, action=f"send {_FORM}")
        form = parse_qsl(content.decode(errors="replace"), keep_blank_values=True)
        return _search(site, pages, resource_type, [*request.query_params.multi_items(), *form], request)

    @routes.get("/{resource_type}/{resource_id}")
    def read_resource(resource_type: str, resource_id: str, request: Request) -> Response:
        """Read the current version."""
        return read_answer(_held(_store(site), _type(resource_type), resource_id), request)

    @routes.get("/{resource_type}")
    def search(resource_type: str, request: Request) -> Response:
        """Search by the parameters that the store knows; another parameter is an error, as on HAPI."""
        return _search(site, pages, resource_type, request.query_params.multi_items(), request)


def _batch(store: LocalFhirStore, entries: object, base: str) -> list[Written | VeraiconError]:
    """Write each entry on its own, and return what became of it."""
    if not isinstance(entries, list) or not entries:
        raise RequestInvalid(found="a batch without entries", allowed="one entry or more", action="put them into Bundle.entry")
    results: list[Written | VeraiconError] = []
    for position, entry in enumerate(entries):
        try:
            results.append(store.write(prepare_entry(position, entry), base_url=base)[0])
        except VeraiconError as error:  # the answer carries it at the entry's place
            results.append(error)
    return results


def _search(site: Site, pages: Pages, kind: str, pairs: list[tuple[str, str]], request: Request) -> Response:
    store = _store(site)
    own = own_references(pairs, base_of(request))
    asked = pages.asked(_type(kind), own, lenient=preference(request, "handling") == "lenient")
    page = store.page(asked.resource_type, asked.pairs, size=asked.size, after=asked.after, sort=asked.sort)
    return answer(pages.bundle(asked, page, request))


def _held(store: LocalFhirStore, kind: str, identity: str) -> RawResource:
    try:
        return store.read(f"{kind}/{identity}")
    except (PeerRefused, RequestInvalid) as error:
        raise ResourceNotFound(
            found=f"no {kind} with this id", allowed="an id that the store holds", action="search for it"
        ) from error


def _written(site: Site, bundle: Mapping[str, Any], request: Request) -> Response:
    store = _store(site)
    (written,) = store.write(bundle, base_url=base_of(request))
    readable = holds_scope(request, f"system/{written.reference.split('/')[0]}.r")
    return write_answer(written, store.read(written.reference) if readable else None, request)


def _type(kind: str) -> str:
    if kind not in STORED_TYPES:
        raise ResourceNotFound(
            found="a path that names no resource type of FHIR R4 that is stored here",
            allowed="the types of GET /fhir/metadata",
            action="correct the URL",
        )
    return kind


def _store(site: Site) -> LocalFhirStore:
    if not isinstance(site.fhir, LocalFhirStore):
        raise RequestInvalid(
            found="a call to our own FHIR store, which this site does not use",
            allowed="calls to the FHIR server that [fhir] base_url names",
            action="send it there",
        )
    return site.fhir
