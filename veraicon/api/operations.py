"""Operations of our FHIR service: ``$generate`` asks for volumes, and its Task tells the caller where that stands."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Response

from domain.errors import RequestInvalid, ResourceNotFound
from fhir_adapter.bundles import publication_bundle
from fhir_adapter.json_text import write_json
from fhir_adapter.ordering.codes import CALLER
from fhir_adapter.ordering.generate_operation import answer_parameters, operation_definition, order_of_parameters
from fhir_adapter.ordering.tasks import requested_task
from fhir_adapter.search import split_reference
from veraicon.api.bodies import Body
from veraicon.api.fhir_answers import FHIR_JSON
from veraicon.wiring import Site


def router(site: Site) -> APIRouter:
    """Return the routes of operations, below /fhir."""
    routes = APIRouter()

    @routes.get("/OperationDefinition/generate")
    def definition() -> Response:
        """Give the definition of $generate."""
        return Response(write_json(operation_definition()), media_type=FHIR_JSON)

    @routes.post("/$generate", status_code=202)
    def generate(content: Body) -> Response:
        """Ask for volumes of the images that the Parameters name."""
        return _ask(site, content)

    @routes.post("/ImagingStudy/{resource_id}/$generate", status_code=202)
    def generate_of_study(resource_id: str, content: Body) -> Response:
        """Ask for volumes of an ImagingStudy."""
        return _ask(site, content, focus=_reference("ImagingStudy", resource_id))

    @routes.post("/Patient/{resource_id}/$generate", status_code=202)
    def generate_of_patient(resource_id: str, content: Body) -> Response:
        """Ask for volumes of images that belong to a patient: the Parameters say which, and they have to be this patient's."""
        return _ask(site, content, subject=_reference("Patient", resource_id))

    return routes


def _reference(kind: str, identity: str) -> str:
    reference = f"{kind}/{identity}"
    try:
        split_reference(reference)
    except RequestInvalid as error:
        raise ResourceNotFound(
            found=f"no {kind} with this id", allowed="1 to 64 letters, digits, - and .", action="correct the URL"
        ) from error
    return reference


def _ask(site: Site, content: Any, *, focus: str = "", subject: str = "") -> Response:
    """Keep the order, put its Task where the caller can read it, and answer with its reference.

    The Task is written first: should the order not be kept then, the next poll finds the very same order in the Task.
    """
    now = datetime.now(UTC)
    order, task_id = order_of_parameters(content, sender=CALLER, now=now, fresh=str(uuid.uuid4()), focus=focus, subject=subject)
    if not (order.accession or order.study_uid or order.series_uid or order.focus):
        raise RequestInvalid(
            found="a call of $generate that names no images",
            allowed="accession, study or series in the Parameters, or a call on an ImagingStudy",
            action="say which images are meant; nothing was asked for",
        )
    if site.orders.find(order.order_id) is None:
        site.fhir.transact(publication_bundle([requested_task(order, task_id)]))
        site.orders.take(order, write_json(content).encode() if content is not None else b"")
    headers = {"Content-Location": f"Task/{task_id}"}
    return Response(write_json(answer_parameters(task_id)), status_code=202, media_type=FHIR_JSON, headers=headers)
