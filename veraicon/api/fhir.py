"""Our own FHIR store over HTTP: intake of Bundles and resources, read and search. For sites without a FHIR server."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from domain.errors import RequestInvalid, ResourceNotFound
from fhir_adapter.bundles import prepare_intake
from fhir_adapter.json_text import parse_json, write_json
from fhir_adapter.local_store import LocalFhirStore
from veraicon.wiring import Site

FHIR_JSON = "application/fhir+json"
_MAX_BODY_BYTES = 64 * 2**20


async def _body(request: Request) -> Any:
    """Read the body up to its limit: the one coroutine, since only a coroutine sees the stream."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > _MAX_BODY_BYTES:
            raise RequestInvalid(
                found=f"a body of more than {_MAX_BODY_BYTES >> 20} MiB",
                allowed=f"at most {_MAX_BODY_BYTES >> 20} MiB",
                action="split the Bundle",
            )
    if not content:
        return None
    try:
        return parse_json(bytes(content))
    except ValueError as error:
        raise RequestInvalid(
            found="a body that is no JSON", allowed="FHIR R4 JSON", action="send application/fhir+json"
        ) from error


Body = Annotated[Any, Depends(_body)]


def router(site: Site) -> APIRouter:
    """Return the routes below /fhir."""
    routes = APIRouter()

    @routes.post("")
    @routes.post("/", include_in_schema=False)
    def take_bundle(content: Body) -> Response:
        """Take a Bundle of any kind, or one resource, as one transaction."""
        return _answer(_written(_store(site).transact(prepare_intake(content))))

    @routes.put("/{resource_type}/{resource_id}")
    def put_resource(resource_type: str, resource_id: str, content: Body) -> Response:
        """Write one resource under its id."""
        reference = f"{resource_type}/{resource_id}"
        entry = {"resource": content, "request": {"method": "PUT", "url": reference}}
        _store(site).transact({"resourceType": "Bundle", "type": "transaction", "entry": [entry]})
        return _answer(_store(site).read(reference).body)

    @routes.get("/{resource_type}/{resource_id}")
    def read_resource(resource_type: str, resource_id: str) -> Response:
        """Read the current version."""
        store = _store(site)
        held = next(store.search(resource_type, {"_id": resource_id}), None)
        if held is None:
            raise ResourceNotFound(
                found=f"no {resource_type} with this id", allowed="an id that the store holds", action="search for it"
            )
        return _answer(held.body)

    @routes.get("/{resource_type}")
    def search(resource_type: str, request: Request) -> Response:
        """Search by the parameters that the store knows; another parameter is an error, as on HAPI."""
        found = [resource.body for resource in _store(site).search(resource_type, dict(request.query_params))]
        entries = [{"resource": body, "search": {"mode": "match"}} for body in found]
        return _answer({"resourceType": "Bundle", "type": "searchset", "total": len(found), "entry": entries})

    return routes


def _answer(body: object) -> Response:
    return Response(write_json(body), media_type=FHIR_JSON)


def _written(references: list[str]) -> dict[str, Any]:
    entries = [{"response": {"status": "200", "location": reference}} for reference in references]
    return {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}


def _store(site: Site) -> LocalFhirStore:
    if not isinstance(site.fhir, LocalFhirStore):
        raise RequestInvalid(
            found="a call to our own FHIR store, which this site does not use",
            allowed="calls to the FHIR server that [fhir] base_url names",
            action="send it there",
        )
    return site.fhir
