"""One lineage in four formats: rendered, read back and compared, so that they cannot say different things."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prov.model import ProvDocument

from domain.attestation import Approval, ProvenanceStatement
from domain.errors import VerificationFailed
from domain.generation import Publication, Receipt
from domain.identifiers import SeriesUid
from provenance.as_dicom import embed_series
from provenance.as_prov import from_prov_json, to_prov_json
from provenance.attest import attest, sidecar
from provenance.lineage import of_claims, of_instance, of_resources, of_sidecar
from provenance.signing import SigningKey
from provenance.statement import provenance_reference, sign_statement, to_claims
from tests.builders_provenance import NOW, MemoryLog, make_instance, make_series, make_statement, publish, through_file
from tests.builders_quality import make_card

KEY = SigningKey.generate()
KEYS = KEY.public_jwks()
INSTANCES = [make_instance("request-1", number) for number in (1, 2, 3)]

_names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=30)
_weights = st.floats(1, 20, allow_nan=False)
_moments = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)).map(
    lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000, tzinfo=UTC)
)
_receipts = st.lists(
    st.builds(Receipt, _names, _names, st.just(0), _moments, st.sampled_from([None, True, False])), min_size=1, max_size=3
)


@st.composite
def _stated(draw: st.DrawFn) -> tuple[ProvenanceStatement, tuple[Receipt, ...], datetime, str]:
    """Return a statement about one to three instances and perhaps a companion, its receipts, and when who attested."""
    series = make_series(INSTANCES[: draw(st.integers(1, 3))])
    base = make_statement("request-1", series)
    companions = ()
    if draw(st.booleans()):
        other = replace(series.instances[0], sop_instance_uid="1.2.3.4.5")
        companions = (replace(series, series_uid=SeriesUid("1.2.3.4"), modality="SEG", instances=(other,)),)
    approval = Approval(draw(st.sampled_from(["automatic", "person"])), draw(_names), draw(_moments))
    statement = replace(
        base,
        requested_by=draw(_names),
        requested_at=draw(_moments),
        context_as_of=draw(_moments),
        consent=draw(_names),
        model=replace(base.model, name=draw(_names), version=draw(_names), licence=draw(_names)),
        seed=draw(st.integers(0, 2**63 - 1)),
        sampler=draw(_names),
        sampler_steps=draw(st.integers(1, 1000)),
        guidance=draw(_weights | st.dictionaries(st.sampled_from(["report", "prior-image"]), _weights, min_size=1)),
        software_version=draw(_names),
        generated_at=draw(_moments),
        approval=approval,
        companions=companions,
    )
    count = sum(len(one.instances) for one in statement.all_series)
    receipts = tuple(replace(one, instances=count) for one in draw(_receipts))
    return statement, receipts, draw(_moments), draw(_names)


@pytest.mark.requirement("PROV-LINEAGE-001")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_stated())
def test_every_format_tells_the_same_lineage(
    stated: tuple[ProvenanceStatement, tuple[Receipt, ...], datetime, str],
) -> None:
    statement, receipts, now, organization = stated
    publication = Publication(statement.request_id, statement.series, receipts, statement.companions)
    attestation, resources = attest(
        statement, publication, make_card(), KEY, now=now, organization=organization, enter=MemoryLog(KEY).enter
    )
    told = of_sidecar(sidecar(attestation), KEYS)
    assert of_resources(resources, KEYS) == told
    assert from_prov_json(to_prov_json(told)) == told

    datasets = [copy.deepcopy(ds) for ds in INSTANCES[: len(statement.series.instances)]]
    embed_series(datasets, statement.series, sign_statement(statement, KEY), provenance_reference("request-1"))
    written = of_instance(through_file(datasets[0]), KEYS)
    assert written == told.before_publication() == of_claims(to_claims(statement))
    assert from_prov_json(to_prov_json(written)) == written

    # And it is what was stated: each format is compared with the value that everything began with.
    assert (told.seed, told.guidance, told.consent) == (statement.seed, statement.guidance, statement.consent)
    assert (told.approval, told.generated_at) == (statement.approval, statement.generated_at)
    assert told.attesting is not None
    assert (told.attesting.receipts, told.attesting.attested_at, told.attesting.custodian) == (receipts, now, organization)
    assert [one.count for one in told.series] == [len(one.instances) for one in statement.all_series]


@pytest.mark.requirement("PROV-LINEAGE-001")
def test_prov_json_is_read_by_the_library_of_others_and_says_what_was_derived_from_what() -> None:
    published = publish(KEY)
    document = ProvDocument.deserialize(content=to_prov_json(of_sidecar(published.sidecar, KEYS)), format="json")
    kinds = {type(record).__name__ for record in document.get_records()}
    assert {"ProvGeneration", "ProvUsage", "ProvAssociation", "ProvDerivation", "ProvAttribution"} <= kinds
    text = document.get_provn()
    assert f"wasDerivedFrom(oid:{published.statement.series.series_uid}, oid:{published.statement.source_series_uid}" in text


@pytest.mark.requirement("PROV-LINEAGE-001")
@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        ("Device", lambda one: one["version"][0].update(value="9.9")),
        ("Device", lambda one: one["identifier"][0].update(value="ni:///sha-256;" + "A" * 43)),
        ("ImagingStudy", lambda one: one["series"][0].update(numberOfInstances=2)),
        ("ImagingStudy", lambda one: one["identifier"][0].update(value="urn:oid:1.2.3")),
        ("Provenance", lambda one: one.update(occurredDateTime="2020-01-01T00:00:00.000Z")),
        ("Provenance", lambda one: one["agent"].append({**one["agent"][1], "type": {"coding": [{"code": "verifier"}]}})),
        ("Provenance", lambda one: one["entity"][1]["what"]["identifier"].update(value="ni:///sha-256;" + "A" * 43)),
    ],
)
def test_a_resource_that_says_something_else_gives_another_lineage(kind: str, edit: Any) -> None:
    """The comparison above would be worth nothing if every fact came from one document."""
    published = publish(KEY)
    edited = copy.deepcopy(published.resources)
    edit(next(one for one in edited if one["resourceType"] == kind))
    assert of_resources(edited, KEYS) != of_sidecar(published.sidecar, KEYS)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"entity": {"vi:x": {}}}', "<xml/>"])
def test_what_is_no_prov_of_ours_is_refused(text: str) -> None:
    with pytest.raises(VerificationFailed):
        from_prov_json(text)


def test_times_are_kept_to_the_millisecond_in_every_format() -> None:
    at = NOW + timedelta(milliseconds=123)
    told = of_sidecar(publish(KEY, state=lambda one: replace(one, requested_at=at, generated_at=at)).sidecar, KEYS)
    assert (told.generated_at, from_prov_json(to_prov_json(told)).generated_at) == (at, at)
    json.loads(to_prov_json(told))
