"""OperationOutcome <-> domain error: one table, both ways.

An error renders its own words, which never hold patient data. In the other direction only codes are read: `diagnostics` and
`details.text` of another server may repeat a name or an identifier.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from domain.errors import PeerRefused, VeraiconError
from fhir_adapter.codes import ERROR_SYSTEM, ISSUE_TYPES

_SEVERITIES = frozenset({"fatal", "error", "warning", "information"})


def to_outcome(error: VeraiconError) -> dict[str, Any]:
    """Return the OperationOutcome (R4) of an error.

    References
    ----------
    FHIR R4 OperationOutcome: ``issue.code`` from issue-type (required binding), ``details`` with our own stable code.
    """
    return {
        "resourceType": "OperationOutcome",
        "issue": [
            {
                "severity": "error",
                "code": error.issue_type,
                "details": {
                    "coding": [{"system": ERROR_SYSTEM, "code": error.code, "display": type(error).__name__}],
                    "text": f"found {error.found}",
                },
                "diagnostics": f"allowed: {error.allowed}; next: {error.action}",
            }
        ],
    }


def http_status(error: VeraiconError) -> int:
    """Return the status of an HTTP response that carries the error."""
    return error.http_status


def from_outcome(outcome: Mapping[str, Any], *, status: int, action: str) -> VeraiconError:
    """Return the domain error for another server's OperationOutcome.

    Parameters
    ----------
    outcome : mapping
        The resource; anything else in it than codes is ignored.
    status : int
        Status of the HTTP response.
    action : str
        What to do next.

    Returns
    -------
    VeraiconError
        The class that carries the code where the outcome is one of ours, else `PeerRefused`.
    """
    found = f"HTTP status {status} with {issue_words(outcome)}"
    known = {kind.code: kind for kind in error_classes()}
    for issue in _issues(outcome):
        for coding in _codings(issue):
            if coding.get("system") == ERROR_SYSTEM and coding.get("code") in known:
                return known[str(coding["code"])](found, allowed="what that server accepts", action=action)
    return PeerRefused(found, allowed="a request that the server accepts (2xx)", action=action)


def issue_words(outcome: Mapping[str, Any]) -> str:
    """Return severity and code of each issue, at most five, and no free text.

    Examples
    --------
    >>> issue_words({"issue": [{"severity": "error", "code": "not-found", "diagnostics": "no John Doe"}]})
    'issue error/not-found'
    """
    words = [_issue_word(issue) for issue in _issues(outcome)]
    return "issue " + ", ".join(words[:5]) if words else "no issue"


def error_classes(base: type[VeraiconError] = VeraiconError) -> Iterator[type[VeraiconError]]:
    """Yield each class of the error tree, `base` first."""
    yield base
    for kind in base.__subclasses__():
        yield from error_classes(kind)


def _issue_word(issue: Mapping[str, Any]) -> str:
    # A code outside the value set may be anything, a name included: it is not repeated.
    severity = issue.get("severity") if issue.get("severity") in _SEVERITIES else "unknown"
    code = issue.get("code") if issue.get("code") in ISSUE_TYPES else "unknown"
    return f"{severity}/{code}"


def _issues(outcome: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    issues = outcome.get("issue")
    return [issue for issue in issues if isinstance(issue, Mapping)] if isinstance(issues, list) else []


def _codings(issue: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    details = issue.get("details")
    codings = details.get("coding") if isinstance(details, Mapping) else None
    return [coding for coding in codings if isinstance(coding, Mapping)] if isinstance(codings, list) else []
