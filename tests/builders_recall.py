"""Outputs published by the site's own publisher, without a generator: phantoms, each of a source of its own."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from domain.attestation import Approval
from domain.clinical import ClinicalContext
from domain.findings import Finding, Outcome, QualityReport
from domain.generation import GenerationRequest, ModelIdentity
from domain.identifiers import PatientIdentifier, SeriesUid, StudyUid, derive_uid, derive_uuid
from domain.pairing import PairedContext, PairingEvidence
from domain.series import ImagingSeries
from generators.cards import bundle_folder, card_digest, read_card
from tests.builders_dicom import generated_phantom, source_series
from veraicon.wiring import Site
from veraicon.worker_wiring import worker_steps

MODEL = "hippocampus-t1"
MADE = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
NOW = datetime(2026, 3, 4, 5, 6, 8, tzinfo=UTC)
_GATES = QualityReport((Finding("finite", Outcome.PASSED, 0.0, "only finite voxels", "Every voxel is finite."),))


def request_id_of(number: int) -> str:
    """Return the request id of an output by its number."""
    return str(derive_uuid("recall test", str(number)))


def source_of(number: int) -> ImagingSeries:
    """Return the source of an output: a patient, a study and a series of its own."""
    return replace(
        source_series(),
        study_uid=StudyUid(derive_uid("recall source", str(number), "study")),
        series_uid=SeriesUid(derive_uid("recall source", str(number), "series")),
        patient=PatientIdentifier(f"MRN-{number}"),
    )


def request_for(number: int) -> GenerationRequest:
    """Return the request of an output."""
    series = source_of(number)
    return GenerationRequest(request_id_of(number), series.series_uid, "sha256:" + "1" * 64, MODEL, 7, 1.0, 8, MADE, "test")


def publish_output(site: Site, number: int, *, slices: int = 3, attested: bool = True) -> str:
    """Publish a phantom with its labels as the worker does, to all destinations of the site; return its request id."""
    card = read_card(bundle_folder(MODEL))
    phantom = generated_phantom((slices, 10, 8))
    labels = np.zeros(phantom.volume.shape, np.uint8)
    labels[:, 3:6, 2:5] = 1
    labels[:, 6:8, 2:5] = 2
    generated = replace(
        phantom,
        label_map=labels,
        generated_at=MADE,
        model=ModelIdentity(card.name, card.version, card.weights_digest, card_digest(card), card.licence),
    )
    series = source_of(number)
    context = ClinicalContext("Patient/p1", None, None, MADE, (), "sha256:" + "2" * 64)
    paired = PairedContext(series, context, (PairingEvidence("identifier", "identifier value and system agree"),))
    publisher = worker_steps(site).publisher
    request = request_for(number)
    publication = publisher.publish(request, paired, generated, _GATES, Approval("automatic", "quality gates", MADE))
    if attested:
        publisher.attest(request, publication)
    return request.request_id
