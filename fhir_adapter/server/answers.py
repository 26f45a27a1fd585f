"""What a FHIR server may answer, and the errors for everything else. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from domain.errors import PeerAnswerInvalid, PeerError, PeerRefused
from fhir_adapter.json_text import parse_json
from fhir_adapter.outcomes import from_outcome, issue_words
from fhir_adapter.search import entries

_LOCATION = re.compile(r"(?:.*/)?([A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?")
_PUT_URL = re.compile(r"[A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64}")

_ALLOWED = "a request that our scopes cover"
_ACTIONS = {
    401: "configure a valid token for the FHIR server",
    403: "grant our client the scope that this request needs on the FHIR server",
    404: "check the reference and that the FHIR server still holds the resource",
    410: "the FHIR server deleted the resource: choose another",
    409: "retry the job: somebody else wrote at the same moment",
    412: "retry the job: the FHIR server holds another version, or several matches",
}


def require_success(status: int, content: bytes) -> Mapping[str, Any]:
    """Return the parsed resource of a 2xx answer.

    Raises
    ------
    PeerRefused
        If the status is 4xx or 5xx; only codes of an OperationOutcome are repeated, never its text.
    PeerAnswerInvalid
        If the answer is a redirect, or a 2xx that holds no JSON resource.
    """
    if status >= 400:
        raise _refused(status, content)
    if not 200 <= status < 300:
        raise invalid(f"HTTP status {status}", "2xx, or 4xx and 5xx with an OperationOutcome")
    resource = _resource(content)
    if resource is None:
        raise invalid(f"{_kind(content)} with HTTP status {status}", "a FHIR resource as JSON")
    return resource


def require_allowed(status: int, content: bytes, scopes: Sequence[str]) -> None:
    """Stop where the server did not allow a request (403).

    Raises
    ------
    PeerRefused
        Naming the SMART scopes that the request needs.
    """
    if status == HTTPStatus.FORBIDDEN:
        refusal = _refused(status, content)
        raise PeerRefused(refusal.found, allowed=_ALLOWED, action=_grant(scopes)) from refusal


def _grant(scopes: Sequence[str]) -> str:
    if not scopes:
        return _ACTIONS[403]
    return f"grant our client {' '.join(scopes)} on the FHIR server, and ask for it in [fhir] scopes; then retry the job"


def require_bundle(resource: Mapping[str, Any], bundle_type: str) -> Mapping[str, Any]:
    """Return `resource` if it is a Bundle of the given type.

    Raises
    ------
    PeerAnswerInvalid
        If it is something else.
    """
    if resource.get("resourceType") != "Bundle" or resource.get("type") != bundle_type:
        name = str(resource.get("resourceType", "nothing"))[:64]
        words = issue_words(resource) if name == "OperationOutcome" else f"type {str(resource.get('type', 'none'))[:32]}"
        raise invalid(f"{name} ({words})", f"a Bundle of type {bundle_type}")
    return resource


def batch_answer(entry: Mapping[str, Any], *, scope: str) -> Mapping[str, Any]:
    """Return the searchset of one entry of a batch-response; `scope` is the SMART scope that its search needs.

    Raises
    ------
    PeerRefused, PeerAnswerInvalid
        If this search failed: a batch of which a part failed is no snapshot.
    """
    status = _entry_status(entry)
    response = entry["response"]
    resource = entry.get("resource")
    if status >= 400:
        outcome = response.get("outcome") or resource or {}
        refusal = refused_by_outcome(status, outcome if isinstance(outcome, Mapping) else {})
        if status == HTTPStatus.FORBIDDEN:
            raise PeerRefused(refusal.found, allowed=_ALLOWED, action=_grant([scope]))
        raise refusal
    if not isinstance(resource, Mapping):
        raise invalid("an entry of a batch-response without a resource", "a searchset for each search")
    return require_bundle(resource, "searchset")


def written_references(bundle: Mapping[str, Any], answer: Mapping[str, Any]) -> list[str]:
    """Return ``Type/id`` of each entry of a transaction-response.

    Raises
    ------
    PeerAnswerInvalid
        If an entry is missing, failed, or does not say where it was written.
    """
    asked, answered = entries(bundle), entries(answer)
    if len(asked) != len(answered):
        raise invalid(f"{len(answered)} answers to a transaction of {len(asked)} entries", "one answer for each entry")
    return [_written(ours, theirs) for ours, theirs in zip(asked, answered, strict=True)]


def refused_by_outcome(status: int, outcome: Mapping[str, Any]) -> PeerError:
    """Return the error for a refusal; a peer's own refusal stays a `PeerError` whatever code it claims."""
    action = _ACTIONS.get(status, "look at the FHIR server's log for the cause, then retry the job")
    error = from_outcome(outcome, status=status, action=action)
    return error if isinstance(error, PeerError) else PeerRefused(error.found, allowed=error.allowed, action=error.action)


def invalid(found: str, allowed: str) -> PeerAnswerInvalid:
    """Return the error for an answer that FHIR does not allow."""
    return PeerAnswerInvalid(
        found=f"{found} from the FHIR server",
        allowed=allowed,
        action="check that the base URL names a FHIR R4 server, then retry the job",
    )


def _refused(status: int, content: bytes) -> PeerError:
    resource = _resource(content)
    if resource is not None and resource.get("resourceType") == "OperationOutcome":
        return refused_by_outcome(status, resource)
    error = refused_by_outcome(status, {})
    found = f"HTTP status {status} with {_kind(content)}"
    return PeerRefused(found, allowed="2xx, or an OperationOutcome that says why not", action=error.action)


def _resource(content: bytes) -> Mapping[str, Any] | None:
    try:
        value = parse_json(content)
    except ValueError:
        return None
    return value if isinstance(value, Mapping) and isinstance(value.get("resourceType"), str) else None


def _kind(content: bytes) -> str:
    """Words for a body without repeating it."""
    head = content[:200].lstrip().lower()
    if not head:
        return "an empty body"
    if head.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    return "JSON that is no resource or is cut off" if head[:1] in b"{[" else "a body that is no JSON"


def _entry_status(entry: Mapping[str, Any]) -> int:
    response = entry.get("response")
    status = str(response.get("status", "")) if isinstance(response, Mapping) else ""
    if not re.match(r"[1-5]\d\d\b", status):
        raise invalid("an entry without a status", "response.status in each entry")
    return int(status[:3])


def _written(asked: Mapping[str, Any], answered: Mapping[str, Any]) -> str:
    status = _entry_status(answered)
    if not 200 <= status < 300:
        raise invalid(f"status {status} inside a transaction-response", "all entries written, or an error for the whole")
    location = answered["response"].get("location")
    matched = _LOCATION.fullmatch(location) if isinstance(location, str) else None
    if matched is not None:
        return matched[1]
    request = asked.get("request")
    url = request.get("url") if isinstance(request, Mapping) and request.get("method") == "PUT" else None
    if isinstance(url, str) and _PUT_URL.fullmatch(url):
        return url
    raise invalid("an entry that does not say where it was written", "response.location in each entry")
