"""A `Lineage` as W3C PROV (PROV-JSON), for programs that know neither DICOM nor FHIR.

Series and source are entities named by their UIDs (``urn:oid:``), everything else by its digest (RFC 6920); generating,
approving and attesting are activities; the software, the requester, the approver and the custodian are agents.

References
----------
W3C PROV-DM; the PROV-JSON Serialization (W3C Member Submission).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from prov.identifier import Namespace, QualifiedName
from prov.model import PROV, ProvDocument, ProvRecord

from domain.attestation import Approval
from domain.errors import VerificationFailed
from domain.generation import Receipt
from provenance.canonical import digest_of_named_information, instant, named_information
from provenance.lineage import Attesting, Lineage, LineageModel, LineageSeries, moment

VI = Namespace("vi", "https://veraicon.dev/prov#")
OID = Namespace("oid", "urn:oid:")
NI = Namespace("ni", "ni:///sha-256;")
REQUEST = Namespace("request", "https://veraicon.dev/request/")


def to_prov_json(lineage: Lineage) -> str:
    """Return the lineage as PROV-JSON text."""
    text: str = to_prov(lineage).serialize(format="json", indent=1)
    return text


def to_prov(lineage: Lineage) -> ProvDocument:
    """Return the lineage as a PROV document."""
    document = ProvDocument()
    for namespace in (VI, OID, NI, REQUEST):
        document.add_namespace(namespace)
    software = _agents(document, lineage)
    generation = _generation(document, lineage, software)
    _series(document, lineage, generation, software)
    _approval(document, lineage)
    if lineage.attesting is not None:
        _attesting(document, lineage, lineage.attesting)
    return document


def _agents(document: ProvDocument, lineage: Lineage) -> QualifiedName:
    software = VI[f"software/{quote(lineage.software_version, safe='')}"]
    document.agent(software, {PROV["type"]: PROV["SoftwareAgent"], VI["softwareVersion"]: lineage.software_version})
    requester = _of_request(lineage, "requester")
    document.agent(requester, {PROV["type"]: VI["Requester"], VI["name"]: lineage.requested_by})
    document.actedOnBehalfOf(software, requester)
    return software


def _generation(document: ProvDocument, lineage: Lineage, software: QualifiedName) -> QualifiedName:
    generation = _of_request(lineage, "generation")
    facts: dict[Any, Any] = {
        PROV["type"]: VI["Generation"],
        VI["requestId"]: lineage.request_id,
        VI["requestedAt"]: instant(lineage.requested_at),
        VI["seed"]: str(lineage.seed),
        VI["sampler"]: lineage.sampler,
        VI["steps"]: lineage.steps,
        VI["guidance"]: json.dumps(lineage.guidance, sort_keys=True),
        VI["consent"]: lineage.consent,
    }
    document.activity(generation, endTime=lineage.generated_at, other_attributes=facts)
    document.wasAssociatedWith(generation, software)
    source = document.entity(
        OID[lineage.source_series_uid],
        {PROV["type"]: VI["SourceSeries"], VI["studyUid"]: lineage.source_study_uid, VI["digest"]: lineage.source_digest},
    )
    snapshot = document.entity(
        _digest(lineage.snapshot_digest), {PROV["type"]: VI["ClinicalSnapshot"], VI["asOf"]: instant(lineage.context_as_of)}
    )
    model = lineage.model
    weights = document.entity(
        _digest(model.weights_digest),
        {PROV["type"]: VI["Weights"], VI["name"]: model.name, VI["version"]: model.version, VI["licence"]: model.licence},
    )
    card = document.entity(_digest(model.card_digest), {PROV["type"]: VI["ModelCard"]})
    for used in (source, snapshot, weights):
        document.used(generation, used)
    document.wasInfluencedBy(generation, card)
    return generation


def _series(document: ProvDocument, lineage: Lineage, generation: QualifiedName, software: QualifiedName) -> None:
    for place, series in enumerate(lineage.series):
        facts = {
            PROV["type"]: VI["GeneratedSeries"],
            VI["place"]: place,
            VI["studyUid"]: lineage.study_uid,
            VI["modality"]: series.modality,
            VI["instances"]: series.count,
            VI["root"]: series.root,
        }
        entity = document.entity(OID[series.series_uid], facts)
        document.wasGeneratedBy(entity, generation, time=lineage.generated_at)
        document.wasDerivedFrom(entity, OID[lineage.source_series_uid], activity=generation)
        document.wasAttributedTo(entity, software)
    statement = document.entity(_digest(lineage.statement_digest), {PROV["type"]: VI["Statement"]})
    document.wasGeneratedBy(statement, generation)


def _approval(document: ProvDocument, lineage: Lineage) -> None:
    approval = _of_request(lineage, "approval")
    facts = {PROV["type"]: VI["Approval"], VI["kind"]: lineage.approval.kind}
    document.activity(approval, endTime=lineage.approval.at, other_attributes=facts)
    kind = PROV["Person"] if lineage.approval.kind == "person" else PROV["SoftwareAgent"]
    approver = document.agent(_of_request(lineage, "approver"), {PROV["type"]: kind, VI["approver"]: lineage.approval.by})
    document.wasAssociatedWith(approval, approver)
    for series in lineage.series:
        document.used(approval, OID[series.series_uid])


def _attesting(document: ProvDocument, lineage: Lineage, attesting: Attesting) -> None:
    activity = _of_request(lineage, "attesting")
    document.activity(activity, endTime=attesting.attested_at, other_attributes={PROV["type"]: VI["Attesting"]})
    custodian = document.agent(
        _of_request(lineage, "custodian"), {PROV["type"]: PROV["Organization"], VI["custodian"]: attesting.custodian}
    )
    document.wasAssociatedWith(activity, custodian)
    attestation = document.entity(_digest(attesting.digest), {PROV["type"]: VI["Attestation"]})
    document.wasGeneratedBy(attestation, activity, time=attesting.attested_at)
    document.wasDerivedFrom(attestation, _digest(lineage.statement_digest))
    for place, receipt in enumerate(attesting.receipts):
        facts: dict[Any, Any] = {
            PROV["type"]: VI["Delivery"],
            VI["place"]: place,
            VI["destination"]: receipt.destination,
            VI["protocol"]: receipt.protocol,
            VI["instances"]: receipt.instances,
        }
        if receipt.committed is not None:
            facts[VI["committed"]] = "yes" if receipt.committed else "no"
        delivery = document.activity(
            _of_request(lineage, f"delivery/{place}"), endTime=receipt.accepted_at, other_attributes=facts
        )
        document.wasInformedBy(activity, delivery)
        for series in lineage.series:
            document.used(delivery, OID[series.series_uid])


def from_prov_json(text: str) -> Lineage:
    """Return the lineage that PROV-JSON tells.

    Raises
    ------
    VerificationFailed
        If it is no PROV-JSON, or lacks a part of the lineage.
    """
    try:
        document = ProvDocument.deserialize(content=text, format="json")
        return _from_prov(document)
    except Exception as error:  # the reader of the library raises whatever its input makes it meet
        raise VerificationFailed(
            found=f"PROV-JSON that lacks a part of the lineage ({type(error).__name__})",
            allowed="the PROV document as it was published",
            action="ask for it again; `veraicon provenance show` makes it anew from the sidecar",
        ) from error


def _from_prov(document: ProvDocument) -> Lineage:
    generation = _one(document, "Generation")
    source, snapshot = _one(document, "SourceSeries"), _one(document, "ClinicalSnapshot")
    weights, card = _one(document, "Weights"), _one(document, "ModelCard")
    approval = _one(document, "Approval")
    software = _with(document, "softwareVersion")
    series = sorted(_typed(document, "GeneratedSeries"), key=lambda one: _value(one, "place"))
    return Lineage(
        request_id=_value(generation, "requestId"),
        requested_by=_value(_one(document, "Requester"), "name"),
        requested_at=moment(_value(generation, "requestedAt")),
        study_uid=_same([_value(one, "studyUid") for one in series]),
        series=tuple(
            LineageSeries(_local(one), _value(one, "modality"), _value(one, "instances"), _value(one, "root")) for one in series
        ),
        source_study_uid=_value(source, "studyUid"),
        source_series_uid=_local(source),
        source_digest=_value(source, "digest"),
        snapshot_digest=_digest_of(snapshot),
        context_as_of=moment(_value(snapshot, "asOf")),
        consent=_value(generation, "consent"),
        model=LineageModel(
            _value(weights, "name"),
            _value(weights, "version"),
            _digest_of(weights),
            _digest_of(card),
            _value(weights, "licence"),
        ),
        seed=int(_value(generation, "seed")),
        sampler=_value(generation, "sampler"),
        steps=_value(generation, "steps"),
        guidance=json.loads(_value(generation, "guidance")),
        software_version=_value(software, "softwareVersion"),
        generated_at=_end(generation),
        approval=Approval(_value(approval, "kind"), _value(_with(document, "approver"), "approver"), _end(approval)),
        statement_digest=_digest_of(_one(document, "Statement")),
        attesting=_attesting_from(document),
    )


def _attesting_from(document: ProvDocument) -> Attesting | None:
    attestations = list(_typed(document, "Attestation"))
    if not attestations:
        return None
    deliveries = sorted(_typed(document, "Delivery"), key=lambda one: _value(one, "place"))
    return Attesting(
        digest=_digest_of(_one(document, "Attestation")),
        attested_at=_end(_one(document, "Attesting")),
        custodian=_value(_with(document, "custodian"), "custodian"),
        receipts=tuple(
            Receipt(
                _value(one, "destination"),
                _value(one, "protocol"),
                _value(one, "instances"),
                _end(one),
                {"yes": True, "no": False}[_value(one, "committed")] if one.get_attribute(VI["committed"]) else None,
            )
            for one in deliveries
        ),
    )


def _typed(document: ProvDocument, name: str) -> Iterator[ProvRecord]:
    return (one for one in document.get_records() if VI[name] in one.get_attribute(PROV["type"]))


def _one(document: ProvDocument, name: str) -> ProvRecord:
    (record,) = _typed(document, name)
    return record


def _with(document: ProvDocument, attribute: str) -> ProvRecord:
    (record,) = (one for one in document.get_records() if one.get_attribute(VI[attribute]))
    return record


def _value(record: ProvRecord, name: str) -> Any:
    (value,) = record.get_attribute(VI[name])
    return value


def _end(record: ProvRecord) -> datetime:
    (end,) = record.get_attribute(PROV["endTime"])
    return moment(end.isoformat() if end.tzinfo else end.replace(tzinfo=UTC).isoformat())


def _same(values: list[Any]) -> Any:
    (value,) = set(values)
    return value


def _local(record: ProvRecord) -> str:
    return str(record.identifier.localpart)


def _digest_of(record: ProvRecord) -> str:
    return digest_of_named_information(record.identifier.uri)


def _digest(digest: str) -> QualifiedName:
    return NI[named_information(digest).removeprefix(NI.uri)]


def _of_request(lineage: Lineage, part: str) -> QualifiedName:
    return REQUEST[f"{quote(lineage.request_id, safe='')}/{part}"]
