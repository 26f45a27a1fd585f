"""The story: receive, pair, encode, generate, check, approve, publish, attest.

Data goes forward only: each step takes what earlier steps returned and nothing else. `Recorder` decides whether a step is
durable (`veraicon.workflow`) or just run (`veraicon.from_files`); `Steps` says what each step does (`veraicon.steps`).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeVar

from domain.attestation import Approval, Attestation
from domain.findings import QualityReport
from domain.generation import GeneratedVolume, GenerationRequest, Publication
from domain.pairing import PairedContext
from domain.series import ImagingSeries

if TYPE_CHECKING:  # the names only: a server that tells the story's states must not load torch
    from multimodal.conditioning import ConditioningTokens

Result = TypeVar("Result")


class JobState(Enum):
    """Where a request stands: the last step that finished, or how it ended; held waits for a person's approval."""

    REQUESTED = "requested"
    RECEIVED = "received"
    PAIRED = "paired"
    ENCODED = "encoded"
    GENERATED = "generated"
    CHECKED = "checked"
    HELD = "held"
    APPROVED = "approved"
    PUBLISHED = "published"
    ATTESTED = "attested"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True where nothing more happens by itself."""
        return self in {JobState.ATTESTED, JobState.REJECTED, JobState.FAILED, JobState.CANCELLED}


class Steps(Protocol):
    """One verb a step."""

    def receive(self, request: GenerationRequest) -> ImagingSeries:
        """Find the source series as it stood at the request, whole and fit for the model."""
        ...

    def pair(self, request: GenerationRequest, series: ImagingSeries) -> PairedContext:
        """Show that series and EHR are one patient, and take the EHR's snapshot as of the imaging time."""
        ...

    def encode(self, request: GenerationRequest, paired: PairedContext) -> ConditioningTokens:
        """Turn image and facts into tokens."""
        ...

    def generate(self, request: GenerationRequest, series: ImagingSeries, tokens: ConditioningTokens) -> GeneratedVolume:
        """Draw a volume that obeys the tokens."""
        ...

    def check(self, series: ImagingSeries, generated: GeneratedVolume) -> QualityReport:
        """Run every quality and privacy gate."""
        ...

    def approve(self, request: GenerationRequest, generated: GeneratedVolume, report: QualityReport) -> Approval:
        """Say who lets a volume that passed its checks leave: the checks themselves, or a person where the site wants one."""
        ...

    def publish(
        self,
        request: GenerationRequest,
        paired: PairedContext,
        generated: GeneratedVolume,
        report: QualityReport,
        approval: Approval,
    ) -> Publication:
        """Write the marked and signed series and send it to every destination."""
        ...

    def attest(self, request: GenerationRequest, publication: Publication) -> Attestation:
        """Bind the claims to what was published, sign, and hand them to the FHIR server."""
        ...


class Recorder(Protocol):
    """Runs a step and keeps its result under the state that it reaches."""

    def __call__(self, state: JobState, step: Callable[..., Result], *arguments: object) -> Result:
        """Return the step's result, from the record where the step has already finished."""
        ...


def tell(steps: Steps, request: GenerationRequest, record: Recorder) -> Attestation:
    """Run the whole story for one request and return its signed proof.

    Raises
    ------
    VeraiconError
        Whatever the step in question raises; `QualityRejection` ends the story before anything leaves, and
        `ApprovalAwaited` stops it there until a person has decided.
    """
    series = record(JobState.RECEIVED, steps.receive, request)
    paired = record(JobState.PAIRED, steps.pair, request, series)
    tokens = record(JobState.ENCODED, steps.encode, request, paired)
    generated = record(JobState.GENERATED, steps.generate, request, series, tokens)
    report = record(JobState.CHECKED, steps.check, series, generated)
    approval = record(JobState.APPROVED, steps.approve, request, generated, report.require_passed())
    publication = record(JobState.PUBLISHED, steps.publish, request, paired, generated, report, approval)
    return record(JobState.ATTESTED, steps.attest, request, publication)
