"""The last two steps: write, mark, sign and send the series; then bind the claims to what was sent and hand them over."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from dicom_node.holding.files import to_part10, write_durably
from dicom_node.writing import (
    ImageForm,
    PixelMarks,
    SeriesIdentity,
    SummaryForm,
    write_segmentation,
    write_series,
    write_summary,
)
from domain.attestation import Approval, Attestation, ProvenanceStatement
from domain.errors import AttestationError, PeerError
from domain.findings import QualityReport
from domain.generation import GeneratedVolume, GenerationRequest, Publication, Receipt
from domain.identifiers import InstanceUid, SeriesUid, derive_uid
from domain.marking import Marks
from domain.model_card import ModelCard
from domain.pairing import PairedContext
from domain.series import GeneratedInstance, GeneratedSeries
from fhir_adapter.bundles import publication_bundle
from fhir_adapter.store import FhirStore
from provenance.as_dicom import embed_series
from provenance.as_prov import to_prov_json
from provenance.attest import PROV_NAME, SIDECAR_NAME, attest, sidecar
from provenance.digests import dataset_digest, has_pixels, pixel_digest
from provenance.lineage import of_sidecar
from provenance.log_proof import LogProof
from provenance.signatures.dicom_signature import DicomSigner, sign_dataset
from provenance.signing import SigningKey
from provenance.statement import provenance_reference, sign_statement, targets_digest
from veraicon import faults
from veraicon.artifacts import ArtifactFolder, json_codec
from veraicon.destinations import Destination
from veraicon.marking import claimed_marks
from veraicon.recall.outputs import Outputs


@dataclass(frozen=True)
class PreparedAttestation:
    """What goes to the FHIR server, kept before it is sent: a second try sends the same signature."""

    attestation: Attestation
    bundle: str


PREPARED = json_codec(PreparedAttestation)
STATEMENT = json_codec(ProvenanceStatement)
ATTESTATION = json_codec(Attestation)
_MOMENT = json_codec(datetime)
SYNTHETIC_PATIENTS = "https://veraicon.dev/fhir/sid/synthetic-patient"


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
    keys: Callable[[], Mapping[str, Any]]
    card: Callable[[], ModelCard]
    organization: str
    issuer: str
    software_version: str
    forms: PublishedForms
    folder_of: Callable[[str], ArtifactFolder]
    salt: bytes
    enter: Callable[[str], LogProof]
    outputs: Outputs
    marks: PixelMarks = field(default_factory=PixelMarks)
    signer: DicomSigner | None = None
    wado_url: str = ""

    def publish(
        self,
        request: GenerationRequest,
        paired: PairedContext,
        generated: GeneratedVolume,
        report: QualityReport,
        approval: Approval,
    ) -> Publication:
        """Send the marked and signed instances to every destination; see `veraicon.pipeline.Steps`."""
        outbox = self.folder_of(request.request_id).folder / "series"
        if not outbox.exists():
            self._fill(outbox, request, paired, generated, report, approval)
        instances = [dcmread(path) for path in sorted(outbox.glob("*.dcm"))]
        receipts = tuple(self._send(request, instances, destination) for destination in self.destinations)
        statement = self._statement(request)
        return Publication(request.request_id, statement.series, receipts, statement.companions)

    def _send(self, request: GenerationRequest, instances: Sequence[Dataset], destination: Destination) -> Receipt:
        """Send to one destination; that it may have a copy is written before, that it has it after."""
        self.outputs.leaving(request.request_id, destination.name, destination.protocol)
        receipt = destination.accept(instances)
        self.outputs.arrived(request.request_id, receipt)
        return receipt

    def attest(self, request: GenerationRequest, publication: Publication) -> Attestation:
        """Sign what was published and write it to the FHIR server in one transaction; see `veraicon.pipeline.Steps`.

        Raises
        ------
        AttestationError
            If the FHIR server does not take it: the series is out by then, so the step is tried again, and the job shows it.
        """
        folder = self.folder_of(request.request_id)
        prepared = folder.once("prepared-attestation", PREPARED, lambda: self._sign(request, publication))
        self.outputs.attested(prepared.attestation)
        self.outputs.require_not_recalled(request.request_id)  # what a recall has withdrawn is not written as valid again
        try:
            self.fhir.transact(json.loads(prepared.bundle))
        except PeerError as error:
            raise AttestationError(
                found=f"a published series whose Provenance the FHIR server did not take ({error.found})",
                allowed="one transaction with Device, DocumentReference, ImagingStudy and Provenance",
                action=error.action,
            ) from error
        self.outputs.require_not_recalled_meanwhile(request.request_id)
        content = sidecar(prepared.attestation)
        (folder.folder / SIDECAR_NAME).write_text(json.dumps(content, indent=1), encoding="utf-8")
        lineage = of_sidecar(content, self.keys())  # a key may have signed it that was replaced since
        (folder.folder / PROV_NAME).write_text(to_prov_json(lineage), encoding="utf-8")
        return prepared.attestation

    def _fill(
        self,
        outbox: Path,
        request: GenerationRequest,
        paired: PairedContext,
        generated: GeneratedVolume,
        report: QualityReport,
        approval: Approval,
    ) -> None:
        """Write the instances below `outbox`, all or none."""
        identity = self.identity(request, generated)
        written = self.write(generated, identity, paired, report)
        series = [series_of(instances, identity) for instances in written.values()]
        marks = claimed_marks(self.marks, self.signer)
        statement = _state(request, paired, generated, report, series, self.software_version, approval, self.salt, marks)
        signed = sign_statement(statement, self.key)
        reference = provenance_reference(request.request_id)
        filling = Path(tempfile.mkdtemp(dir=outbox.parent, prefix=".series-"))
        try:
            for (part, instances), stated in zip(written.items(), series, strict=True):
                for number, ds in enumerate(embed_series(instances, stated, signed, reference), start=1):
                    self._sign_instance(ds, statement)
                    write_durably(filling, f"{part or f'{number:05d}'}.dcm", to_part10(ds))
            self.folder_of(request.request_id).once("statement", STATEMENT, lambda: statement)
            self.outputs.made(statement, paired.series.patient)
            filling.replace(outbox)
        finally:
            shutil.rmtree(filling, ignore_errors=True)

    def _sign_instance(self, ds: Dataset, statement: ProvenanceStatement) -> None:
        """Put the site's DICOM Digital Signature over everything else, where it has a certificate for them."""
        if self.signer is not None:
            uid = derive_uid(statement.request_id, "digital-signature", str(ds.SOPInstanceUID))
            sign_dataset(ds, self.signer, signature_uid=uid, at=statement.generated_at)

    def identity(self, request: GenerationRequest, generated: GeneratedVolume) -> SeriesIdentity:
        """Return the names under which a request is published; the same ones whenever it is written."""
        return SeriesIdentity.for_request(
            request.request_id,
            patient_system=SYNTHETIC_PATIENTS,
            issuer=self.issuer,
            created_at=generated.generated_at or request.requested_at,
            software_version=self.software_version,
            modality=generated.volume.modality,
        )

    def write(
        self, generated: GeneratedVolume, identity: SeriesIdentity, paired: PairedContext, report: QualityReport
    ) -> dict[str, list[Dataset]]:
        """Return the instances of each series by its name, which names its file too: the images (no name) first."""
        images = write_series(generated, identity, source=paired.series, form=self.forms.image, marks=self.marks)
        written = {"": images}
        if self.forms.segmentation and generated.label_map is not None:
            written["segmentation"] = [write_segmentation(generated, identity, images, self.card().reference.labels)]
        if self.forms.summary is not None:
            written["summary"] = [write_summary(generated, identity, images, report.findings, form=self.forms.summary)]
        return written

    def _sign(self, request: GenerationRequest, publication: Publication) -> PreparedAttestation:
        # The time is kept first: a second try signs the same bytes, which are one entry of the log.
        now = self.folder_of(request.request_id).once("attested-at", _MOMENT, lambda: datetime.now(UTC))
        attestation, resources = attest(
            self._statement(request),
            publication,
            self.card(),
            self.key,
            now=now,
            organization=self.organization,
            enter=self.enter,
            wado_url=self.wado_url,
        )
        faults.reach("attested:logged")
        return PreparedAttestation(attestation, json.dumps(publication_bundle(resources)))

    def _statement(self, request: GenerationRequest) -> ProvenanceStatement:
        return STATEMENT.read(self.folder_of(request.request_id).folder / f"statement{STATEMENT.suffix}")


def series_of(instances: Sequence[Dataset], identity: SeriesIdentity) -> GeneratedSeries:
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
    approval: Approval,
    salt: bytes,
    marks: Marks,
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
        approval=approval,
        targets_digest=targets_digest(generated.conditioning.targets, salt),
        companions=tuple(series[1:]),
        marks=marks,
    )
