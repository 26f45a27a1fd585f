"""The `ProvenanceStatement` as the JSON that is signed, and the view of it that a verifier reads."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domain.attestation import ProvenanceStatement
from domain.errors import AttestationError, VerificationFailed
from domain.findings import Finding, Outcome
from domain.identifiers import PatientIdentifier, SeriesUid, StudyUid, derive_fhir_id
from domain.series import GeneratedSeries
from provenance.canonical import canonical_json, instant, require_digest
from provenance.digesting.series_tree import SeriesTree
from provenance.signing import STATEMENT_KIND, SigningKey

STATEMENT_VERSION = "veraicon-statement/2"
APPROVALS = frozenset({"automatic", "person"})


@dataclass(frozen=True, slots=True)
class StatedSeries:
    """A series as a statement names it: by the number of its instances and the root of the tree over them.

    Attributes
    ----------
    root : str
        ``sha256:`` and the hex root; see `provenance.digesting.series_tree`.
    """

    study_uid: StudyUid
    series_uid: SeriesUid
    patient: PatientIdentifier
    modality: str
    count: int
    root: str


@dataclass(frozen=True, slots=True)
class SignedClaims:
    """What a verifier needs of a statement, checked for its form.

    Attributes
    ----------
    request_id : str
        The request that everything of the series derives from.
    series : StatedSeries
        The images.
    companions : tuple of StatedSeries
        Further series of the same study: segmentation, summary.
    claims : mapping
        The whole JSON, for display.
    """

    request_id: str
    series: StatedSeries
    companions: tuple[StatedSeries, ...]
    claims: Mapping[str, Any]

    @property
    def signing_certificate(self) -> str:
        """Digest of the certificate whose DICOM Digital Signature each instance carries; empty where none does."""
        marks = self.claims.get("marks")
        return str(marks.get("signingCertificate") or "") if isinstance(marks, Mapping) else ""

    @property
    def all_series(self) -> tuple[StatedSeries, ...]:
        """Every series that the statement names, the images first."""
        return (self.series, *self.companions)

    def series_of(self, series_uid: str) -> StatedSeries | None:
        """Return the series with this UID, or None where the statement does not name it."""
        return next((one for one in self.all_series if one.series_uid == series_uid), None)


def provenance_reference(request_id: str) -> str:
    """Return ``Provenance/<id>`` of the resource that belongs to a request; it is known before the resource exists."""
    return f"Provenance/{derive_fhir_id(request_id, 'Provenance')}"


def sign_statement(statement: ProvenanceStatement, key: SigningKey) -> str:
    """Return the compact JWS of the statement, as each instance carries it.

    Raises
    ------
    AttestationError
        As `to_claims`.
    """
    return key.sign(to_claims(statement), kind=STATEMENT_KIND)


def targets_digest(targets: Sequence[tuple[str, float, str]], salt: bytes) -> str:
    """Return the salted digest of what the generator was told to obey, values included; empty where it was told nothing.

    Whoever holds the salt and the values can repeat it; nobody else learns a value from it.

    Parameters
    ----------
    targets : sequence of (str, float, str)
        Concept, value and UCUM unit.
    salt : bytes
        The site's secret.

    References
    ----------
    RFC 2104 (HMAC), with SHA-256 over canonical JSON.
    """
    if not targets:
        return ""
    content = canonical_json([list(target) for target in targets])
    return f"sha256:{hmac.new(salt, content, hashlib.sha256).hexdigest()}"


def to_claims(statement: ProvenanceStatement) -> dict[str, Any]:
    """Return the statement as JSON; its canonical form is what is signed.

    No clinical value is in it: of each target only its kind is told. The seed is text, because JSON numbers end at 2**53.

    Raises
    ------
    AttestationError
        If the statement claims what cannot be claimed: a failed check, a series without an instance, an instance or a series
        twice, series of several studies, a digest of another form, a time without a zone, or the source series as our own.
    """
    _require_claimable(statement)
    claims: dict[str, Any] = {
        "version": STATEMENT_VERSION,
        "requestId": statement.request_id,
        "requestedBy": statement.requested_by,
        "requestedAt": instant(statement.requested_at),
        "generatedAt": instant(statement.generated_at),
        "softwareVersion": statement.software_version,
        "source": {
            "studyUid": statement.source_study_uid,
            "seriesUid": statement.source_series_uid,
            "digest": require_digest(statement.source_digest),
        },
        "context": {
            "snapshotDigest": require_digest(statement.snapshot_digest),
            "asOf": instant(statement.context_as_of),
            "pairing": list(statement.pairing),
            "consent": statement.consent,
        },
        "model": {
            "name": statement.model.name,
            "version": statement.model.version,
            "weightsDigest": require_digest(statement.model.weights_digest),
            "cardDigest": require_digest(statement.model.card_digest),
            "licence": statement.model.licence,
        },
        "generation": {
            "seed": str(statement.seed),
            "sampler": statement.sampler,
            "steps": statement.sampler_steps,
            "guidance": dict(statement.guidance) if isinstance(statement.guidance, Mapping) else statement.guidance,
        },
        "conditioning": {
            "targets": [kind for kind, _value, _unit in statement.conditioning.targets],
            "targetsDigest": statement.targets_digest and require_digest(statement.targets_digest),
            "used": list(statement.conditioning.used),
            "missing": list(statement.conditioning.missing),
        },
        "environment": {
            "software": dict(statement.environment.software),
            "device": statement.environment.device,
            "threads": statement.environment.threads,
            "instructionSet": statement.environment.instruction_set,
        },
        "quality": [_finding_claims(finding) for finding in statement.findings],
        "approval": {"kind": statement.approval.kind, "by": statement.approval.by, "at": instant(statement.approval.at)},
        "marks": {
            "visible": statement.marks.visible,
            "watermark": statement.marks.watermark,
            "signingCertificate": statement.marks.signing_certificate and require_digest(statement.marks.signing_certificate),
        },
        "series": _series_claims(statement.series),
    }
    if statement.companions:
        claims["companions"] = [_series_claims(one) for one in statement.companions]
    return claims


def from_claims(claims: object) -> SignedClaims:
    """Return the view of a verified payload.

    Raises
    ------
    VerificationFailed
        If it is no statement of this version, or lacks what a statement must have.
    """
    version = claims.get("version") if isinstance(claims, Mapping) else None
    if not isinstance(claims, Mapping) or version != STATEMENT_VERSION:
        raise _malformed("a payload of another version")
    try:
        request_id, series = claims["requestId"], _series_from(claims["series"])
        companions = tuple(_series_from(one) for one in claims.get("companions", ()))
    except (KeyError, TypeError, AttestationError) as error:
        raise _malformed("a statement that lacks its series, its request or a digest") from error
    if not isinstance(request_id, str):
        raise _malformed("a statement without a request id")
    return SignedClaims(request_id, series, companions, claims)


def _require_claimable(statement: ProvenanceStatement) -> None:
    uids = [instance.sop_instance_uid for series in statement.all_series for instance in series.instances]
    series_uids = [series.series_uid for series in statement.all_series]
    owners = {(series.study_uid, series.patient) for series in statement.all_series}
    failed = [finding.check for finding in statement.findings if finding.outcome is Outcome.FAILED]
    passed = [finding.check for finding in statement.findings if finding.outcome is Outcome.PASSED]
    if failed or not passed:
        found = f"failed checks ({', '.join(failed)})" if failed else "no passed check"
    elif not all(series.instances for series in statement.all_series) or len(set(uids)) != len(uids):
        found = "a series without instances, or with one UID twice"
    elif statement.source_series_uid in series_uids:
        found = "the source series as the generated one"
    elif len(set(series_uids)) != len(series_uids) or len(owners) != 1:
        found = "one series twice, or series of several studies or patients"
    elif statement.approval.kind not in APPROVALS or bool(statement.targets_digest) != bool(statement.conditioning.targets):
        found = "an approval of another kind, or targets without their digest"
    else:
        return
    raise AttestationError(
        found=found,
        allowed="a generated series of its own with distinct instances and passed quality checks",
        action="attest only what passed the gates and was written by the publish step",
    )


def _finding_claims(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "outcome": finding.outcome.value,
        "measured": finding.measured,
        "allowed": finding.allowed,
        "statement": finding.statement,
    }


def _series_claims(series: GeneratedSeries) -> dict[str, Any]:
    return {
        "studyUid": series.study_uid,
        "seriesUid": series.series_uid,
        "modality": series.modality,
        "patient": {"system": series.patient.system, "value": series.patient.value},
        "instances": {"count": len(series.instances), "root": SeriesTree(series.instances).root},
    }


def _series_from(claims: Mapping[str, Any]) -> StatedSeries:
    count = claims["instances"]["count"]
    if type(count) is not int or count < 1:
        raise TypeError("a count of instances that is none")
    return StatedSeries(
        study_uid=StudyUid(str(claims["studyUid"])),
        series_uid=SeriesUid(str(claims["seriesUid"])),
        patient=PatientIdentifier(str(claims["patient"]["value"]), str(claims["patient"]["system"])),
        modality=str(claims["modality"]),
        count=count,
        root=require_digest(claims["instances"]["root"]),
    )


def _malformed(found: str) -> VerificationFailed:
    return VerificationFailed(
        found=found, allowed=STATEMENT_VERSION, action="verify with a release of Veraicon that knows this version"
    )
