"""Builds what a worker runs from the parts of a site: the steps of the story, and how their results are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dicom_node.writing import ImageForm, SummaryForm
from domain.attestation import Approval
from domain.findings import QualityReport
from domain.generation import Publication
from domain.pairing import PairedContext
from domain.series import ImagingSeries
from fhir_adapter.clinical.ehr import EhrReader
from provenance.log_proof import ATTESTATION_ENTRY
from veraicon.approving import Approvals
from veraicon.artifacts import GENERATED_VOLUME, Codec, json_codec
from veraicon.destinations import Destination
from veraicon.marking import dicom_signer, pixel_marks
from veraicon.merges import MergeBook
from veraicon.model import SiteModel
from veraicon.pipeline import JobState
from veraicon.publishing import ATTESTATION, PublishedForms, Publisher
from veraicon.sections import PublicationSettings
from veraicon.steps import SiteSteps
from veraicon.wiring import Site


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
    how = settings.generation
    sentence_encoder = Path(how.sentence_encoder) if how.sentence_encoder else None
    model = SiteModel(how.model, device=how.device, threads=how.threads, sentence_encoder=sentence_encoder)
    return SiteSteps(
        archive=site.archive,
        ehr=EhrReader(
            site.fhir,
            salt=site.salt,
            resource_types=settings.fhir.resource_types,
            accession_system=settings.pairing.accession_system,
            survivors=MergeBook(site.engine).survivors,
            consent_elsewhere=settings.fhir.consent_elsewhere,
        ),
        pairs_alone=frozenset(settings.pairing.accept),
        model=model,
        publisher=Publisher(
            destinations=site.destinations if destinations is None else destinations,
            fhir=site.fhir,
            key=site.key,
            keys=lambda: site.keyring.public_jwks(),  # noqa: PLW0108 (the keys as they are then, not now)
            enter=partial(site.log.enter, ATTESTATION_ENTRY),
            card=lambda: model.card,
            organization=settings.provenance.organization,
            issuer=settings.provenance.issuer,
            software_version=version("veraicon"),
            forms=forms_of(settings.publication),
            folder_of=site.jobs.artifacts,
            salt=site.salt,
            outputs=site.outputs,
            marks=pixel_marks(settings.publication, settings.storage.folder),
            signer=dicom_signer(settings.provenance),
            wado_url=settings.publication.wado_url,
        ),
        require_consent=site.outputs.require_consent,
        order_of=site.orders.order,
        cancelled=cancelled or site.jobs.cancelled,
        decided=Approvals(site.jobs).approval if cancelled is None else lambda _request_id: None,
        needs_person=settings.publication.approval == "person",
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
        JobState.APPROVED: json_codec(Approval),
        JobState.PUBLISHED: json_codec(Publication),
        JobState.ATTESTED: ATTESTATION,
    }
