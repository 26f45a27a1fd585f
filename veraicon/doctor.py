"""`veraicon doctor`: is this installation able to work, and if not, what is wrong."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import packages_distributions
from pathlib import Path

import sqlalchemy as sa

from dicom_node.association.tls import days_left
from dicom_node.holding.files import require_room
from dicom_node.scu import Peer, echo
from dicom_node.web.peer import WebPeer, probe
from domain.errors import ConfigurationError, VeraiconError, WeightsRejected
from fhir_adapter.server.client import FhirClient
from generators.cards import WEIGHTS_NAME, bundle_folder, read_card
from provenance.signing import key_id_of
from veraicon.fhir_server import look_at_fhir_server, look_at_scopes
from veraicon.marking import content_credentials, dicom_signer
from veraicon.orders.hl7v2 import hl7v2_peer
from veraicon.ports import is_serving, look_at_node, look_at_port
from veraicon.sections import NodeSettings, StorageSettings
from veraicon.sections_hl7v2 import Hl7v2DestinationSettings, Hl7v2Settings
from veraicon.settings import Settings
from veraicon.subscriptions.examining import examine_watch
from veraicon.transparency.evidence import attestations
from veraicon.wiring import Site, listener_context, open_site, peer_of, web_peer_of

# The doctor says so when a certificate has fewer days left.
_RENEW_DAYS = 30

PACKAGES = ("domain", "fhir_adapter", "dicom_node", "multimodal", "generators", "provenance", "quality", "veraicon")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


def examine(settings: Settings) -> list[Check]:
    """Look at everything that the site needs, the rest also where one thing is wrong."""
    checks = [_run("packages", _packages)]
    checks.append(_run("weights", lambda: _weights(settings)))
    try:
        with open_site(settings) as site:
            checks.append(Check("database", True, f"{site.engine.dialect.name}, migrated"))
            checks.extend(_look_at(site))
    except VeraiconError as error:
        checks.append(Check("site", False, str(error)))
    return checks


def require_single_owner() -> None:
    """Stop where another installed distribution brings a package of one of our names: it would overwrite ours silently.

    Raises
    ------
    ConfigurationError
        Naming the package and the distributions.
    """
    owners = packages_distributions()
    for package in PACKAGES:
        names = sorted(set(owners.get(package, [])))
        if len(names) > 1:
            raise ConfigurationError(
                found=f"package {package} of the distributions {', '.join(names)}",
                allowed="veraicon alone, in an environment of its own",
                action="make a fresh virtual environment and install veraicon there",
            )


def _look_at(site: Site) -> Iterator[Check]:
    yield from _ports(site.settings)
    yield _run("signing key", lambda: _signing_key(site))
    yield _run("attestation keys", lambda: _attestation_keys(site))
    yield _run("transparency log", lambda: _log_end(site))
    yield _run("FHIR", lambda: _fhir(site))
    if site.settings.fhir.client_id:
        yield _run("FHIR token", lambda: look_at_scopes(site.settings))
    for criteria in site.settings.subscriptions.criteria:
        yield _run(f"subscription {criteria}", partial(examine_watch, site, criteria))
    if site.settings.node.tls_certificate:
        yield _run("DICOM certificate", lambda: _certificate(site.settings.node))
    marks = site.settings.provenance
    if marks.dicom_signature_certificate:
        yield _run("DICOM signature certificate", lambda: _signer(dicom_signer(marks), marks.dicom_signature_certificate))
    if marks.c2pa_certificate:
        yield _run("C2PA certificate", lambda: _signer(content_credentials(marks), marks.c2pa_certificate))
    for destination in site.settings.destinations:
        peer = peer_of(destination, site.settings.node)
        yield _run(f"destination {destination.name}", partial(_echo, peer))
    for source in site.settings.sources:
        if source.port:
            yield _run(f"source {source.name}", partial(_echo, peer_of(source, site.settings.node)))
    for web in site.settings.dicomweb:
        yield _run(f"DICOMweb {web.name}", partial(_probe, web_peer_of(web)))
    for engine in site.settings.hl7v2_destinations:
        yield _run(f"HL7 v2 destination {engine.name}", partial(_connect, engine, site.settings.hl7v2))
    yield _run("storage", lambda: _room(site.settings.storage))


def _ports(settings: Settings) -> Iterator[Check]:
    serving, node = is_serving(settings), settings.node
    if node.port:
        yield _run("DICOM port", partial(look_at_node, node, serving=serving))
    if node.tls_port:
        yield _run("DICOM port with TLS", partial(look_at_port, node.host, node.tls_port, serving=serving))
    hl7v2 = settings.hl7v2
    for name, port in (("HL7 v2 port", hl7v2.port), ("HL7 v2 port with TLS", hl7v2.tls_port)):
        if port:
            yield _run(name, partial(look_at_port, hl7v2.host, port, serving=serving))
    yield _run("HTTP port", partial(look_at_port, settings.http.host, settings.http.port, serving=serving))


def _packages() -> str:
    require_single_owner()
    return "each of ours has one owner"


def _signing_key(site: Site) -> str:
    key = site.keys.load()  # again: its file may have been opened to others since the start
    if site.keys.is_retired(key.kid):
        raise ConfigurationError(
            found=f"a signing key that was retired (key id {key.kid})",
            allowed="a key that has not stopped",
            action="give every process of the site the new key, as `veraicon keys rotate` said, and restart it",
        )
    kept = "from the environment" if site.keys.file is None else "in a file for its owner"
    return f"ES384, key id {key.kid}, {kept}; {len(site.keys.retired_keys())} retired"


def _attestation_keys(site: Site) -> str:
    known = {key["kid"] for key in site.keyring.public_jwks()["keys"]}
    used = [key_id_of(attestation.jws) for _, attestation in attestations(site.settings.storage.folder / "jobs")]
    unknown = sorted(set(used) - known)
    if unknown:
        raise ConfigurationError(
            found=f"attestations by keys of which nothing is known here: {', '.join(unknown)}",
            allowed="the key that signs and those below keys/retired",
            action="restore keys/retired from a copy: without these public keys nobody can verify what they signed",
        )
    return f"those of {len(used)} attestations are known"


def _log_end(site: Site) -> str:
    head = site.log.require_sound_end()
    return f"{head.size} entries, the last tree head is signed and has their root"


def _connect(remote: Hl7v2DestinationSettings, ours: Hl7v2Settings) -> str:
    hl7v2_peer(remote, ours).probe()
    return "takes connections"


def _echo(peer: Peer) -> str:
    echo(peer)
    return "answers C-ECHO"


def _probe(peer: WebPeer) -> str:
    probe(peer)
    return "answers QIDO-RS"


def _certificate(node: NodeSettings) -> str:
    listener_context(node)
    days = days_left(Path(node.tls_certificate), now=datetime.now(UTC))
    if days < 0:
        raise ConfigurationError(
            found=f"a certificate of the DICOM node that expired {-days} days ago",
            allowed="a valid one: peers refuse TLS until then",
            action="renew tls_certificate, then restart the node",
        )
    return f"key belongs to it, {days} days left" + (": renew it soon" if days < _RENEW_DAYS else "")


def _signer(_loaded: object, certificate: str) -> str:
    """Say how long a certificate for signatures lasts; that it was loaded shows that its key belongs to it."""
    days = days_left(Path(certificate), now=datetime.now(UTC))
    return f"key belongs to it, {days} days left" + (": renew it soon" if days < _RENEW_DAYS else "")


def _weights(settings: Settings) -> str:
    folder = bundle_folder(settings.generation.model)
    card = read_card(folder)
    with (folder / WEIGHTS_NAME).open("rb") as stream:
        digest = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
    if digest != card.weights_digest:
        raise WeightsRejected(
            found=f"weights of {card.name} whose digest is not the one on the card",
            allowed=card.weights_digest,
            action="install the bundle again",
        )
    return f"{card.name} {card.version}, digest as on the card, licence {card.licence}"


def _fhir(site: Site) -> str:
    if isinstance(site.fhir, FhirClient):
        return look_at_fhir_server(site.fhir, site.settings.fhir)
    with site.engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
    return "our own store"


def _room(storage: StorageSettings) -> str:
    require_room(storage.folder, 0, min_free_bytes=storage.min_free_mib * 2**20)
    return f"{shutil.disk_usage(storage.folder).free >> 30} GiB free, C-STORE is refused below {storage.min_free_mib} MiB"


def _run(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except VeraiconError as error:
        return Check(name, False, str(error))
