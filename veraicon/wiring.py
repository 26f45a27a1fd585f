"""Builds the parts of a site from its settings, once."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from dicom_node.archive import Archive
from dicom_node.association.policy import SourcePolicy
from dicom_node.association.tls import ClientTls, server_context
from dicom_node.scu import Peer
from dicom_node.web.peer import WebPeer
from fhir_adapter.server.client import FhirClient
from fhir_adapter.store import FhirStore
from provenance.signatures.keyring import Keyring
from provenance.signing import SigningKey
from veraicon.artifacts import BYTES, ArtifactFolder
from veraicon.committing import committer_of
from veraicon.database import connect, migrate
from veraicon.destinations import ArchiveDestination, Destination, DicomWebDestination, PacsDestination
from veraicon.fhir_access import fhir_store_of
from veraicon.jobs import Jobs
from veraicon.orders.book import OrderBook
from veraicon.recall.outputs import Outputs
from veraicon.sections import (
    DestinationSettings,
    DicomWebSettings,
    NodeSettings,
    SourceSettings,
)
from veraicon.settings import Settings
from veraicon.site_keys import KeyStore, SiteKey, key_store, keyring_of
from veraicon.transparency.log import TransparencyLog


@dataclass(frozen=True)
class Site:
    """The parts that every process of a site shares; none of them loads torch."""

    settings: Settings
    engine: sa.Engine
    archive: Archive
    fhir: FhirStore
    jobs: Jobs
    key: SigningKey
    keys: KeyStore
    log: TransparencyLog

    @property
    def keyring(self) -> Keyring:
        """The key that signs and those before it, as they are now."""
        return keyring_of(self.keys, self.key)

    @property
    def salt(self) -> bytes:
        """The site's secret salt."""
        return _salt(self.settings.storage.folder)

    @property
    def outputs(self) -> Outputs:
        """What was made of which source, and where its copies went."""
        return Outputs(self.engine, self.salt)

    @property
    def orders(self) -> OrderBook:
        """What others have asked us for."""
        return OrderBook(self.engine)

    @property
    def destinations(self) -> tuple[Destination, ...]:
        """The configured PACS, or our own archive where none is."""
        ours = self.settings.node
        configured: tuple[Destination, ...] = tuple(
            PacsDestination(peer_of(peer, ours), committer_of(peer, peer_of(peer, ours), self.engine))
            for peer in self.settings.destinations
        )
        configured += tuple(DicomWebDestination(web_peer_of(peer)) for peer in self.settings.dicomweb if peer.publish)
        return configured or (ArchiveDestination(self.archive),)


def peer_of(remote: DestinationSettings | SourceSettings, node: NodeSettings) -> Peer:
    """Return a configured destination, or a source with a port, as our node calls it."""
    return Peer(
        name=remote.name,
        ae_title=remote.ae_title,
        host=remote.host,
        port=remote.port,
        calling_ae_title=node.ae_title,
        timeout_s=getattr(remote, "timeout_s", node.dimse_timeout_s),
        tls=_tls_of(remote, node) if remote.tls else None,
    )


def web_peer_of(remote: DicomWebSettings) -> WebPeer:
    """Return a configured DICOMweb service as we call it."""
    return WebPeer(
        name=remote.name,
        url=remote.url,
        token=remote.token.get_secret_value(),
        timeout_s=remote.timeout_s,
        qido_prefix=remote.qido_prefix.strip("/"),
        wado_prefix=remote.wado_prefix.strip("/"),
        stow_prefix=remote.stow_prefix.strip("/"),
    )


def _tls_of(remote: DestinationSettings | SourceSettings, node: NodeSettings) -> ClientTls:
    ca, certificate, key = (Path(name) if name else None for name in (remote.tls_ca, node.tls_certificate, node.tls_key))
    return ClientTls(ca, certificate, key, check_host=remote.tls_check_host)


def listener_context(node: NodeSettings) -> ssl.SSLContext:
    """Return how our node listens over TLS.

    Raises
    ------
    ConfigurationError
        If certificate, key or authorities cannot be used.
    """
    return server_context(
        certificate=Path(node.tls_certificate),
        key=Path(node.tls_key),
        client_ca=Path(node.tls_client_ca) if node.tls_client_ca else None,
    )


def policies_of(sources: Sequence[SourceSettings]) -> dict[str, SourcePolicy]:
    """Return what each calling AE title may do; several sources of one title may call from the hosts of all of them."""
    policies: dict[str, SourcePolicy] = {}
    for title in dict.fromkeys(source.ae_title for source in sources):
        named = [source for source in sources if source.ae_title == title]
        hosts = tuple(source.host for source in named)
        limits = [source.maximum_associations for source in named]
        policies[title] = SourcePolicy(
            hosts=hosts if all(hosts) else (),
            maximum_associations=max(limits) if all(limits) else None,
            tls_required=any(source.tls for source in named),
        )
    return policies


@contextmanager
def open_site(settings: Settings, *, log_of: Settings | None = None) -> Iterator[Site]:
    """Open database, archive, FHIR store, key and log of a site, and close them in the end.

    Parameters
    ----------
    settings : Settings
        The site.
    log_of : Settings or None
        A site whose key and transparency log this one uses; None: its own.

    Raises
    ------
    ConfigurationError
        If the database, the folder or the key cannot be used.
    """
    engine = connect(settings)
    migrate(engine)
    folder = settings.storage.folder
    fhir = fhir_store_of(settings, engine)
    jobs = Jobs(engine, folder / "jobs")
    archive = Archive(
        engine,
        folder / "archive",
        min_free_bytes=settings.storage.min_free_mib * 2**20,
        patient_id_system=settings.pairing.patient_id_system,
        issuer_systems=settings.pairing.issuers,
        default_timezone=ZoneInfo(settings.pairing.timezone),
        heeds=_titles(settings),
    )
    try:
        with open_log(log_of or settings, engine if log_of is None else None) as (keys, key, log):
            yield Site(settings, engine, archive, fhir, jobs, key, keys, log)
    finally:
        archive.close()
        jobs.close()
        if isinstance(fhir, FhirClient):
            fhir.close()
        engine.dispose()


@contextmanager
def open_log(settings: Settings, engine: sa.Engine | None = None) -> Iterator[tuple[KeyStore, SigningKey, TransparencyLog]]:
    """Open only the keys and the transparency log of a site; `engine` is its migrated database, where that is open already.

    Raises
    ------
    ConfigurationError
        If the database or the key cannot be used.
    """
    keys = key_store(settings)
    key = SiteKey(keys)
    with ExitStack() as stack:
        if engine is None:
            engine = connect(settings)
            stack.callback(engine.dispose)
            migrate(engine)
        yield keys, key, TransparencyLog(engine, key, lambda: keyring_of(keys, key).public_jwks())


@contextmanager
def open_outputs(settings: Settings) -> Iterator[Outputs]:
    """Open only the book of outputs and copies of a site, whose database is migrated."""
    engine = connect(settings)
    try:
        yield Outputs(engine, _salt(settings.storage.folder))
    finally:
        engine.dispose()


@contextmanager
def open_fhir(settings: Settings) -> Iterator[FhirStore]:
    """Open only the FHIR server or store of a site."""
    engine = connect(settings)
    fhir = fhir_store_of(settings, engine)
    try:
        yield fhir
    finally:
        if isinstance(fhir, FhirClient):
            fhir.close()
        engine.dispose()


def _titles(settings: Settings) -> frozenset[str]:
    """Return the AE titles of the peers that we know: their rejection notes are heeded."""
    return frozenset({peer.ae_title for peer in settings.sources} | {peer.ae_title for peer in settings.destinations})


def _salt(folder: Path) -> bytes:
    """Return the site's secret salt for snapshot digests; made once."""
    path = folder / "keys" / "snapshot-salt"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return ArtifactFolder(path.parent).once(path.name, BYTES, lambda: secrets.token_bytes(32))


def site_salt(folder: Path) -> bytes:
    """Return the secret salt of the site in a storage folder."""
    return _salt(folder)


def lend_salt(folder: Path, other: Path) -> None:
    """Have a site in another folder use the salt of the one in `folder`."""
    salt = _salt(folder)
    path = other / "keys" / "snapshot-salt"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    ArtifactFolder(path.parent).once(path.name, BYTES, lambda: salt)
