"""The committed CapabilityStatement is the one that the code makes, and valid before validators that others wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fhir_adapter.json_text import write_json
from tests.peers.fhir_validators import validate
from veraicon.api.metadata import statement_of
from veraicon.settings import load_settings
from veraicon.wiring import open_site

STATEMENT = Path(__file__).parent / "capability_statement.json"
BASE = "http://127.0.0.1:8080/fhir"
RENEW = "in an empty folder: veraicon conformance fhir > REPOSITORY/conformance/capability_statement.json"


def made(folder, **settings):
    with open_site(load_settings(storage={"folder": str(folder)}, **settings)) as site:
        return json.loads(write_json(statement_of(site, BASE)))


@pytest.mark.requirement("FHIR-FACE-001")
def test_the_committed_statement_is_the_one_that_the_code_makes(tmp_path):
    committed = json.loads(STATEMENT.read_text(encoding="utf-8"))
    of_the_moment = {name: committed[name] for name in ("implementation", "date")}
    assert committed == made(tmp_path) | of_the_moment, RENEW


@pytest.mark.requirement("FHIR-FACE-001")
@pytest.mark.peer("fhir-validators")
@pytest.mark.parametrize("settings", [{}, {"fhir": {"base_url": "http://127.0.0.1:9/fhir"}}], ids=["own store", "a server"])
def test_the_statement_is_valid_with_and_without_a_store_of_our_own(tmp_path, settings):
    statement = made(tmp_path, **settings)
    fhirkit = pytest.importorskip("fhirkit", reason="FHIR validator not here: PyPI fhirkit-rs")
    assert [issue for issue in fhirkit.validate(statement) if issue.severity == "error"] == []
    for one in slices(statement):
        assert validate(one) == []


def slices(statement):
    """Yield the statement with one item of each list: pyfhircheck counts what is nested in a list over all of its items."""
    rest = statement["rest"][0]
    told = {json.dumps(one | {"type": ""}): one for one in rest["resource"]}
    for resource in told.values():
        longest = max([1, *(len(value) for value in resource.values() if isinstance(value, list))])
        for place in range(longest):
            yield statement | {"rest": [at(place, rest) | {"resource": [at(place, resource)]}]}


def at(place, holder):
    return {name: [value[min(place, len(value) - 1)]] if isinstance(value, list) else value for name, value in holder.items()}
