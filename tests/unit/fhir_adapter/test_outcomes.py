from __future__ import annotations

import json

import pytest
from fhir.resources.R4B.operationoutcome import OperationOutcome

from domain.errors import PeerRefused, VeraiconError
from fhir_adapter.codes import ISSUE_TYPES
from fhir_adapter.outcomes import error_classes, from_outcome, http_status, to_outcome
from fhir_adapter.server.answers import refused_by_outcome, require_bundle, require_success, written_references

CLASSES = list(error_classes())


@pytest.mark.requirement("FHIR-RES-002")
@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_each_error_renders_its_own_outcome_and_is_known_again(kind):
    error = kind("a thing", allowed="another", action="do this")
    outcome = to_outcome(error)
    OperationOutcome.model_validate(outcome)
    assert outcome["issue"][0]["code"] in ISSUE_TYPES
    assert 400 <= http_status(error) < 600
    again = from_outcome(json.loads(json.dumps(outcome)), status=http_status(error), action="wait")
    assert type(again) is kind
    assert "a thing" not in str(again)


def test_no_two_classes_share_a_code():
    assert len({kind.code for kind in CLASSES}) == len(CLASSES)


def test_words_of_another_server_are_never_repeated():
    outcome = {
        "resourceType": "OperationOutcome",
        "issue": [
            {"severity": "error", "code": "not-found", "diagnostics": "no JOHN DOE", "details": {"text": "JOHN DOE"}},
            {"severity": "JOHN", "code": "DOE", "details": {"coding": [{"system": "http://x", "code": "DOE"}]}},
        ],
    }
    error = from_outcome(outcome, status=404, action="look")
    assert type(error) is PeerRefused
    assert "error/not-found, unknown/unknown" in str(error)
    assert "JOHN" not in str(error)
    assert "DOE" not in str(error)


@pytest.mark.parametrize("outcome", [{}, {"issue": "x"}, {"issue": [None]}, {"issue": [{"details": {"coding": "x"}}]}])
def test_a_malformed_outcome_is_still_a_refusal(outcome):
    assert type(from_outcome(outcome, status=500, action="look")) is PeerRefused


def test_a_peer_that_claims_our_own_codes_stays_a_peer():
    own = next(kind for kind in CLASSES if kind.__name__ == "ConsentMissing")
    error = refused_by_outcome(403, to_outcome(own("x", allowed="y", action="z")))
    assert type(error) is PeerRefused


@pytest.mark.parametrize(
    ("status", "content", "words"),
    [
        (401, b"", "token"),
        (403, b"{}", "scope"),
        (404, b"<html>JOHN DOE</html>", "an HTML page"),
        (200, b"<!DOCTYPE html><p>Sign in", "an HTML page"),
        (200, b'{"resourceType": "Patient", "id": ', "cut off"),
        (200, b'["Patient"]', "no resource"),
        (200, b"", "an empty body"),
        (302, b"", "HTTP status 302"),
    ],
)
def test_an_answer_that_is_no_resource_is_named_and_not_repeated(status, content, words):
    with pytest.raises(VeraiconError, match=words) as caught:
        require_success(status, content)
    assert "JOHN" not in str(caught.value)
    assert caught.type.__name__ == ("PeerRefused" if status >= 400 else "PeerAnswerInvalid")


def test_another_kind_of_bundle_is_refused():
    with pytest.raises(VeraiconError, match="type history"):
        require_bundle({"resourceType": "Bundle", "type": "history"}, "searchset")


@pytest.mark.parametrize(
    "answers",
    [
        [],
        [{"response": {"status": "404 Not Found"}}],
        [{"response": {"status": "201 Created"}}],
        [{"response": {"status": "created", "location": "Patient/1"}}],
        [{}],
    ],
)
def test_a_transaction_response_that_does_not_say_what_was_written_is_invalid(answers):
    asked = {"entry": [{"request": {"method": "POST", "url": "Patient"}}]}
    with pytest.raises(VeraiconError, match="from the FHIR server"):
        written_references(asked, {"entry": answers})
