"""Model cards as they are published, before outside judges: FHIR validators, and the bytes that the Device leads to."""

from __future__ import annotations

import base64

import pytest

from generators.cards import encode_card
from provenance.cards.chai_card import to_chai_xml
from provenance.cards.markdown_card import to_markdown
from provenance.digests import resource_digest
from provenance.signing import SigningKey
from tests.builders_provenance import publish
from tests.builders_quality import make_card
from tests.peers.fhir_validators import validate

PUBLISHED = publish(SigningKey.generate())
BY_REFERENCE = {f"{one['resourceType']}/{one['id']}": one for one in PUBLISHED.resources}


@pytest.mark.requirement("PROV-CARD-005")
def test_the_device_leads_to_its_card_in_each_form_and_the_attestation_holds_their_digests() -> None:
    device = PUBLISHED.resource("Device")
    about = f"Device/{device['id']}"
    references = [name for name, one in BY_REFERENCE.items() if one.get("subject", {}).get("reference") == about]
    assert all(reference in device["note"][1]["text"] for reference in references)
    documents = [BY_REFERENCE[reference] for reference in references]
    assert [one["category"][0]["coding"][0]["code"] for one in documents] == [
        "AIModelCardMarkdownFormat",
        "AImodelCardCHAIformat",
    ]
    contents = {
        attachment["contentType"]: base64.b64decode(attachment["data"])
        for one in documents
        for attachment in (content["attachment"] for content in one["content"])
    }
    card = make_card()
    assert contents["text/markdown"] == to_markdown(card).encode()
    assert contents["application/json"] == encode_card(card)
    assert contents["application/xml"] == to_chai_xml(card)
    attested = {one.reference: one.digest for one in PUBLISHED.attestation.resources}
    for reference in references:
        assert attested[reference] == resource_digest(BY_REFERENCE[reference])


@pytest.mark.requirement("PROV-CARD-005")
@pytest.mark.peer("fhir-validators")
@pytest.mark.parametrize("kind", ["Device", "DocumentReference"])
def test_validators_take_the_device_and_its_cards(kind: str) -> None:
    for resource in (one for one in PUBLISHED.resources if one["resourceType"] == kind):
        # The code is younger than the snapshot of v3-ObservationValue in R4's own definitions.
        assert [error for error in validate(resource) if "Code 'AIAST' is not valid in code system" not in error] == []
