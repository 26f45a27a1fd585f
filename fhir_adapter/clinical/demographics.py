"""What a Patient resource says of the person: birth, death, sex; and what it does not say. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

from domain.errors import PeerAnswerInvalid
from fhir_adapter.codes import GENDERS
from fhir_adapter.moments import Moment, parse_moment


@dataclass(frozen=True, slots=True)
class Lifetime:
    """The moments between which something can have been true of a patient; None where the record does not say."""

    birth: Moment | None = None
    death: Moment | None = None

    def excludes(self, moment: Moment | None) -> str:
        """Return why a moment cannot be, in words; empty where it can, or where days do not decide.

        Compared by the day: a partial date is out of the lifetime only where all of it is.
        """
        if moment is None:
            return ""
        last_day = moment.last_day or moment.start.date()
        if self.birth is not None and last_day < self.birth.start.date():
            return "before the patient's birth"
        if self.death is not None:
            death_day = self.death.last_day or self.death.start.date()
            if moment.start.date() > death_day:
                return "after the patient's death"
        return ""


def demographics(patient: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return birth date and sex of a Patient.

    A birth date of less than a day's precision and the gender ``unknown`` are None: they could only contradict by accident.

    Raises
    ------
    PeerAnswerInvalid
        If the element is malformed.
    """
    birth_date, gender = patient.get("birthDate"), patient.get("gender")
    try:
        if birth_date is not None and parse_moment(birth_date, None).last_day is None:
            raise ValueError("a birth date with a time")
    except ValueError as error:
        raise _invalid("a Patient.birthDate that is no date") from error
    if gender is not None and (not isinstance(gender, str) or gender not in GENDERS):
        raise _invalid("a Patient.gender outside its value set")
    return birth_date if birth_date and len(birth_date) == len("2000-01-01") else None, None if gender == "unknown" else gender


def lifetime(patient: Mapping[str, Any], zone: tzinfo | None) -> Lifetime:
    """Return when a Patient was born and died.

    Raises
    ------
    PeerAnswerInvalid
        If a date is malformed.
    """
    try:
        birth, death = (
            parse_moment(patient[name], zone) if patient.get(name) is not None else None
            for name in ("birthDate", "deceasedDateTime")
        )
    except ValueError as error:
        raise _invalid("a Patient with a birth or death that is no date") from error
    return Lifetime(birth, death)


def missing_demographics(patient: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a Patient does not say, in words.

    Examples
    --------
    >>> missing_demographics({"birthDate": "1950", "gender": "female"})
    ('Patient: no birth date to the day',)
    """
    birth_date, sex = demographics(patient)
    words = []
    if birth_date is None:
        words.append("Patient: no birth date" if patient.get("birthDate") is None else "Patient: no birth date to the day")
    if sex is None:
        words.append("Patient: no sex")
    return tuple(words)


def _invalid(found: str) -> PeerAnswerInvalid:
    return PeerAnswerInvalid(
        found=found,
        allowed="resources of one patient as FHIR R4 defines them",
        action="correct the data on the FHIR server, then retry the job",
    )
