"""What the web framework itself refuses (no such path, another method, a body of another shape), in the form of each face."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

# FHIR R4 issue-type, by HTTP status; anything else is "processing".
_ISSUES = {401: "login", 403: "forbidden", 404: "not-found", 405: "not-supported", 422: "structure"}
_ALLOWED = {
    401: ("a bearer token that this site knows", "send Authorization: Bearer"),
    403: ("a token that covers the call", "ask for another scope"),
    404: ("a path that this service has", "correct the URL"),
    405: ("the methods of the Allow header", "use another method"),
    422: ("a body and parameters of the documented shape", "correct the call"),
}


def refusal(error: HTTPException | RequestValidationError) -> tuple[int, str, str, str]:
    """Return status, what was found, what is allowed and what to do next; values that were sent are not repeated."""
    if isinstance(error, RequestValidationError):
        places = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()]
        return 422, "; ".join(places[:5]), *_ALLOWED[422]
    status = error.status_code
    allowed, action = _ALLOWED.get(status, ("a call that this service answers", "correct the call"))
    return status, HTTPStatus(status).phrase.lower(), allowed, action


def as_outcome(status: int, found: str, allowed: str, action: str) -> dict[str, Any]:
    """Return a refusal as OperationOutcome."""
    issue = {
        "severity": "error",
        "code": _ISSUES.get(status, "processing"),
        "details": {"text": f"found {found}"},
        "diagnostics": f"allowed: {allowed}; next: {action}",
    }
    return {"resourceType": "OperationOutcome", "issue": [issue]}


def as_problem(status: int, found: str, allowed: str, action: str) -> dict[str, Any]:
    """Return a refusal as problem details (RFC 9457)."""
    title = HTTPStatus(status).phrase
    return {"type": "about:blank", "title": title, "status": status, "detail": found, "allowed": allowed, "next": action}
