"""Builds the HTTP application of a site. Handlers are plain functions: FastAPI runs them in threads."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse

from domain.errors import VeraiconError
from fhir_adapter.outcomes import to_outcome
from veraicon.api import fhir, health, hooks, jobs, log, models, operations, series
from veraicon.api.dicomweb import qido, rendered, stow, wado
from veraicon.api.dicomweb.answers import DICOMWEB, status_of
from veraicon.api.security import bearer_check
from veraicon.marking import picture_signer
from veraicon.subscriptions.keeping import HOOKS, hook_token
from veraicon.wiring import Site

FHIR_JSON = "application/fhir+json"


def create_app(site: Site, *, hearing: hooks.Hearing | None = None) -> FastAPI:
    """Return the application; every route but health, public keys and log asks for the bearer token where one is configured.

    Parameters
    ----------
    hearing : Hearing or None
        Who takes notifications of the FHIR server; None: nobody, and there are no hooks.

    Raises
    ------
    ConfigurationError
        If the site's certificate for C2PA manifests cannot be used.
    """
    app = FastAPI(title="Veraicon", version=version("veraicon"), docs_url=None, redoc_url=None)
    guarded = [Depends(bearer_check(site.settings.http.token.get_secret_value()))]
    app.include_router(health.router(site))
    app.include_router(log.router(site), prefix="/log")
    app.include_router(jobs.router(site), dependencies=guarded)
    app.include_router(series.router(site), dependencies=guarded)
    app.include_router(models.router(site), dependencies=guarded)
    app.include_router(operations.router(site), prefix="/fhir", dependencies=guarded)
    app.include_router(fhir.router(site), prefix="/fhir", dependencies=guarded)
    pictures = rendered.router(site, picture_signer(site.settings.provenance))
    for routes in (qido.router(site), wado.router(site), pictures, stow.router(site)):
        app.include_router(routes, prefix=DICOMWEB, dependencies=guarded)
    if hearing is not None:
        app.include_router(hooks.router(hearing, hook_token(site.settings.storage.folder)), prefix=HOOKS)
    app.add_exception_handler(VeraiconError, _answer_error)
    return app


def _answer_error(request: Request, error: Exception) -> JSONResponse:
    """Answer each error of ours in the form of the face that was called: OperationOutcome, or RFC 9457 problem details."""
    if not isinstance(error, VeraiconError):
        raise error
    if request.url.path.startswith("/fhir"):
        return JSONResponse(to_outcome(error), status_code=error.http_status, media_type=FHIR_JSON)
    status = status_of(error) if request.url.path.startswith(DICOMWEB) else error.http_status
    return JSONResponse({**problem(error), "status": status}, status_code=status, media_type="application/problem+json")


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
