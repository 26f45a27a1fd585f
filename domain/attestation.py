"""What we claim about a generated series, before and after it is published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from domain.findings import Finding
from domain.generation import ConditioningRecord, ExecutionEnvironment, Guidance, ModelIdentity
from domain.marking import Marks
from domain.series import GeneratedInstance, GeneratedSeries


@dataclass(frozen=True, slots=True)
class Approval:
    """Who let a volume leave that had passed every check.

    Attributes
    ----------
    kind : str
        ``automatic`` or ``person``.
    by : str
        What or who approved: the quality gates, or a user id or role as the site names its people.
    at : datetime
        Aware.
    """

    kind: str
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ProvenanceStatement:
    """Claims about what one request made, complete before publication; signed and carried inside each instance.

    Attributes
    ----------
    source_study_uid, source_series_uid, source_digest : str
        The real series that conditioned the generator, and the digest over its instances.
    snapshot_digest : str
        Salted digest of the EHR snapshot: no values.
    conditioning : ConditioningRecord
        Targets are rendered as kinds only; a value never leaves in a statement.
    targets_digest : str
        Salted digest of the conditioning targets with their values; empty where there are none.
    findings : tuple of Finding
        Quality findings; all passed or not applicable.
    approval : Approval
        Who let it leave.
    series : GeneratedSeries
        The images.
    companions : tuple of GeneratedSeries
        Further series of the same study: segmentation, summary.
    marks : Marks
        What says synthetic beside the attributes of each instance.
    """

    request_id: str
    requested_by: str
    requested_at: datetime
    source_study_uid: str
    source_series_uid: str
    source_digest: str
    snapshot_digest: str
    context_as_of: datetime
    pairing: tuple[str, ...]
    consent: str
    model: ModelIdentity
    seed: int
    sampler: str
    sampler_steps: int
    guidance: Guidance
    conditioning: ConditioningRecord
    environment: ExecutionEnvironment
    findings: tuple[Finding, ...]
    series: GeneratedSeries
    software_version: str
    generated_at: datetime
    approval: Approval
    targets_digest: str
    companions: tuple[GeneratedSeries, ...] = ()
    marks: Marks = field(default_factory=Marks)

    @property
    def all_series(self) -> tuple[GeneratedSeries, ...]:
        """Every series of the request, the images first."""
        return (self.series, *self.companions)


@dataclass(frozen=True, slots=True)
class ResourceDigest:
    """A FHIR resource of ours and the digest of its canonical JSON."""

    reference: str
    digest: str


@dataclass(frozen=True, slots=True)
class Attestation:
    """Claims bound to the digests of what was published, and signed.

    Attributes
    ----------
    series_uid : str
        Series of the images.
    instances : tuple of GeneratedInstance
        Of every series of the request.
    provenance_reference : str
        ``Provenance/<id>`` on the FHIR server.
    resources : tuple of ResourceDigest
        The FHIR resources published with it.
    jws : str
        Compact JWS (RFC 7515) whose payload is the canonical JSON of statement, instances, receipts and resources.
    log : mapping
        Proof that the attestation stands in the transparency log, as JSON (`provenance.log_proof.proof_to_json`).
    """

    request_id: str
    series_uid: str
    instances: tuple[GeneratedInstance, ...]
    provenance_reference: str
    resources: tuple[ResourceDigest, ...]
    jws: str
    attested_at: datetime
    log: Mapping[str, Any] = field(default_factory=dict)
