"""What each step of the story does, built from parts that are handed in; no step reads settings or the database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dicom_node.archive import Archive
from dicom_node.holding.files import series_digest
from dicom_node.reading import read_volume
from domain.attestation import Approval, Attestation
from domain.errors import ApprovalAwaited, IncompleteSeries
from domain.findings import QualityReport
from domain.generation import GeneratedVolume, GenerationRequest, Publication
from domain.model_card import require_series_fits
from domain.ordering import Order
from domain.pairing import PairedContext, choose_patient
from domain.series import ImagingSeries
from domain.volume import Volume, to_patient_axes
from fhir_adapter.clinical.context import without_facts
from fhir_adapter.clinical.ehr import EhrReader
from quality.gates import check
from veraicon.model import SiteModel
from veraicon.publishing import Publisher

if TYPE_CHECKING:  # torch lives behind this name, in the worker only
    from multimodal.conditioning import ConditioningTokens


@dataclass(frozen=True)
class SiteSteps:
    """The steps of one site; see `veraicon.pipeline.Steps` for each one's promise."""

    archive: Archive
    ehr: EhrReader
    model: SiteModel
    publisher: Publisher
    cancelled: Callable[[str], bool]
    decided: Callable[[str], Approval | None] = lambda _request_id: None
    needs_person: bool = False
    require_consent: Callable[[ImagingSeries], None] = lambda _series: None
    order_of: Callable[[str], Order | None] = lambda _order_id: None
    pairs_alone: frozenset[str] = frozenset()

    def receive(self, request: GenerationRequest) -> ImagingSeries:
        """Find the series as it stood at the request and see that the model takes it."""
        series = self.archive.series(request.series_uid)
        self.require_consent(series)
        if series_digest(instance.digest for instance in series.instances) != request.series_digest:
            raise IncompleteSeries(
                found="a series to which instances were added after this request was made",
                allowed="the instances that the request names",
                action="nothing: the grown series has a request of its own",
            )
        require_series_fits(self._volume(series), self.model.card)
        return series

    def pair(self, request: GenerationRequest, series: ImagingSeries) -> PairedContext:
        """Choose the one patient to whom all evidence points and take the EHR's snapshot as of the imaging time."""
        order = self.order_of(request.order_id) if request.order_id else None
        found = self.ehr.pairing_sources(series, order)
        chosen, evidence = choose_patient(
            series, found.candidates, found.pointers, accept=self.pairs_alone, survivors=found.survivors
        )
        context = self.ehr.snapshot(chosen.reference, series.acquired_at or request.requested_at, chosen.merged)
        return PairedContext(series, context if series.acquired_at else without_facts(context), evidence)

    def encode(self, request: GenerationRequest, paired: PairedContext) -> ConditioningTokens:
        """Encode the prior image and the facts; what was asked for stands above the EHR."""
        return self.model.encode(paired.context, request.asked, self._volume(paired.series))

    def generate(self, request: GenerationRequest, series: ImagingSeries, tokens: ConditioningTokens) -> GeneratedVolume:
        """Draw a volume of the source's extent."""
        generated = self.model.generate(
            request, tokens, like=self._volume(series), cancelled=lambda: self.cancelled(request.request_id)
        )
        # In milliseconds, as the statement tells it: whoever makes the instances again has to write the very same time.
        now = datetime.now(UTC)
        return replace(generated, generated_at=now.replace(microsecond=now.microsecond // 1000 * 1000))

    def check(self, series: ImagingSeries, generated: GeneratedVolume) -> QualityReport:
        """Run the gates against the model's reference and the source image."""
        return check(generated, self._volume(series), self.model.card)

    def approve(self, request: GenerationRequest, generated: GeneratedVolume, _report: QualityReport) -> Approval:
        """Take a person's approval where there is one; the gates' own where the site asks for no person."""
        decided = self.decided(request.request_id)
        if decided is not None:
            return decided
        if self.needs_person:
            raise ApprovalAwaited(
                found="a volume that passed every check and that nobody has approved",
                allowed="volumes that a person has seen and approved",
                action="look at it with `veraicon job preview`, then `veraicon job approve` or `veraicon job reject`",
            )
        return Approval("automatic", by="quality gates", at=generated.generated_at or request.requested_at)

    def publish(
        self,
        request: GenerationRequest,
        paired: PairedContext,
        generated: GeneratedVolume,
        report: QualityReport,
        approval: Approval,
    ) -> Publication:
        """Send the marked and signed series to every destination."""
        return self.publisher.publish(request, paired, generated, report, approval)

    def attest(self, request: GenerationRequest, publication: Publication) -> Attestation:
        """Sign what was published and hand it to the FHIR server."""
        return self.publisher.attest(request, publication)

    def _volume(self, series: ImagingSeries) -> Volume:
        return to_patient_axes(read_volume(self.archive.datasets(series)))
