"""How a site reaches its FHIR server: address, token, certificates."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from domain.errors import ConfigurationError
from fhir_adapter.local.store import LocalFhirStore
from fhir_adapter.server.client import ClientLimits, FhirClient
from fhir_adapter.server.client_keys import ClientKey
from fhir_adapter.server.smart import BackendServices
from fhir_adapter.store import FhirStore
from veraicon.sections import FhirSettings
from veraicon.settings import Settings


def fhir_store_of(settings: Settings, engine: sa.Engine) -> FhirStore:
    """Return the FHIR server of a site, or its own store where none is configured.

    Raises
    ------
    ConfigurationError
        If the server's address, the client key or a certificate cannot be used.
    """
    if not settings.fhir.base_url:
        return LocalFhirStore(engine)
    return FhirClient(
        settings.fhir.base_url,
        bearer_token=backend_services(settings.fhir) or settings.fhir.token.get_secret_value() or None,
        limits=ClientLimits(read_timeout_s=settings.fhir.timeout_s),
        verify=fhir_context(settings.fhir),
    )


def backend_services(fhir: FhirSettings) -> BackendServices | None:
    """Return how the site gets tokens for its FHIR server, or None where it has a fixed one or none.

    Raises
    ------
    ConfigurationError
        If the client key, or the certificates, cannot be used.
    """
    if not fhir.client_id:
        return None
    return BackendServices(
        fhir.base_url,
        client_id=fhir.client_id,
        key=ClientKey.load(Path(fhir.client_key_file), fhir.client_key_id),
        scopes=fhir.scopes,
        token_endpoint=fhir.token_endpoint,
        verify=fhir_context(fhir),
        timeout_s=fhir.timeout_s,
    )


def fhir_context(fhir: FhirSettings) -> ssl.SSLContext:
    """Return how the FHIR server's certificate is checked, and by which certificate we show who we are.

    Raises
    ------
    ConfigurationError
        If a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=fhir.ca or None)
        if fhir.client_certificate:
            context.load_cert_chain(fhir.client_certificate, fhir.client_certificate_key)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            found=f"certificates for the FHIR server that cannot be used ({type(error).__name__})",
            allowed="PEM files: authorities in ca, our certificate and its key, not encrypted",
            action="correct [fhir] ca, client_certificate and client_certificate_key",
        ) from error
    return context


def fhir_token(settings: Settings) -> Callable[[], str | None]:
    """Return what gives the token for the FHIR server, asked before each request."""
    return backend_services(settings.fhir) or (lambda: settings.fhir.token.get_secret_value() or None)
