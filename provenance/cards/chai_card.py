"""A `ModelCard` as an Applied Model Card of the Coalition for Health AI, in XML.

Every element that the schema requires is there; where the card says nothing it holds that nothing is known.

References
----------
CHAI Applied Model Card schema v0.2 (2025): element names, their order, and the forms of ``ValueJson``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TypeAlias
from xml.etree import ElementTree as ET

from domain.model_card import Measurement, ModelCard
from provenance.cards.markdown_card import NOT_KNOWN, bullets, input_rows, output_rows, training_rows

NAMESPACE = "https://mc.chai.org/v0.2/schema.xsd"
MEDIA_TYPE = "application/xml"

# An element is its name and either text or further elements, in the order of the schema.
_Tree: TypeAlias = "Sequence[tuple[str, str | _Tree]]"

# XML 1.0 section 2.2: characters that no document may hold, not even escaped.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def to_chai_xml(card: ModelCard) -> bytes:
    """Return the card as XML, UTF-8; the same card gives the same bytes."""
    content: _Tree = (
        ("BasicInfo", (("ModelName", card.name), ("ModelDeveloper", NOT_KNOWN), ("DeveloperContact", NOT_KNOWN))),
        ("ReleaseInfo", _release(card)),
        ("ModelSummary", (("Summary", card.summary), ("Keywords", _keywords(card)))),
        ("UsesAndDirections", _uses(card)),
        ("Warnings", _warnings(card)),
        ("TrustIngredients", (("AISystemFacts", _system_facts(card)), ("TransparencyInformation", _transparency(card)))),
        ("KeyMetrics", _key_metrics(card)),
        ("Resources", (("PeerReviewedPublications", NOT_KNOWN), ("PatientConsentOrDisclosure", NOT_KNOWN))),
        ("Bibliography", ""),
    )
    root = ET.Element("AppliedModelCard", xmlns=NAMESPACE)
    _fill(root, content)
    ET.indent(root)
    text: str = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode()


def _fill(parent: ET.Element, content: _Tree) -> None:
    for name, value in content:
        element = ET.SubElement(parent, name)
        if isinstance(value, str):
            element.text = _FORBIDDEN.sub(" ", value.strip())
        else:
            _fill(element, value)


def _release(card: ModelCard) -> _Tree:
    return (
        ("ReleaseStage", NOT_KNOWN),
        ("ReleaseDate", NOT_KNOWN),
        ("ReleaseVersion", card.version),
        ("GlobalAvailability", NOT_KNOWN),
    )


def _keywords(card: ModelCard) -> _Tree:
    words = ("synthetic data", card.family, card.limits.modality, *(concept.kind for concept in card.concepts))
    return tuple(("Keyword", word) for word in words)


def _uses(card: ModelCard) -> _Tree:
    return (
        ("IntendedUseAndWorkflow", card.intended_use),
        ("PrimaryIntendedUsers", NOT_KNOWN),
        ("HowToUse", "Trained ranges; outside them a request is refused.\n\n" + _pairs(input_rows(card))),
        ("TargetedPatientPopulation", NOT_KNOWN),
        ("CautionedOutOfScopeSettings", card.out_of_scope),
    )


def _warnings(card: ModelCard) -> _Tree:
    return (
        ("KnownRisksAndLimitations", bullets(card.known_failures)),
        ("KnownBiasesOrEthicalConsiderations", NOT_KNOWN),
        ("ClinicalRiskLevel", NOT_KNOWN),
    )


def _system_facts(card: ModelCard) -> _Tree:
    return (
        ("OutcomesAndOutputs", f"{card.summary.strip()}\n\n{_pairs(output_rows(card))}"),
        ("ModelType", card.family),
        ("InputDataSource", bullets(card.data_sources)),
        ("OutputAndInputDataTypes", _pairs(input_rows(card))),
        ("DevelopmentDataCharacterization", f"{bullets(card.data_sources)}\n\n{_pairs(training_rows(card))}"),
        ("BiasMitigationApproaches", NOT_KNOWN),
        ("OngoingMaintenance", NOT_KNOWN),
        ("Transparency", f"The weights are the file with the digest `{card.weights_digest}`."),
    )


def _transparency(card: ModelCard) -> _Tree:
    return (
        ("FundingSource", NOT_KNOWN),
        ("ThirdPartyInformation", f"Licence: {card.licence.strip()}\n\n{card.attribution.strip()}"),
        ("StakeholdersConsulted", NOT_KNOWN),
    )


def _key_metrics(card: ModelCard) -> _Tree:
    splits = ", ".join(dict.fromkeys(figure.split for figure in card.measured)) or NOT_KNOWN
    chosen_on = dict(card.training).get("chosen on", NOT_KNOWN)
    usefulness: _Tree = (
        ("MetricGoal", "What the model makes, measured; each figure names its cases and the split that they are of."),
        ("Results", _results(card.measured)),
        ("Interpretation", bullets(card.known_failures)),
        ("TestType", NOT_KNOWN),
        ("TestingDataDescription", splits),
        ("ValidationProcessAndJustification", f"Chosen on: {chosen_on}"),
    )
    return (
        ("UsefulnessUsabilityEfficacy", usefulness),
        ("FairnessEquity", _unmeasured("fairness")),
        ("SafetyReliability", _unmeasured("clinical safety")),
    )


def _results(measured: Sequence[Measurement]) -> _Tree:
    figures = [(f"{figure.name} (n={figure.n}, {figure.split})", _value_json(figure)) for figure in measured]
    return tuple(("MetricResult", (("Label", label), ("ValueJson", value))) for label, value in figures) or _no_result()


def _value_json(figure: Measurement) -> str:
    unit = {} if figure.unit in {"", "1"} else {"unit": figure.unit}
    if figure.interval is None:
        return json.dumps({"kind": "single", "value": figure.value} | unit)
    bounds = {"lower": figure.interval.low, "upper": figure.interval.high, "level": figure.interval.level}
    return json.dumps({"kind": "estimate_ci", "estimate": figure.value} | bounds | unit)


def _unmeasured(what: str) -> _Tree:
    return (
        ("MetricGoal", f"None: {what} was not measured."),
        ("Results", _no_result()),
        ("Interpretation", f"Nothing can be said about {what}."),
        ("TestType", NOT_KNOWN),
        ("TestingDataDescription", NOT_KNOWN),
        ("ValidationProcessAndJustification", NOT_KNOWN),
    )


def _no_result() -> _Tree:
    """The schema asks for one result at least, and no form of it says "none": a null value is no number that could mislead."""
    return (("MetricResult", (("Label", "Not measured"), ("ValueJson", json.dumps({"kind": "single", "value": None})))),)


def _pairs(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in rows)
