from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from domain.model_card import Interval, Measurement, ModelCard
from generators.cards import bundle_folder, encode_card, read_card, write_card
from provenance.cards import card_json
from provenance.cards.chai_card import NAMESPACE, to_chai_xml
from provenance.cards.markdown_card import NOT_KNOWN, to_markdown
from tests.builders_quality import make_card
from veraicon.evaluation.carding import known_failures

_METRIC = ("MetricGoal", "Results", "Interpretation", "TestType", "TestingDataDescription", "ValidationProcessAndJustification")
# What CHAI Applied Model Card v0.2 requires, in its order; a name with "?" may be left out. Written from its documentation as
# facts, so that the structure is checked where the schema itself is not at hand.
STRUCTURE = {
    "AppliedModelCard": (
        "BasicInfo", "ReleaseInfo", "ModelSummary", "UsesAndDirections", "Warnings", "TrustIngredients", "KeyMetrics",
        "Resources", "Bibliography",
    ),
    "BasicInfo": ("ModelName", "ModelDeveloper", "DeveloperContact"),
    "ReleaseInfo": (
        "ReleaseStage", "ReleaseDate", "ReleaseVersion", "GlobalAvailability", "EHRCompatibility?", "RegulatoryApproval?",
    ),
    "ModelSummary": ("Summary", "Keywords"),
    "UsesAndDirections": (
        "IntendedUseAndWorkflow", "PrimaryIntendedUsers", "HowToUse", "TargetedPatientPopulation", "CautionedOutOfScopeSettings",
    ),
    "Warnings": ("KnownRisksAndLimitations", "KnownBiasesOrEthicalConsiderations", "ClinicalRiskLevel"),
    "TrustIngredients": ("AISystemFacts", "TransparencyInformation"),
    "AISystemFacts": (
        "OutcomesAndOutputs", "ModelType", "FoundationModels?", "InputDataSource", "OutputAndInputDataTypes",
        "DevelopmentDataCharacterization", "BiasMitigationApproaches", "OngoingMaintenance", "Security?", "Transparency?",
    ),
    "TransparencyInformation": ("FundingSource", "ThirdPartyInformation?", "StakeholdersConsulted"),
    "KeyMetrics": ("UsefulnessUsabilityEfficacy", "FairnessEquity", "SafetyReliability"),
    "UsefulnessUsabilityEfficacy": _METRIC,
    "FairnessEquity": _METRIC,
    "SafetyReliability": _METRIC,
    "MetricResult": ("Label", "ValueJson"),
    "Resources": (
        "EvaluationReferences?", "ClinicalTrial?", "PeerReviewedPublications", "ReimbursementStatus?",
        "PatientConsentOrDisclosure",
    ),
}  # fmt: skip
REPEATED = {"Keywords": "Keyword", "Results": "MetricResult"}

_INTERVAL = Measurement("overlap", 0.91, "1", 20, "validation", Interval(0.85, 0.95, 95))
FULL = replace(
    make_card(),
    measured=(*make_card().measured, _INTERVAL),
    known_failures=("Fails < & > on \x0b odd input.",),
    summary="A & B",
)
SHIPPED = read_card(bundle_folder("hippocampus-t1"))
CARDS = {"shipped": SHIPPED, "full": FULL, "nothing measured": replace(make_card(), measured=(), training=(), data_sources=())}


def _tree(card: ModelCard) -> ET.Element:
    return ET.parse(io.BytesIO(to_chai_xml(card))).getroot()


def _name(element: ET.Element) -> str:
    return element.tag.removeprefix(f"{{{NAMESPACE}}}")


@pytest.mark.requirement("PROV-CARD-001")
@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_chai_xml_has_each_required_element_in_its_place_and_no_other(card: ModelCard) -> None:
    root = _tree(card)
    assert _name(root) == "AppliedModelCard"
    for element in root.iter():
        names = [_name(child) for child in element]
        if _name(element) in REPEATED:
            assert names
            assert set(names) == {REPEATED[_name(element)]}
            continue
        expected = STRUCTURE.get(_name(element), ())
        required = [name for name in expected if not name.endswith("?")]
        assert [name for name in names if name in required] == required, _name(element)
        allowed = iter(name.removesuffix("?") for name in expected)
        assert all(name in allowed for name in names), f"{_name(element)} holds {names}"


@pytest.mark.requirement("PROV-CARD-001")
@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_chai_xml_obeys_the_schema(card: ModelCard, data_folder: Callable[[str], Path]) -> None:
    """The schema lies beside the checkout where somebody put it: github.com/coalition-for-health-ai/mc-schema, v0.2/schema.xsd."""
    schema = data_folder("chai/v0.2/schema.xsd")
    xmlschema = pytest.importorskip("xmlschema", reason="XML Schema validator not here: PyPI xmlschema")
    xmlschema.XMLSchema(str(schema)).validate(io.BytesIO(to_chai_xml(card)))


@pytest.mark.requirement("PROV-CARD-002")
def test_figures_are_those_of_the_card_with_cases_split_and_interval() -> None:
    labels = [element.text for element in _tree(FULL).iter() if _name(element) == "Label"]
    values = [json.loads(element.text or "") for element in _tree(FULL).iter() if _name(element) == "ValueJson"]
    assert labels[:2] == ["volume correlation (n=20, validation)", "overlap (n=20, validation)"]
    assert values[0] == {"kind": "single", "value": 0.91}
    assert values[1] == {"kind": "estimate_ci", "estimate": 0.91, "lower": 0.85, "upper": 0.95, "level": 95}
    assert "| overlap | 0.91 | 0.85 to 0.95 (95%) | 20 | validation |" in to_markdown(FULL)


@pytest.mark.requirement("PROV-CARD-002")
def test_what_a_card_does_not_say_stays_not_known() -> None:
    texts = {_name(element): element.text for element in _tree(SHIPPED).iter()}
    for name in ("ModelDeveloper", "ReleaseDate", "FundingSource", "ClinicalRiskLevel", "BiasMitigationApproaches"):
        assert texts[name] == NOT_KNOWN
    bare = to_markdown(CARDS["nothing measured"])
    assert f"| seed | {NOT_KNOWN} |" in bare
    assert f"| data set digest | {NOT_KNOWN} |" in bare
    for title in ("Made from", "How it measured", "Known failures"):
        assert f"## {title}\n\n{NOT_KNOWN}" in bare


@pytest.mark.requirement("PROV-CARD-002")
def test_the_shipped_cards_failures_are_what_its_own_figures_say() -> None:
    assert SHIPPED.known_failures == known_failures(SHIPPED.measured)
    for failure in SHIPPED.known_failures:
        assert failure in to_markdown(SHIPPED)
        assert failure in to_chai_xml(SHIPPED).decode()


def test_entries_that_came_later_are_written_only_where_they_say_something(tmp_path: Path) -> None:
    """So an older card keeps its bytes and its digest; both encoders write the same."""
    old = encode_card(make_card())
    assert b"known_failures" not in old
    assert b"interval" not in old
    write_card(FULL, tmp_path)
    assert read_card(tmp_path) == FULL
    for card in (make_card(), FULL, SHIPPED):
        assert encode_card(card) == card_json.encode_card(card)
