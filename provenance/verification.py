"""Verifies published objects offline: with the public keys of the installation and nothing else.

Nothing here raises on a broken or hostile object (see `report.judge`), and nothing here trusts what is not signed. What each
claim says stands in `checks.names`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pydicom.dataset import Dataset

from provenance.checks import names
from provenance.checks.companions import (
    check_about,
    check_attestation,
    check_attestation_about,
    check_card,
    check_logged,
    check_names_attestation,
    check_prov,
    check_provenance_signature,
    check_resources,
)
from provenance.checks.instance import InstanceFinding, Statements, examine
from provenance.checks.moments import Moments, check_keys, check_times
from provenance.checks.recalls import check_recalled
from provenance.checks.series import check_complete, summaries
from provenance.log_proof import LogProof
from provenance.report import Claim, Truth, VerificationReport, judge, unknown
from provenance.signatures.keyring import keys_of_site
from provenance.signing import key_id_of
from provenance.statement import SignedClaims

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Beside:
    """What lies beside an object, or is known of it.

    Attributes
    ----------
    provenance : mapping or None
        FHIR Provenance resource of the series.
    attestation : mapping or None
        Content of the sidecar file (`attest.sidecar`).
    resources : sequence of mapping
        FHIR resources that were published with it.
    notices : sequence of str
        Recall notices (compact JWS).
    superseding : sequence of mapping
        Provenance resources that may take it back, whoever gave them.
    site_asked : bool
        True where the FHIR server that holds its Provenance was asked for those, and `superseding` has its answer.
    prov : str or None
        PROV-JSON of the series.
    now : datetime or None
        Time of the verification, aware; None: the clock's.
    """

    provenance: Json | None = None
    attestation: Json | None = None
    resources: Sequence[Json] = ()
    notices: Sequence[str] = ()
    superseding: Sequence[Json] = ()
    site_asked: bool = False
    prov: str | None = None
    now: datetime | None = None


def verify_instance(
    ds: Dataset,
    keys: Json,
    provenance: Json | None = None,
    attestation: Json | None = None,
    *,
    beside: Beside | None = None,
) -> VerificationReport:
    """Verify one instance; with the Provenance resource and the sidecar of its series where they are at hand.

    Parameters
    ----------
    ds : Dataset
        As a PACS gave it back, with its file meta information.
    keys : mapping
        JWK Set of the trusted public keys.
    provenance : mapping, optional
        FHIR Provenance resource.
    attestation : mapping, optional
        Content of the sidecar file (`attest.sidecar`).
    beside : Beside, optional
        Everything that is at hand, in place of the two above.
    """
    statements = Statements(keys)
    found = examine(ds, statements)
    return judge_instance(found, keys, beside or Beside(provenance, attestation), statements=statements)


def verify_series(
    datasets: Iterable[Dataset],
    keys: Json,
    provenance: Json | None = None,
    attestation: Json | None = None,
    *,
    beside: Beside | None = None,
) -> VerificationReport:
    """Verify all instances of a series, and that none is missing, doubled or added. Instances are read one after the other."""
    statements = Statements(keys)
    found = [examine(ds, statements) for ds in datasets]
    return judge_series(found, keys, beside or Beside(provenance, attestation), statements=statements)


def judge_instance(
    found: InstanceFinding, keys: Json, beside: Beside, *, statements: Statements | None = None
) -> VerificationReport:
    """Return the report about one instance that was examined."""
    signed = _signed(found, statements or Statements(keys))
    complete = Claim(names.COMPLETE, Truth.NOT_CHECKABLE, "one instance cannot show that its series is whole: give all of them")
    about = _claims_beside(signed, _kid(found), keys, beside)
    return VerificationReport("instance", (*found.claims, complete, *about), _REQUIRED)


def judge_series(
    found: Sequence[InstanceFinding],
    keys: Json,
    beside: Beside,
    *,
    statements: Statements | None = None,
    about: Sequence[Claim] | None = None,
) -> VerificationReport:
    """Return the report about instances that were examined, as one series or as all series of one request.

    Parameters
    ----------
    about : sequence of Claim, optional
        From `judge_beside`, where it was asked for another series of the same statement already.
    """
    statements = statements or Statements(keys)
    first = next((one for one in found if one.jws), None)
    signed = _signed(first, statements) if first else None
    complete = judge(names.COMPLETE, partial(check_complete, found, signed))
    if about is None:
        about = judge_beside(found, keys, beside, statements=statements)
    return VerificationReport("series", (*summaries(found), complete, *about), _REQUIRED)


def judge_beside(found: Sequence[InstanceFinding], keys: Json, beside: Beside, *, statements: Statements) -> list[Claim]:
    """Return the claims about what lies beside the instances of one request; its series have them in common."""
    first = next((one for one in found if one.jws), None)
    return _claims_beside(_signed(first, statements) if first else None, _kid(first) if first else "", keys, beside)


def verify_provenance(
    resource: Json, keys: Json, attestation: Json | None = None, resources: Sequence[Json] = (), *, beside: Beside | None = None
) -> VerificationReport:
    """Verify a Provenance resource, and with the sidecar also what it is about and the resources published with it."""
    given = beside or Beside(attestation=attestation, resources=resources)
    keys = _keys_of_attestation(given.attestation, keys)
    attested, attestation_claim = check_attestation(given.attestation, keys)
    signed = attested.statement if attested else None
    about = partial(check_about, resource, signed) if attested else partial(unknown, "no valid sidecar was given")
    proofs: list[LogProof] = []
    claims = (
        judge(names.PROVENANCE_SIGNED, partial(check_provenance_signature, resource, keys)),
        judge(names.PROVENANCE_ABOUT, about),
        judge(names.PROVENANCE_ATTESTED, partial(check_names_attestation, resource, given.attestation)),
        attestation_claim,
        judge(names.IN_LOG, partial(check_logged, given.attestation, attested, keys, proofs)),
        *_timely(Moments(signed, "", attested, resource, proofs[0] if proofs else None), keys, given),
        judge(names.RESOURCES, partial(check_resources, attested, given.resources)),
        judge(names.CARD, partial(check_card, signed, given.resources)),
        judge(names.PROV_JSON, partial(check_prov, attested, given.prov)),
        judge(names.NOT_RECALLED, _recalled(signed, attested.digest if attested else "", keys, given)),
    )
    return VerificationReport("Provenance", claims, frozenset({names.PROVENANCE_SIGNED}))


def verify_sidecar(
    content: Json, keys: Json, resources: Sequence[Json] = (), *, beside: Beside | None = None
) -> VerificationReport:
    """Verify the sidecar of a series, and the FHIR resources that were published with it where they are given."""
    given = beside or Beside(resources=resources)
    keys = _keys_of_attestation(content, keys)
    attested, claim = check_attestation(content, keys)
    signed = attested.statement if attested else None
    proofs: list[LogProof] = []
    claims = (
        claim,
        judge(names.IN_LOG, partial(check_logged, content, attested, keys, proofs)),
        *_timely(Moments(signed, "", attested, None, proofs[0] if proofs else None), keys, given),
        judge(names.RESOURCES, partial(check_resources, attested, given.resources)),
        judge(names.CARD, partial(check_card, signed, given.resources)),
        judge(names.PROV_JSON, partial(check_prov, attested, given.prov)),
        judge(names.NOT_RECALLED, _recalled(signed, attested.digest if attested else "", keys, given)),
    )
    return VerificationReport("sidecar", claims, frozenset({names.ATTESTATION_SIGNED}))


_REQUIRED = frozenset({names.SIGNED, names.IN_SERIES, names.PIXELS})


def _claims_beside(signed: SignedClaims | None, kid: str, keys: Json, beside: Beside) -> list[Claim]:
    """Claims about the Provenance, the sidecar and the resources that came with an instance or a series."""
    keys = keys_of_site(kid, keys) if kid else _keys_of_attestation(beside.attestation, keys)
    attested, attestation_claim = check_attestation(beside.attestation, keys)
    proofs: list[LogProof] = []
    logged = judge(names.IN_LOG, partial(check_logged, beside.attestation, attested, keys, proofs))
    moments = Moments(signed, kid, attested, beside.provenance, proofs[0] if proofs else None)
    return [
        judge(names.PROVENANCE_SIGNED, partial(check_provenance_signature, beside.provenance, keys)),
        judge(names.PROVENANCE_ABOUT, partial(check_about, beside.provenance, signed)),
        judge(names.PROVENANCE_ATTESTED, partial(check_names_attestation, beside.provenance, beside.attestation)),
        attestation_claim,
        judge(names.ATTESTATION_ABOUT, partial(check_attestation_about, attested, signed)),
        logged,
        *_timely(moments, keys, beside),
        judge(names.RESOURCES, partial(check_resources, attested, beside.resources)),
        judge(names.CARD, partial(check_card, signed, beside.resources)),
        judge(names.PROV_JSON, partial(check_prov, attested, beside.prov)),
        judge(names.NOT_RECALLED, _recalled(signed, attested.digest if attested else "", keys, beside)),
    ]


def _keys_of_attestation(content: Json | None, keys: Json) -> Json:
    """The keys of the site that attested: no other one speaks for it."""
    jws = content.get("jws") if isinstance(content, Mapping) else None
    return keys_of_site(key_id_of(jws), keys) if isinstance(jws, str) else keys


def _timely(moments: Moments, keys: Json, beside: Beside) -> list[Claim]:
    now = beside.now or datetime.now(UTC)
    return [
        judge(names.KEY_VALID, partial(check_keys, moments, keys)),
        judge(names.TIMES, partial(check_times, moments, now)),
    ]


def _recalled(signed: SignedClaims | None, digest: str, keys: Json, beside: Beside) -> Any:
    return partial(check_recalled, signed, digest, beside.notices, beside.superseding, keys, asked=beside.site_asked)


def _signed(found: InstanceFinding, statements: Statements) -> SignedClaims | None:
    return statements.read(found.jws) if found.jws else None


def _kid(found: InstanceFinding) -> str:
    return key_id_of(found.jws) if found.jws else ""
