"""Which of a concept's answers a coded value, a text or the mere presence of a fact is."""

from __future__ import annotations

from domain.clinical import ClinicalFact
from multimodal.concepts import ARTERIES, LOINC, PAST, SNOMED, YES_NO, Concept, side_of, words_of

_GENDER = "http://hl7.org/fhir/administrative-gender"
_V2_SEX = "http://terminology.hl7.org/CodeSystem/v2-0001"
_V3_GENDER = "http://terminology.hl7.org/CodeSystem/v3-AdministrativeGender"
_V2_YES_NO = "http://terminology.hl7.org/CodeSystem/v2-0136"

# LOINC answers, SNOMED CT findings and qualifiers, and the tables of HL7 v2 and v3.
_ANSWERS = {
    (_GENDER, "female"): "female",
    (_GENDER, "male"): "male",
    (LOINC, "LA3-6"): "female",
    (LOINC, "LA2-8"): "male",
    (SNOMED, "248152002"): "female",
    (SNOMED, "248153007"): "male",
    (_V2_SEX, "F"): "female",
    (_V2_SEX, "M"): "male",
    (_V3_GENDER, "F"): "female",
    (_V3_GENDER, "M"): "male",
    (LOINC, "LA33-6"): "yes",
    (LOINC, "LA32-8"): "no",
    (SNOMED, "373066001"): "yes",
    (SNOMED, "373067005"): "no",
    (_V2_YES_NO, "Y"): "yes",
    (_V2_YES_NO, "N"): "no",
}
# SNOMED CT body structures, as DICOM PS3.16 names them.
_ARTERIES = {
    (SNOMED, "60176003"): ARTERIES[0],
    (SNOMED, "17232002"): ARTERIES[1],
    (SNOMED, "70382005"): ARTERIES[2],
    (SNOMED, "59011009"): ARTERIES[3],  # basilar
    (SNOMED, "85234005"): ARTERIES[3],  # vertebral
}
_IDLE_WORDS = frozenset({"of", "the", "territory", "structure", "finding", "body", "side"})


def answer_of(fact: ClinicalFact, concept: Concept) -> str | None:
    """Return the answer of a concept that a fact gives, or None where it gives none of them.

    A denial is an answer only where the concept asks for yes or no: elsewhere it does not say what is so instead.

    Examples
    --------
    >>> from multimodal.concepts import CONCEPTS
    >>> territory = CONCEPTS[-1]
    >>> answer_of(ClinicalFact((), "", "Middle cerebral artery, left", "", None, ""), territory)
    'left middle cerebral artery'
    >>> answer_of(ClinicalFact((), "", "Middle cerebral artery", "", None, ""), territory) is None
    True
    """
    if concept.answers == YES_NO and (by_presence := _by_presence(fact)):
        return by_presence
    if fact.negated or not isinstance(fact.value, str):
        return None
    named = {_ANSWERS.get((one.system, one.code)) for one in fact.value_codings}
    named |= {f"{side_of(fact)} {artery}" for artery in _arteries_of(fact)}
    texts = [words_of(text) - _IDLE_WORDS for text in (fact.value, *(one.display for one in fact.value_codings))]
    found = [answer for answer in concept.answers if answer in named or words_of(answer) in texts]
    return found[0] if len(found) == 1 else None


def _by_presence(fact: ClinicalFact) -> str | None:
    """Return yes for a fact that is there, or once was, and no for one that is denied; None where a value decides."""
    if fact.negated or fact.value is False:
        return "no"
    return "yes" if fact.value is None or fact.value is True or fact.value in PAST else None


def _arteries_of(fact: ClinicalFact) -> set[str]:
    keys = {(one.system, one.code) for one in fact.value_codings}
    return {_ARTERIES[key] for key in keys if key in _ARTERIES}
