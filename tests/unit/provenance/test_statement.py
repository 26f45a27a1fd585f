from __future__ import annotations

import copy
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from domain.attestation import Approval
from domain.errors import AttestationError, VerificationFailed
from domain.findings import Finding, Outcome
from provenance.canonical import canonical_json, named_information
from provenance.cards.markdown_card import to_markdown
from provenance.digesting.series_tree import SeriesTree
from provenance.statement import from_claims, targets_digest, to_claims
from tests.builders_provenance import NOW, SALT, SOURCE_SERIES, make_instance, make_series, make_statement
from tests.builders_quality import make_card

SERIES = make_series([make_instance("request-1", number) for number in (1, 2)])
STATEMENT = make_statement("request-1", SERIES)


def test_a_verifier_reads_back_the_series_that_was_stated() -> None:
    signed = from_claims(to_claims(STATEMENT))
    stated = signed.series
    assert (signed.request_id, stated.study_uid, stated.series_uid, stated.count) == (
        "request-1",
        SERIES.study_uid,
        SERIES.series_uid,
        2,
    )
    assert stated.root == SeriesTree(SERIES.instances).root
    assert signed.series_of("1.2.3") is None


def test_a_seed_beyond_the_numbers_of_json_is_kept_to_its_last_digit() -> None:
    claims = to_claims(replace(STATEMENT, seed=2**63 - 1))
    assert claims["generation"]["seed"] == "9223372036854775807"
    canonical_json(claims)


@pytest.mark.parametrize(
    "changes",
    [
        {"findings": (Finding("finite", Outcome.FAILED, 1.0, "none", "x"),)},
        {"findings": ()},
        {"series": replace(SERIES, instances=())},
        {"series": replace(SERIES, instances=SERIES.instances * 2)},
        {"series": replace(SERIES, series_uid=SOURCE_SERIES)},
        {"source_digest": "md5:abc"},
        {"snapshot_digest": "sha256:" + "A" * 64},
        {"generated_at": datetime(2026, 1, 1)},
        {"approval": Approval("nobody", "x", NOW)},
        {"targets_digest": ""},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_cannot_be_claimed_is_not_stated(changes: dict[str, Any]) -> None:
    with pytest.raises(AttestationError):
        to_claims(replace(STATEMENT, **changes))


def test_a_number_that_is_none_cannot_be_signed() -> None:
    with pytest.raises(ValueError, match="JCS"):
        canonical_json(to_claims(replace(STATEMENT, guidance=float("nan"))))


@pytest.mark.parametrize("lost", ["version", "requestId", "series"])
def test_a_payload_that_is_no_statement_is_refused(lost: str) -> None:
    claims = copy.deepcopy(to_claims(STATEMENT))
    del claims[lost]
    with pytest.raises(VerificationFailed):
        from_claims(claims)
    with pytest.raises(VerificationFailed):
        from_claims([claims])


def test_a_digest_has_one_form_as_a_uri() -> None:
    with pytest.raises(AttestationError):
        named_information("sha256:" + "g" * 64)


def test_the_model_card_tells_a_person_everything_that_the_gates_use() -> None:
    card = make_card()
    text = to_markdown(card)
    for said in (card.intended_use, card.out_of_scope, card.licence, card.attribution, card.weights_digest, "8300"):
        assert said in text
    for accepted in (card.reference.mean, card.reference.sharpness, card.limits.spacing_mm, card.concepts[0].trained):
        assert str(accepted) in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith(" |") for line in rows)


def test_text_of_a_card_cannot_break_a_table() -> None:
    card = replace(make_card(), training=(("optimiser | schedule", "first\nsecond"),))
    assert "| optimiser \\| schedule | first second |" in to_markdown(card)


def test_the_digest_of_the_targets_tells_a_value_only_to_who_holds_the_salt() -> None:
    targets = (("hippocampus-anterior-volume", 1700.0, "mm3"),)
    assert targets_digest(targets, SALT) == targets_digest(targets, SALT)
    assert targets_digest(targets, SALT) != targets_digest(targets, b"another")
    assert targets_digest(targets, SALT) != targets_digest((("hippocampus-anterior-volume", 1701.0, "mm3"),), SALT)
    assert targets_digest((), SALT) == ""
