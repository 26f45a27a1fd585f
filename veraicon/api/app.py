"""Builds the HTTP application of a site. Handlers are plain functions: FastAPI runs them in threads."""

from __future__ import annotations

from importlib.metadata import version

import structlog
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from domain.errors import DatabaseUnavailable, VeraiconError
from fhir_adapter.outcomes import to_outcome
from veraicon.api import fhir, health, hooks, jobs, log, metadata, models, operations, orders, series, webhooks
from veraicon.api.dicomweb import qido, rendered, stow, wado
from veraicon.api.dicomweb.answers import DICOMWEB, status_of
from veraicon.api.refusals import as_outcome, as_problem, refusal
from veraicon.api.security import challenge, gate
from veraicon.failures import as_ours
from veraicon.marking import picture_signer
from veraicon.subscriptions.keeping import HOOKS, hook_token
from veraicon.wiring import Site

log_to = structlog.get_logger()

FHIR_JSON = "application/fhir+json"
_RETRY_AFTER_S = 5


def create_app(site: Site, *, hearing: hooks.Hearing | None = None) -> FastAPI:
    """Return the application; each route asks for the bearer token where one is configured.

    Open to all are health, public keys, log and /fhir/metadata; /hooks/fhir has a token of its own, /hooks/webhook a signature.

    Parameters
    ----------
    hearing : Hearing or None
        Who takes notifications of the FHIR server; None: nobody, and there are no hooks.

    Raises
    ------
    ConfigurationError
        If the site's certificate for C2PA manifests cannot be used.
    """
    app = FastAPI(title="Veraicon", version=version("veraicon"), openapi_url=None, docs_url=None, redoc_url=None)
    guarded = [Depends(gate(site.settings.http))]
    app.include_router(health.router(site))
    app.include_router(log.router(site), prefix="/log")
    app.include_router(jobs.router(site), dependencies=guarded)
    app.include_router(series.router(site), dependencies=guarded)
    app.include_router(models.router(site), dependencies=guarded)
    app.include_router(orders.router(site), dependencies=guarded)
    app.include_router(metadata.router(site), prefix="/fhir")
    app.include_router(operations.router(site), prefix="/fhir", dependencies=guarded)
    app.include_router(fhir.router(site), prefix="/fhir", dependencies=guarded)
    pictures = rendered.router(site, picture_signer(site.settings.provenance))
    for routes in (qido.router(site), wado.router(site), pictures, stow.router(site)):
        app.include_router(routes, prefix=DICOMWEB, dependencies=guarded)
    if hearing is not None:
        app.include_router(hooks.router(hearing, hook_token(site.settings.storage.folder)), prefix=HOOKS)
    app.include_router(webhooks.router(site), prefix=webhooks.HOOKS)
    app.add_exception_handler(VeraiconError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_refusal)
    app.add_exception_handler(RequestValidationError, _answer_refusal)
    app.add_exception_handler(OperationalError, _answer_database)
    app.add_exception_handler(Exception, _answer_fault)
    return app


def _answer_refusal(request: Request, error: Exception) -> JSONResponse:
    """Answer what the framework refuses in the form of the face that was called."""
    if not isinstance(error, HTTPException | RequestValidationError):
        raise error
    told = refusal(error)
    headers = dict(getattr(error, "headers", None) or {})
    if request.url.path.startswith(("/fhir", HOOKS)):
        return JSONResponse(as_outcome(*told), status_code=told[0], media_type=FHIR_JSON, headers=headers)
    return JSONResponse(as_problem(*told), status_code=told[0], media_type="application/problem+json", headers=headers)


def _answer_error(request: Request, error: Exception) -> JSONResponse:
    """Answer each error of ours in the form of the face that was called: OperationOutcome, or RFC 9457 problem details."""
    if not isinstance(error, VeraiconError):
        raise error
    headers = challenge(error, shown="Authorization" in request.headers)
    if request.url.path.startswith(("/fhir", HOOKS)):
        return JSONResponse(to_outcome(error), status_code=error.http_status, media_type=FHIR_JSON, headers=headers)
    # A refusal of the caller has one status on every face; DICOMweb has others of its own.
    status = status_of(error) if request.url.path.startswith(DICOMWEB) and not headers else error.http_status
    body = {**problem(error), "status": status}
    return JSONResponse(body, status_code=status, media_type="application/problem+json", headers=headers)


def _answer_database(request: Request, error: Exception) -> JSONResponse:
    """Answer that the site's own database cannot be used now; its own message may hold what was sent, so it is not told."""
    log_to.error("database unavailable", code=DatabaseUnavailable.code, error=type(error).__name__)
    answer = _answer_error(
        request,
        DatabaseUnavailable(
            found="the site's own database locked or not there",
            allowed="a database that can be read and written",
            action="send it again in a while; nothing of it was kept",
        ),
    )
    answer.headers["Retry-After"] = str(_RETRY_AFTER_S)
    return answer


def _answer_fault(request: Request, error: Exception) -> JSONResponse:
    """Answer a fault of ours by its place, in the form of the face that was called."""
    return _answer_error(request, as_ours(error))


def problem(error: VeraiconError) -> dict[str, object]:
    """Return an error as problem details (RFC 9457)."""
    return {
        "type": f"urn:veraicon:error:{error.code}",
        "title": type(error).__name__,
        "status": error.http_status,
        "detail": f"found {error.found}",
        "allowed": error.allowed,
        "next": error.action,
        "retry": error.retry.value,
    }
