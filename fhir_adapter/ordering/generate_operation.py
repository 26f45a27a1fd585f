"""The operation ``$generate``: Parameters in, an order out; and its OperationDefinition. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from domain.errors import RequestInvalid
from domain.identifiers import derive_fhir_id
from domain.ordering import Order, OrderOrigin, require_storable
from fhir_adapter.elements import objects, optional_object, optional_text, required_text
from fhir_adapter.ordering import codes
from fhir_adapter.ordering.reading import asked_value, with_parameter

Json = dict[str, Any]

NAME = "generate"
CANONICAL = "https://veraicon.dev/fhir/OperationDefinition/generate"
_ASK = "ask"
_REQUEST_ID = "request-id"
_SINGLE = (
    (codes.ACCESSION, "string", "Accession number of the images."),
    (codes.STUDY_UID, "string", "Study Instance UID of the images."),
    (codes.SERIES_UID, "string", "Series Instance UID of the images."),
    (codes.IMAGES, "Reference", "ImagingStudy or ServiceRequest that says which images are meant."),
    (codes.MODEL, "string", "Model by name; without it the site's."),
    (codes.SAMPLES, "integer", "Volumes of each series, 1 to 1000; without it as the site says."),
    (_REQUEST_ID, "string", "Name of the call at the caller: a repeated call with the same name asks for nothing twice."),
)


def order_of_parameters(
    body: object, *, sender: str, now: datetime, fresh: str, focus: str = "", subject: str = ""
) -> tuple[Order, str]:
    """Return what a call of the operation asks for, and the id of the Task that stands for it.

    Parameters
    ----------
    body : object
        Parsed Parameters resource, or None where the call had no body.
    sender : str
        Who calls.
    fresh : str
        Name of a call that gives itself none.
    focus, subject : str
        ``ImagingStudy/x`` or ``Patient/y`` on which the operation was called.

    Raises
    ------
    RequestInvalid
        If it is no Parameters resource, or a parameter is unknown, repeated, malformed or cannot be kept.

    References
    ----------
    FHIR R4 operations.html, Parameters.
    """
    try:
        parameters = _parameters(body)
        name = required_text({"value": _single(parameters, _REQUEST_ID) or fresh}, "value")
        task_id = derive_fhir_id(name, "generate", sender)
        order = Order(OrderOrigin.OPERATION, sender, f"Task/{task_id}", "$generate", now, focus=focus, names_us=True)
        order = replace(order, subject_reference=subject)
        for one, _, _ in _SINGLE[:-1]:
            value = _single(parameters, one)
            if value is not None:
                order = with_parameter(order, one, value)
        asked = tuple(_asked(item) for item in parameters if item.get("name") == _ASK)
    except ValueError as error:
        raise RequestInvalid(
            found=f"Parameters of $generate in which {error}",
            allowed=f"one each of {', '.join(name for name, _, _ in _SINGLE)}; any number of {_ASK}",
            action="correct the call; nothing was asked for",
        ) from error
    order = replace(order, asked=asked)
    require_storable(order)
    return order, task_id


def operation_definition() -> Json:
    """Return the OperationDefinition of ``$generate``.

    References
    ----------
    FHIR R4 OperationDefinition.
    """
    single = [
        {"name": name, "use": "in", "min": 0, "max": "1", "type": kind, "documentation": words} for name, kind, words in _SINGLE
    ]
    asked = {
        "name": _ASK,
        "use": "in",
        "min": 0,
        "max": "*",
        "documentation": "A number that the volumes have to obey.",
        "part": [
            {"name": "concept", "use": "in", "min": 1, "max": "1", "type": "code"},
            {"name": "value", "use": "in", "min": 1, "max": "1", "type": "Quantity"},
        ],
    }
    answer = {"name": "task", "use": "out", "min": 1, "max": "1", "type": "Reference", "documentation": "Where it stands."}
    return {
        "resourceType": "OperationDefinition",
        "id": NAME,
        "url": CANONICAL,
        "name": "Generate",
        "title": "Generate synthetic volumes from a patient's images and record",
        "status": "active",
        "kind": "operation",
        "code": NAME,
        "affectsState": True,
        "resource": ["ImagingStudy", "Patient"],
        "system": True,
        "type": False,
        "instance": True,
        "parameter": [*single, asked, answer],
    }


def answer_parameters(task_id: str) -> Json:
    """Return the answer to a call: a reference to its Task."""
    return {
        "resourceType": "Parameters",
        "parameter": [{"name": "task", "valueReference": {"reference": f"Task/{task_id}"}}],
    }


def _parameters(body: object) -> list[Mapping[str, Any]]:
    if body is None:
        return []
    if not isinstance(body, Mapping) or body.get("resourceType") != "Parameters":
        raise ValueError("the body is no Parameters resource")
    known = {name for name, _, _ in _SINGLE} | {_ASK}
    parameters = objects(body, "parameter")
    for item in parameters:
        if required_text(item, "name") not in known:
            raise ValueError(f"a parameter {str(item['name'])[:64]!r} stands that we do not know")
    return parameters


def _single(parameters: list[Mapping[str, Any]], name: str) -> Any:
    found = [_value(item) for item in parameters if item.get("name") == name]
    if len(found) > 1:
        raise ValueError(f"{name} stands twice")
    return found[0] if found else None


def _asked(item: Mapping[str, Any]) -> Any:
    parts = {optional_text(part, "name"): part for part in objects(item, "part")}
    if set(parts) != {"concept", "value"}:
        raise ValueError("ask does not have the parts concept and value")
    return asked_value(
        required_text({"concept": _value(parts["concept"])}, "concept"), optional_object(parts["value"], "valueQuantity")
    )


def _value(item: Mapping[str, Any]) -> Any:
    values = [item[name] for name in item if name.startswith("value")]
    if len(values) != 1:
        raise ValueError(f"{str(item.get('name'))[:64]!r} has no value, or several")
    return values[0]
