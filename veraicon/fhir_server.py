"""What `veraicon doctor` looks at on the FHIR server: version, access, and scopes for what the site is set up to do."""

from __future__ import annotations

from domain.errors import ConfigurationError, PeerAnswerInvalid
from fhir_adapter.server.client import FhirClient
from fhir_adapter.server.scopes import missing_scopes
from veraicon.fhir_access import backend_services
from veraicon.sections import FhirSettings
from veraicon.settings import Settings

_READ = ("system/Patient.rs", "system/Condition.s", "system/Observation.s", "system/Consent.s")
_WRITTEN = ("system/Device.u", "system/DocumentReference.u", "system/ImagingStudy.u", "system/Patient.u", "system/Provenance.u")
_VERSIONS = {"5": "R5", "4.3": "R4B", "3": "STU3", "1": "DSTU2"}


def look_at_fhir_server(client: FhirClient, settings: FhirSettings) -> str:
    """Ask for the CapabilityStatement and for one Patient.

    Raises
    ------
    PeerAnswerInvalid
        If the server speaks another version of FHIR than R4.
    PeerUnreachable, PeerRefused
        See `domain.errors`.
    """
    stated = client.capabilities()
    version = str(stated.get("fhirVersion", ""))[:16]
    if stated.get("resourceType") != "CapabilityStatement" or not version.startswith("4.0."):
        name = next((name for start, name in _VERSIONS.items() if version.startswith(start)), "none that we know")
        raise PeerAnswerInvalid(
            found=f"FHIR version {version or 'none'} ({name}) in the server's CapabilityStatement",
            allowed="4.0.x (R4)",
            action="set [fhir] base_url to the R4 endpoint of the server",
        )
    next(iter(client.search("Patient", {"_count": "1"})), None)
    return f"{settings.base_url} answers, FHIR {version}"


def look_at_scopes(settings: Settings) -> str:
    """Get a token and compare its scopes with what the site reads and writes.

    Raises
    ------
    ConfigurationError
        Naming the scopes that lack.
    PeerUnreachable, PeerRefused, PeerAnswerInvalid
        If no token is to be had.
    """
    services = backend_services(settings.fhir)
    if services is None:
        return "a fixed one, or none"
    try:
        granted = services.granted()
    finally:
        services.close()
    lacking = missing_scopes(granted.scopes, needed_scopes(settings))
    if lacking:
        raise ConfigurationError(
            found=f"a token without {' '.join(lacking)}",
            allowed="scopes for what this site reads and writes",
            action="let the authorization server grant them to [fhir] client_id, and ask for them in [fhir] scopes",
        )
    return f"granted, {len(granted.scopes)} scopes, enough for what is configured"


def needed_scopes(settings: Settings) -> tuple[str, ...]:
    """Return the scopes that a site with these settings needs on its FHIR server."""
    watched = [text.partition("?")[0] for text in settings.subscriptions.criteria]
    needed = [*_READ, *_WRITTEN, *(f"system/{kind}.rs" for kind in watched)]
    if "Task" in watched or "ServiceRequest" in watched:
        needed.append("system/Task.u")
    if settings.subscriptions.way != "poll":
        needed.append("system/Subscription.cus")
    if settings.publication.wado_url:
        needed.append("system/Endpoint.u")
    return tuple(dict.fromkeys(needed))
