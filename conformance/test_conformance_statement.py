"""The committed conformance statement is the one that the code prints."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dicom_node.conformance.document import to_data, to_markdown
from dicom_node.conformance.statement import statement
from provenance.signing import SigningKey
from tests.builders_objects import signed_objects, written_objects
from veraicon.conformance import facts_of, private_block
from veraicon.settings import Settings

STATEMENT = Path(__file__).parent / "dicom_conformance_statement.md"
RENEW = "cd to an empty folder, and there: veraicon conformance dicom > REPOSITORY/conformance/dicom_conformance_statement.md"


@pytest.fixture(autouse=True)
def _default_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VERAICON_")]:
        monkeypatch.delenv(name)


@pytest.mark.requirement("DICOM-CS-001")
def test_the_committed_statement_is_the_one_that_the_code_prints() -> None:
    printed = to_markdown(statement(facts_of(Settings())))
    committed = STATEMENT.read_text(encoding="utf-8")
    pairs = zip(committed.splitlines(), printed.splitlines(), strict=False)
    different = next((number for number, (old, new) in enumerate(pairs, start=1) if old != new), None)
    assert committed == printed, f"the statement is out of date from line {different}; read the change, then renew it: {RENEW}"


@pytest.mark.requirement("DICOM-CS-001")
def test_the_values_of_a_site_stand_in_its_own_statement() -> None:
    settings = Settings(
        node={
            "ae_title": "HOSPITAL_SYN",
            "port": 0,
            "tls_port": 2762,
            "tls_certificate": "a",
            "tls_key": "b",
            "tls_client_ca": "c",
        },
        sources=[{"name": "ct", "ae_title": "CT1"}],
    )
    document = to_data(statement(facts_of(settings)))
    rows = {row["Parameter"]: row["Value"] for row in document["sections"][5]["tables"][0]["rows"]}
    assert (rows["AE title"], rows["Port without TLS"], rows["Port over TLS"]) == ("HOSPITAL_SYN", "none", "2762")
    assert rows["Peers that may call"] == "1 listed"
    assert "listens on port 2762; a caller has to show a certificate" in str(document["sections"][7])


@pytest.mark.requirement("DICOM-CS-004")
def test_the_private_block_is_the_one_that_published_instances_have() -> None:
    block, (ds, *_) = private_block(), signed_objects(SigningKey.generate(), written_objects())
    elements = [element for element in ds if element.tag.group == block.group]
    assert [element.value for element in elements if element.tag.element < 0x100] == [block.creator]
    assert [(element.tag.element & 0xFF, element.VR) for element in elements if element.tag.element > 0xFF] == [
        (one.element, one.vr) for one in block.elements
    ]
