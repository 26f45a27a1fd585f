from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import PatientMismatch
from domain.identifiers import PatientIdentifier, SeriesUid, StudyUid
from domain.pairing import ACCESSION, ORDER, STUDY_UID, PatientCandidate, Pointer, choose_patient
from domain.series import ImagingSeries

_SYSTEMS = st.sampled_from(["", "http://a.example", "http://b.example"])
_VALUES = st.sampled_from(["1", "2", "3"])
_IDENTIFIERS = st.builds(PatientIdentifier, _VALUES, _SYSTEMS)
_CANDIDATES = st.lists(
    st.builds(
        PatientCandidate,
        st.integers(0, 10_000).map(lambda number: f"Patient/{number}"),
        st.lists(_IDENTIFIERS, min_size=1, max_size=3).map(tuple),
        st.sampled_from([None, "1980-01-01", "1990-01-01"]),
        st.sampled_from([None, "male", "female"]),
    ),
    max_size=4,
    unique_by=lambda candidate: candidate.reference,
)


def _series(identifier: PatientIdentifier, birth_date: str | None = None, sex: str | None = None) -> ImagingSeries:
    return ImagingSeries(StudyUid("1.2"), SeriesUid("1.3"), identifier, "MR", None, (), birth_date=birth_date, sex=sex)


@given(_IDENTIFIERS, _CANDIDATES, st.sampled_from([None, "1980-01-01"]), st.sampled_from([None, "male"]), st.randoms())
def test_a_pairing_carries_the_identifier_alone_and_never_depends_on_the_order(
    identifier: PatientIdentifier, candidates: list[PatientCandidate], birth_date: str | None, sex: str | None, rng: object
) -> None:
    def outcome(given_candidates: list[PatientCandidate]) -> str | None:
        try:
            return choose_patient(_series(identifier, birth_date, sex), given_candidates)[0].reference
        except PatientMismatch:
            return None

    chosen = outcome(candidates)
    shuffled = list(candidates)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert outcome(shuffled) == chosen
    carrying = [
        candidate
        for candidate in candidates
        if any(one.value == identifier.value and identifier.system in ("", one.system) for one in candidate.identifiers)
    ]
    if chosen is not None:
        assert [candidate.reference for candidate in carrying] == [chosen]
        assert carrying[0].birth_date in (None, birth_date) or birth_date is None
        assert carrying[0].sex in (None, sex) or sex is None


def test_same_name_is_no_evidence_and_the_error_holds_no_identifier() -> None:
    series = _series(PatientIdentifier("SECRET-77", "http://a.example"))
    other = PatientCandidate("Patient/1", (PatientIdentifier("SECRET-77", "http://b.example"),))
    with pytest.raises(PatientMismatch) as refused:
        choose_patient(series, [other])
    assert "SECRET-77" not in str(refused.value)
    assert "SECRET-77" not in repr(series.patient)


def test_birth_date_speaks_against_but_its_absence_says_nothing() -> None:
    identifier = PatientIdentifier("1", "http://a.example")
    patient = PatientCandidate("Patient/1", (identifier,), birth_date="1980-01-01")
    assert choose_patient(_series(identifier), [patient])[0] is patient
    with pytest.raises(PatientMismatch, match="birth date"):
        choose_patient(replace(_series(identifier), birth_date="1980-01-02"), [patient])


_POINTERS = st.lists(
    st.builds(Pointer, st.sampled_from([STUDY_UID, ACCESSION, ORDER]), st.sampled_from(["", "Patient/1", "Patient/2"])),
    max_size=4,
)
_PEOPLE = st.lists(
    st.builds(
        PatientCandidate,
        st.sampled_from(["Patient/1", "Patient/2", "Patient/3"]),
        st.lists(_IDENTIFIERS, max_size=2).map(tuple),
        st.sampled_from([None, "1980-01-01"]),
    ),
    max_size=3,
    unique_by=lambda candidate: candidate.reference,
)
_ACCEPTED = st.sets(st.sampled_from([STUDY_UID, ACCESSION, ORDER]))


def _outcome(
    identifier: PatientIdentifier, people: list[PatientCandidate], pointers: list[Pointer], accept: set[str]
) -> str | None:
    try:
        return choose_patient(_series(identifier, "1980-01-01"), people, pointers, accept=accept)[0].reference
    except PatientMismatch:
        return None


@pytest.mark.requirement("FHIR-PAIR-001")
@given(_IDENTIFIERS, _PEOPLE, _POINTERS, _ACCEPTED, st.randoms())
def test_order_and_repetition_never_change_who_is_paired(
    identifier: PatientIdentifier, people: list[PatientCandidate], pointers: list[Pointer], accept: set[str], rng: Random
) -> None:
    shuffled_people, shuffled_pointers = people * 2, pointers * 2
    rng.shuffle(shuffled_people)
    rng.shuffle(shuffled_pointers)
    expected = _outcome(identifier, people, pointers, accept)
    assert _outcome(identifier, shuffled_people, shuffled_pointers, accept) == expected


@pytest.mark.requirement("FHIR-PAIR-001")
@given(_IDENTIFIERS, _PEOPLE, _POINTERS, _ACCEPTED, st.data())
def test_a_part_of_the_evidence_never_pairs_another_patient_than_the_whole(
    identifier: PatientIdentifier,
    people: list[PatientCandidate],
    pointers: list[Pointer],
    accept: set[str],
    data: st.DataObject,
) -> None:
    chosen = _outcome(identifier, people, pointers, accept)
    part = data.draw(st.lists(st.sampled_from(pointers), unique=True)) if pointers else []
    some = data.draw(st.lists(st.sampled_from(people), unique_by=lambda person: person.reference)) if people else []
    of_part = _outcome(identifier, some, part, accept)
    if chosen is not None:
        assert of_part in (None, chosen)


@pytest.mark.requirement("FHIR-PAIR-001")
@given(_IDENTIFIERS, _PEOPLE, _POINTERS, _ACCEPTED, st.sampled_from([STUDY_UID, ACCESSION, ORDER]))
def test_evidence_of_another_patient_never_leaves_a_pairing_standing(
    identifier: PatientIdentifier, people: list[PatientCandidate], pointers: list[Pointer], accept: set[str], kind: str
) -> None:
    chosen = _outcome(identifier, people, pointers, accept)
    if chosen is not None:
        assert _outcome(identifier, people, [*pointers, Pointer(kind, "Patient/else")], accept) is None
        assert _outcome(identifier, people, [*pointers, Pointer(kind, "")], accept) is None
        again = PatientCandidate("Patient/else", (identifier,))
        carries = any(one.value == identifier.value and identifier.system in ("", one.system)
                      for person in people if person.reference == chosen for one in person.identifiers)  # fmt: skip
        assert _outcome(identifier, [*people, again], pointers, accept) is None or not carries
