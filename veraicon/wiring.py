"""Builds the parts of a site from its settings, once."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from dicom_node.archive import Archive
from dicom_node.association.policy import SourcePolicy
from dicom_node.association.tls import ClientTls, server_context
from dicom_node.scu import Peer
from dicom_node.web.peer import WebPeer
from dicom_node.writing import ImageForm, SummaryForm
from domain.findings import QualityReport
from domain.generation import Publication
from domain.pairing import PairedContext
from domain.series import ImagingSeries
from fhir_adapter.client import ClientLimits, FhirClient
from fhir_adapter.ehr import EhrReader
from fhir_adapter.local_store import LocalFhirStore
from fhir_adapter.store import FhirStore
from provenance.signing import SigningKey
from veraicon.artifacts import BYTES, GENERATED_VOLUME, ArtifactFolder, Codec, json_codec
from veraicon.committing import committer_of
from veraicon.database import connect, migrate
from veraicon.destinations import ArchiveDestination, Destination, DicomWebDestination, PacsDestination
from veraicon.jobs import Jobs
from veraicon.model import SiteModel
from veraicon.pipeline import JobState
from veraicon.publishing import ATTESTATION, PublishedForms, Publisher
from veraicon.sections import DestinationSettings, DicomWebSettings, NodeSettings, PublicationSettings, SourceSettings
from veraicon.settings import Settings
from veraicon.steps import SiteSteps


@dataclass(frozen=True)
class Site:
    """The parts that every process of a site shares; none of them loads torch."""

    settings: Settings
    engine: sa.Engine
    archive: Archive
    fhir: FhirStore
    jobs: Jobs
    key: SigningKey

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
def open_site(settings: Settings) -> Iterator[Site]:
    """Open database, archive, FHIR store and key of a site, and close them in the end.

    Raises
    ------
    ConfigurationError
        If the database, the folder or the key cannot be used.
    """
    engine = connect(settings)
    migrate(engine)
    folder = settings.storage.folder
    fhir = _fhir_store(settings, engine)
    jobs = Jobs(engine, folder / "jobs")
    archive = Archive(
        engine,
        folder / "archive",
        min_free_bytes=settings.storage.min_free_mib * 2**20,
        patient_id_system=settings.pairing.patient_id_system,
        issuer_systems=settings.pairing.issuers,
        default_timezone=ZoneInfo(settings.pairing.timezone),
    )
    key = SigningKey.load_or_create(Path(settings.provenance.key_file or folder / "keys" / "signing.jwk"))
    try:
        yield Site(settings, engine, archive, fhir, jobs, key)
    finally:
        archive.close()
        jobs.close()
        if isinstance(fhir, FhirClient):
            fhir.close()
        engine.dispose()


@contextmanager
def open_fhir(settings: Settings) -> Iterator[FhirStore]:
    """Open only the FHIR server or store of a site."""
    engine = connect(settings)
    fhir = _fhir_store(settings, engine)
    try:
        yield fhir
    finally:
        if isinstance(fhir, FhirClient):
            fhir.close()
        engine.dispose()


def _fhir_store(settings: Settings, engine: sa.Engine) -> FhirStore:
    if not settings.fhir.base_url:
        return LocalFhirStore(engine)
    return FhirClient(
        settings.fhir.base_url,
        bearer_token=settings.fhir.token.get_secret_value() or None,
        limits=ClientLimits(read_timeout_s=settings.fhir.timeout_s),
    )


def _salt(folder: Path) -> bytes:
    """Return the site's secret salt for snapshot digests; made once."""
    path = folder / "keys" / "snapshot-salt"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return ArtifactFolder(path.parent).once(path.name, BYTES, lambda: secrets.token_bytes(32))


def forms_of(publication: PublicationSettings) -> PublishedForms:
    """Return what the site wants published of each volume."""
    return PublishedForms(
        image=ImageForm(publication.image),
        segmentation=publication.segmentation,
        summary=None if publication.summary == "none" else SummaryForm(publication.summary),
    )


def worker_steps(
    site: Site,
    *,
    destinations: tuple[Destination, ...] | None = None,
    cancelled: Callable[[str], bool] | None = None,
) -> SiteSteps:
    """Return the steps of a site; its model is loaded when a job first needs it.

    Parameters
    ----------
    site : Site
    destinations : tuple of Destination or None
        Where series go; None: the site's own.
    cancelled : callable or None
        Tells by request id whether someone cancelled; None: the job table does.
    """
    settings = site.settings
    model = SiteModel(settings.generation.model, device=settings.generation.device, threads=settings.generation.threads)
    return SiteSteps(
        archive=site.archive,
        ehr=EhrReader(site.fhir, salt=_salt(settings.storage.folder)),
        model=model,
        publisher=Publisher(
            destinations=site.destinations if destinations is None else destinations,
            fhir=site.fhir,
            key=site.key,
            card=lambda: model.card,
            organization=settings.provenance.organization,
            issuer=settings.provenance.issuer,
            software_version=version("veraicon"),
            forms=forms_of(settings.publication),
            folder_of=site.jobs.artifacts,
        ),
        cancelled=cancelled or site.jobs.cancelled,
    )


def worker_codecs() -> Mapping[JobState, Codec[Any]]:
    """Return how the result of each step is kept."""
    from multimodal.conditioning import load_conditioning, save_conditioning

    return {
        JobState.RECEIVED: json_codec(ImagingSeries),
        JobState.PAIRED: json_codec(PairedContext),
        JobState.ENCODED: Codec(".safetensors", save_conditioning, load_conditioning),
        JobState.GENERATED: GENERATED_VOLUME,
        JobState.CHECKED: json_codec(QualityReport),
        JobState.PUBLISHED: json_codec(Publication),
        JobState.ATTESTED: ATTESTATION,
    }
