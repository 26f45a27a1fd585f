"""The last two steps: write, mark, sign and send the series; then bind the claims to what was sent and hand them over."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydicom import Dataset, dcmread

from dicom_node.holding.files import to_part10, write_durably
from dicom_node.writing import (
    ImageForm,
    SeriesIdentity,
    SummaryForm,
    write_segmentation,
    write_series,
    write_summary,
)
from domain.attestation import Attestation, ProvenanceStatement
from domain.errors import AttestationError, PeerError
from domain.findings import QualityReport
from domain.generation import GeneratedVolume, GenerationRequest, Publication
from domain.identifiers import InstanceUid, SeriesUid
from domain.model_card import ModelCard
from domain.pairing import PairedContext
from domain.series import GeneratedInstance, GeneratedSeries
from fhir_adapter.bundles import publication_bundle
from fhir_adapter.store import FhirStore
from provenance.as_dicom import embed
from provenance.attest import attest, sidecar
from provenance.digests import dataset_digest, has_pixels, pixel_digest
from provenance.signing import SigningKey
from provenance.statement import provenance_reference, sign_statement
from veraicon.artifacts import ArtifactFolder, json_codec
from veraicon.destinations import Destination


@dataclass(frozen=True)
class PreparedAttestation:
    """What goes to the FHIR server, kept before it is sent: a second try sends the same signature."""

    attestation: Attestation
    bundle: str


PREPARED = json_codec(PreparedAttestation)
STATEMENT = json_codec(ProvenanceStatement)
ATTESTATION = json_codec(Attestation)
SYNTHETIC_PATIENTS = "https://veraicon.dev/fhir/sid/synthetic-patient"
SIDECAR_NAME = "attestation.veraicon.json"


@dataclass(frozen=True)
class PublishedForms:
    """What a site wants published of each volume.

    Attributes
    ----------
    image : ImageForm
        Classic or enhanced images.
    segmentation : bool
        Whether a label map becomes a segmentation.
    summary : SummaryForm or None
        A summary for people; None: none.
    """

    image: ImageForm = ImageForm.CLASSIC
    segmentation: bool = True
    summary: SummaryForm | None = None


@dataclass(frozen=True)
class Publisher:
    """Writes and sends series, and attests to them.

    A repeat sends the very bytes of the first try: they are kept in the job's folder before anything leaves.
    """

    destinations: tuple[Destination, ...]
    fhir: FhirStore
    key: SigningKey
    card: Callable[[], ModelCard]
    organization: str
    issuer: str
    software_version: str
    forms: PublishedForms
    folder_of: Callable[[str], ArtifactFolder]

    def publish(
        self, request: GenerationRequest, paired: PairedContext, generated: GeneratedVolume, report: QualityReport
    ) -> Publication:
        """Send the marked and signed instances to every destination; see `veraicon.pipeline.Steps`."""
        outbox = self.folder_of(request.request_id).folder / "series"
        if not outbox.exists():
            self._fill(outbox, request, paired, generated, report)
        instances = [dcmread(path) for path in sorted(outbox.glob("*.dcm"))]
        receipts = tuple(destination.accept(instances) for destination in self.destinations)
        statement = self._statement(request)
        return Publication(request.request_id, statement.series, receipts, statement.companions)

    def attest(self, request: GenerationRequest, publication: Publication) -> Attestation:
        """Sign what was published and write it to the FHIR server in one transaction; see `veraicon.pipeline.Steps`.

        Raises
        ------
        AttestationError
            If the FHIR server does not take it: the series is out by then, so the step is tried again, and the job shows it.
        """
        folder = self.folder_of(request.request_id)
        prepared = folder.once("prepared-attestation", PREPARED, lambda: self._sign(request, publication))
        try:
            self.fhir.transact(json.loads(prepared.bundle))
        except PeerError as error:
            raise AttestationError(
                found=f"a published series whose Provenance the FHIR server did not take ({error.found})",
                allowed="one transaction with Device, DocumentReference, ImagingStudy and Provenance",
                action=error.action,
            ) from error
        (folder.folder / SIDECAR_NAME).write_text(json.dumps(sidecar(prepared.attestation), indent=1), encoding="utf-8")
        return prepared.attestation

    def _fill(
        self,
        outbox: Path,
        request: GenerationRequest,
        paired: PairedContext,
        generated: GeneratedVolume,
        report: QualityReport,
    ) -> None:
        """Write the instances below `outbox`, all or none."""
        identity = SeriesIdentity.for_request(
            request.request_id,
            patient_system=SYNTHETIC_PATIENTS,
            issuer=self.issuer,
            created_at=generated.generated_at or request.requested_at,
            software_version=self.software_version,
            modality=generated.volume.modality,
        )
        written = self._write(generated, identity, paired, report)
        series = [_series_of(instances, identity) for instances in written.values()]
        statement = _state(request, paired, generated, report, series, self.software_version)
        signed = sign_statement(statement, self.key)
        reference = provenance_reference(request.request_id)
        filling = Path(tempfile.mkdtemp(dir=outbox.parent, prefix=".series-"))
        try:
            for part, instances in written.items():
                for number, ds in enumerate(instances, start=1):
                    embed(ds, signed, reference)
                    write_durably(filling, f"{part or f'{number:05d}'}.dcm", to_part10(ds))
            self.folder_of(request.request_id).once("statement", STATEMENT, lambda: statement)
            filling.replace(outbox)
        finally:
            shutil.rmtree(filling, ignore_errors=True)

    def _write(
        self, generated: GeneratedVolume, identity: SeriesIdentity, paired: PairedContext, report: QualityReport
    ) -> dict[str, list[Dataset]]:
        """Return the instances of each series by its name, which names its file too: the images (no name) first."""
        images = write_series(generated, identity, source=paired.series, form=self.forms.image)
        written = {"": images}
        if self.forms.segmentation and generated.label_map is not None:
            written["segmentation"] = [write_segmentation(generated, identity, images, self.card().reference.labels)]
        if self.forms.summary is not None:
            written["summary"] = [write_summary(generated, identity, images, report.findings, form=self.forms.summary)]
        return written

    def _sign(self, request: GenerationRequest, publication: Publication) -> PreparedAttestation:
        attestation, resources = attest(
            self._statement(request), publication, self.card(), self.key, now=datetime.now(UTC), organization=self.organization
        )
        return PreparedAttestation(attestation, json.dumps(publication_bundle(resources)))

    def _statement(self, request: GenerationRequest) -> ProvenanceStatement:
        return STATEMENT.read(self.folder_of(request.request_id).folder / f"statement{STATEMENT.suffix}")


def _series_of(instances: Sequence[Dataset], identity: SeriesIdentity) -> GeneratedSeries:
    """Return a series with the digests of what was written, before our own signed block is put in."""
    return GeneratedSeries(
        study_uid=identity.study_uid,
        series_uid=SeriesUid(str(instances[0].SeriesInstanceUID)),
        patient=identity.patient,
        modality=str(instances[0].Modality),
        instances=tuple(
            GeneratedInstance(
                sop_class_uid=str(ds.SOPClassUID),
                sop_instance_uid=InstanceUid(str(ds.SOPInstanceUID)),
                pixel_digest=pixel_digest(ds) if has_pixels(ds) else None,
                dataset_digest=dataset_digest(ds),
            )
            for ds in instances
        ),
    )


def _state(
    request: GenerationRequest,
    paired: PairedContext,
    generated: GeneratedVolume,
    report: QualityReport,
    series: Sequence[GeneratedSeries],
    software_version: str,
) -> ProvenanceStatement:
    """Gather the claims; each comes from the step that knows it. The images stand first in `series`."""
    return ProvenanceStatement(
        request_id=request.request_id,
        requested_by=request.requested_by,
        requested_at=request.requested_at,
        source_study_uid=paired.series.study_uid,
        source_series_uid=paired.series.series_uid,
        source_digest=request.series_digest,
        snapshot_digest=paired.context.snapshot_digest,
        context_as_of=paired.context.as_of,
        pairing=tuple(evidence.statement for evidence in paired.evidence),
        consent=paired.context.consent,
        model=generated.model,
        seed=generated.seed,
        sampler=generated.sampler,
        sampler_steps=generated.sampler_steps,
        guidance=generated.guidance,
        conditioning=generated.conditioning,
        environment=generated.environment,
        findings=report.findings,
        series=series[0],
        software_version=software_version,
        generated_at=generated.generated_at or request.requested_at,
        companions=tuple(series[1:]),
    )
