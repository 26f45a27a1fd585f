"""Where a published output comes from, in one value: what each format says, and what is read back from it.

There is one source, the signed claims; DICOM, FHIR, PROV-JSON and the sidecar are renderings of it. That they say the same is
shown by reading each of them back into a `Lineage`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset

from domain.attestation import Approval
from domain.errors import VerificationFailed
from domain.generation import Guidance, Receipt
from domain.identifiers import derive_fhir_id
from provenance import fhir_codes as codes
from provenance.as_dicom import extract
from provenance.as_fhir import ATTESTATION_TITLE
from provenance.attest import sidecar_jws, verified_attestation
from provenance.canonical import canonical_json, digest_of_named_information, sha256_digest
from provenance.signing import ATTESTATION_KIND, STATEMENT_KIND, verify

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LineageSeries:
    """A generated series: how many instances, and the root of the tree over them."""

    series_uid: str
    modality: str
    count: int
    root: str


@dataclass(frozen=True, slots=True)
class LineageModel:
    """The network that drew it, by name and by digests."""

    name: str
    version: str
    weights_digest: str
    card_digest: str
    licence: str


@dataclass(frozen=True, slots=True)
class Attesting:
    """What is known once it is published.

    Attributes
    ----------
    digest : str
        Of the attestation's JWS.
    custodian : str
        Organisation that answers for it.
    """

    digest: str
    attested_at: datetime
    custodian: str
    receipts: tuple[Receipt, ...]


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where an output comes from; times are in UTC with milliseconds.

    Attributes
    ----------
    series : tuple of LineageSeries
        The images first.
    context_as_of : datetime
        Moment of the EHR snapshot.
    statement_digest : str
        Of the canonical claims.
    attesting : Attesting or None
        None where the format is made before publication: the block inside each instance.
    """

    request_id: str
    requested_by: str
    requested_at: datetime
    study_uid: str
    series: tuple[LineageSeries, ...]
    source_study_uid: str
    source_series_uid: str
    source_digest: str
    snapshot_digest: str
    context_as_of: datetime
    consent: str
    model: LineageModel
    seed: int
    sampler: str
    steps: int
    guidance: Guidance
    software_version: str
    generated_at: datetime
    approval: Approval
    statement_digest: str
    attesting: Attesting | None = None

    def before_publication(self) -> Lineage:
        """Return what was known when the instances were written."""
        return replace(self, attesting=None)


def of_claims(claims: Json) -> Lineage:
    """Return the lineage that verified claims of a statement tell.

    Raises
    ------
    VerificationFailed
        If a claim is missing or of another form.
    """
    try:
        return _of_claims(claims)
    except (KeyError, TypeError, ValueError) as error:
        raise _incomplete("claims that lack a part of the lineage") from error


def _of_claims(claims: Json) -> Lineage:
    source, context, generation = claims["source"], claims["context"], claims["generation"]
    all_series = [claims["series"], *claims.get("companions", [])]
    approval = claims["approval"]
    return Lineage(
        request_id=claims["requestId"],
        requested_by=claims["requestedBy"],
        requested_at=moment(claims["requestedAt"]),
        study_uid=claims["series"]["studyUid"],
        series=tuple(
            LineageSeries(one["seriesUid"], one["modality"], one["instances"]["count"], one["instances"]["root"])
            for one in all_series
        ),
        source_study_uid=source["studyUid"],
        source_series_uid=source["seriesUid"],
        source_digest=source["digest"],
        snapshot_digest=context["snapshotDigest"],
        context_as_of=moment(context["asOf"]),
        consent=context["consent"],
        model=LineageModel(*(claims["model"][name] for name in ("name", "version", "weightsDigest", "cardDigest", "licence"))),
        seed=int(generation["seed"]),
        sampler=generation["sampler"],
        steps=generation["steps"],
        guidance=generation["guidance"],
        software_version=claims["softwareVersion"],
        generated_at=moment(claims["generatedAt"]),
        approval=Approval(approval["kind"], approval["by"], moment(approval["at"])),
        statement_digest=sha256_digest(canonical_json(claims)),
    )


def of_instance(ds: Dataset, keys: Json) -> Lineage:
    """Return the lineage in the private block of an instance, if a trusted key signed it.

    Raises
    ------
    VerificationFailed
        If there is no block, or it does not hold.
    """
    block = extract(ds)
    if block is None:
        raise _incomplete("an instance without a statement")
    return of_claims(verify(block.jws, keys, kind=STATEMENT_KIND))


def of_sidecar(content: object, keys: Json) -> Lineage:
    """Return the lineage in a sidecar, if a trusted key signed it.

    Raises
    ------
    VerificationFailed
        If it does not hold.
    """
    return of_attestation(verified_attestation(content, keys), sidecar_jws(content))


def of_attestation(payload: Json, jws: str) -> Lineage:
    """Return the lineage in the verified payload of an attestation.

    Raises
    ------
    VerificationFailed
        If a part is missing or of another form.
    """
    try:
        receipts = tuple(
            Receipt(one["destination"], one["protocol"], one["instances"], moment(one["acceptedAt"]), one.get("committed"))
            for one in payload["receipts"]
        )
        attested_at, custodian = moment(payload["attestedAt"]), payload["custodian"]
    except (KeyError, TypeError, ValueError) as error:
        raise _incomplete("an attestation that lacks its receipts, time or custodian") from error
    attesting = Attesting(sha256_digest(jws.encode("ascii")), attested_at, custodian, receipts)
    return replace(of_claims(payload["statement"]), attesting=attesting)


def of_resources(resources: Sequence[Json], keys: Json) -> Lineage:
    """Return the lineage that the FHIR resources of one request tell.

    Each fact is taken from the element that FHIR has for it; what FHIR has none for, from the documents that they refer to.

    Parameters
    ----------
    resources : sequence of mapping
        Provenance, Device, ImagingStudy and DocumentReferences of the request.

    Raises
    ------
    VerificationFailed
        If a resource or an element is missing.
    """
    try:
        return _of_resources(resources, keys)
    except (KeyError, TypeError, ValueError, IndexError, StopIteration) as error:
        raise _incomplete("FHIR resources that lack a part of the lineage") from error


def _of_resources(resources: Sequence[Json], keys: Json) -> Lineage:
    by_kind = {one["resourceType"]: one for one in resources if one["resourceType"] != "DocumentReference"}
    provenance, device, study = by_kind["Provenance"], by_kind["Device"], by_kind["ImagingStudy"]
    documents = {one["id"]: one for one in resources if one["resourceType"] == "DocumentReference"}
    parameters = next(one for one in documents.values() if one["type"]["coding"][0]["code"] == codes.INPUT_PROMPT["code"])
    told = of_claims(json.loads(_content(parameters, 0)))
    attestation = documents[derive_fhir_id(told.request_id, "DocumentReference", "attestation")]
    jws = _content(attestation, _place(attestation, ATTESTATION_TITLE)).decode("ascii")
    attested = of_attestation(verify(jws, keys, kind=ATTESTATION_KIND), jws).attesting
    if attested is None:  # `of_attestation` always tells it
        raise ValueError("attestation")
    sources = [one["what"] for one in provenance["entity"] if one["role"] == "source"]
    derived = [one["what"]["identifier"]["value"] for one in provenance["entity"] if one["role"] == "derivation"]
    versions = {one["type"]["text"]: one["value"] for one in device["version"]}
    return replace(
        told,
        study_uid=_uid(study["identifier"][0]),
        series=tuple(
            LineageSeries(one["uid"], one["modality"]["code"], one["numberOfInstances"], stated.root)
            for one, stated in zip(study["series"], told.series, strict=True)
        ),
        source_study_uid=_uid(sources[0]["identifier"]),
        source_digest=digest_of_named_information(sources[1]["identifier"]["value"]),
        snapshot_digest=digest_of_named_information(sources[2]["identifier"]["value"]),
        model=LineageModel(
            device["deviceName"][0]["name"],
            versions["weights"],
            digest_of_named_information(device["identifier"][0]["value"]),
            digest_of_named_information(derived[0]),
            told.model.licence,
        ),
        software_version=versions["software"],
        generated_at=moment(provenance["occurredDateTime"]),
        approval=_approval(provenance, told.approval),
        statement_digest=digest_of_named_information(derived[-1]),
        attesting=Attesting(
            digest=digest_of_named_information(provenance["target"][1]["identifier"]["value"]),
            attested_at=moment(provenance["recorded"]),
            custodian=_agent(provenance, codes.CUSTODIAN)["display"],
            receipts=attested.receipts,
        ),
    )


def _approval(provenance: Json, told: Approval) -> Approval:
    """The verifier among the agents is the person who approved; where there is none, no person did."""
    if all(one["type"]["coding"][0]["code"] != codes.VERIFIER["code"] for one in provenance["agent"]):
        return replace(told, kind="automatic")
    return replace(told, kind="person", by=_agent(provenance, codes.VERIFIER)["display"])


def _agent(provenance: Json, kind: Json) -> Json:
    found: Json = next(one["who"] for one in provenance["agent"] if one["type"]["coding"][0]["code"] == kind["code"])
    return found


def _content(document: Json, place: int) -> bytes:
    return base64.b64decode(document["content"][place]["attachment"]["data"], validate=True)


def _place(document: Json, title: str) -> int:
    return [one["attachment"]["title"] for one in document["content"]].index(title)


def _uid(identifier: Json) -> str:
    return str(identifier["value"]).removeprefix("urn:oid:")


def moment(text: str) -> datetime:
    """Return an aware time.

    Raises
    ------
    ValueError
        If it has no zone.
    """
    read = datetime.fromisoformat(text)
    if read.tzinfo is None:
        raise ValueError("a time without a zone")
    return read


def _incomplete(found: str) -> VerificationFailed:
    return VerificationFailed(
        found=found,
        allowed="what was published of one request, whole",
        action="ask for the object as it was published, or verify it with the release that wrote it",
    )
