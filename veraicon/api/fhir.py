"""Our own FHIR store over HTTP: intake of Bundles and resources, read and search. For sites without a FHIR server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request, Response

from domain.errors import BodyTooLarge, BodyUnsupported, RequestInvalid, ResourceNotFound, VeraiconError
from fhir_adapter.bundles import prepare_create, prepare_entry, prepare_intake, prepare_put
from fhir_adapter.json_text import parse_json
from fhir_adapter.local.store import LocalFhirStore, Written
from fhir_adapter.resource_types import STORED_TYPES
from fhir_adapter.store import RawResource
from veraicon.api.fhir_answers import (
    FHIR_JSON,
    Pages,
    answer,
    preference,
    read_answer,
    require_json,
    write_answer,
    written_bundle,
)
from veraicon.wiring import Site

__all__ = ["FHIR_JSON", "Body", "router"]

_MAX_BODY_BYTES = 64 * 2**20
_FORM = "application/x-www-form-urlencoded"


async def _content(request: Request) -> bytes:
    """Read the body up to its limit: a coroutine, since only a coroutine sees the stream."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > _MAX_BODY_BYTES:
            raise BodyTooLarge(
                found=f"a body of more than {_MAX_BODY_BYTES >> 20} MiB",
                allowed=f"at most {_MAX_BODY_BYTES >> 20} MiB",
                action="split the Bundle",
            )
    return bytes(content)


Content = Annotated[bytes, Depends(_content)]


def _body(request: Request, content: Content) -> Any:
    """Parse the body: in a thread, so that a large Bundle holds up nobody else."""
    if not content:
        return None
    kind = request.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if kind and kind != "text/json" and not kind.endswith(("/json", "+json")):
        raise BodyUnsupported(found="a body that is not sent as JSON", allowed=FHIR_JSON, action=f"send {FHIR_JSON}")
    try:
        return parse_json(content)
    except ValueError as error:
        raise RequestInvalid(
            found="a body that is no JSON", allowed="FHIR R4 JSON", action="send application/fhir+json"
        ) from error


Body = Annotated[Any, Depends(_body)]


def router(site: Site) -> APIRouter:
    """Return the routes below /fhir."""
    routes = APIRouter(dependencies=[Depends(require_json)])
    pages = Pages(site.salt)

    @routes.post("")
    @routes.post("/", include_in_schema=False)
    def take_bundle(content: Body) -> Response:
        """Take a batch entry by entry; a Bundle of another kind, or one resource, as one transaction."""
        store = _store(site)
        if isinstance(content, Mapping) and (content.get("resourceType"), content.get("type")) == ("Bundle", "batch"):
            return answer(written_bundle("batch", _batch(store, content.get("entry"))))
        return answer(written_bundle("transaction", store.write(prepare_intake(content))))

    @routes.post("/{resource_type}/_search")
    def search_by_form(resource_type: str, request: Request, content: Content) -> Response:
        """Search by parameters in the body, where they stand in no log."""
        kind = request.headers.get("Content-Type", "").split(";")[0].strip().lower()
        if content and kind != _FORM:
            raise BodyUnsupported(found="a search that is not sent as a form", allowed=_FORM, action=f"send {_FORM}")
        form = parse_qsl(content.decode(errors="replace"), keep_blank_values=True)
        return _search(site, pages, resource_type, [*request.query_params.multi_items(), *form], request)

    @routes.post("/{resource_type}")
    def create(resource_type: str, request: Request, content: Body) -> Response:
        """Write one resource under a new id."""
        store = _store(site)
        wanted = request.headers.get("If-None-Exist", "")
        bundle = prepare_create(_type(resource_type), content, if_none_exist=wanted)
        return _written(store, store.write(bundle)[0], request)

    @routes.put("/{resource_type}/{resource_id}")
    def put_resource(resource_type: str, resource_id: str, request: Request, content: Body) -> Response:
        """Write one resource under its id."""
        store = _store(site)
        version = request.headers.get("If-Match", "")
        bundle = prepare_put(_type(resource_type), resource_id, content, only_version=version)
        return _written(store, store.write(bundle)[0], request)

    @routes.get("/{resource_type}/{resource_id}")
    def read_resource(resource_type: str, resource_id: str, request: Request) -> Response:
        """Read the current version."""
        return read_answer(_held(_store(site), _type(resource_type), resource_id), request)

    @routes.get("/{resource_type}")
    def search(resource_type: str, request: Request) -> Response:
        """Search by the parameters that the store knows; another parameter is an error, as on HAPI."""
        return _search(site, pages, resource_type, request.query_params.multi_items(), request)

    return routes


def _batch(store: LocalFhirStore, entries: object) -> list[Written | VeraiconError | None]:
    """Write each entry on its own, and return what became of it."""
    if not isinstance(entries, list) or not entries:
        raise RequestInvalid(found="a batch without entries", allowed="one entry or more", action="put them into Bundle.entry")
    results: list[Written | VeraiconError | None] = []
    for position, entry in enumerate(entries):
        try:
            prepared = prepare_entry(position, entry)
            results.append(store.write(prepared)[0] if prepared else None)
        except VeraiconError as error:  # the answer carries it at the entry's place
            results.append(error)
    return results


def _search(site: Site, pages: Pages, kind: str, pairs: list[tuple[str, str]], request: Request) -> Response:
    store = _store(site)
    asked = pages.asked(_type(kind), pairs, lenient=preference(request, "handling") == "lenient")
    page = store.page(asked.resource_type, asked.pairs, size=asked.size, after=asked.after, sort=asked.sort)
    return answer(pages.bundle(asked, page, request))


def _held(store: LocalFhirStore, kind: str, identity: str) -> RawResource:
    held = next(store.search(kind, {"_id": identity.replace("\\", "")}), None)
    if held is None or held.body["id"] != identity:
        raise ResourceNotFound(found=f"no {kind} with this id", allowed="an id that the store holds", action="search for it")
    return held


def _written(store: LocalFhirStore, written: Written, request: Request) -> Response:
    return write_answer(written, store.read(written.reference), request)


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
