"""Requests that a person or a program makes, beside the site's rule for each series that settles."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import get_args

from dicom_node.archive import Archive
from dicom_node.holding.files import series_digest
from domain.clinical import ClinicalFact, Coding
from domain.errors import RequestInvalid
from domain.generation import GenerationRequest, Guidance, Modality
from domain.identifiers import require_uid
from multimodal.concepts import CONCEPTS, MEASUREMENT_SYSTEM, Concept
from veraicon.sections import GenerationSettings


def asked_fact(kind: str, value: float | str, unit: str = "") -> ClinicalFact:
    """Return a value or an answer that someone asks for, as a fact that stands above the EHR's.

    Parameters
    ----------
    unit : str
        UCUM; empty for the concept's own, mm3 where there is no such concept.
    """
    concept = _concept(kind)
    if not unit and not isinstance(value, str):
        unit = concept.unit if concept is not None else "mm3"
    return ClinicalFact((Coding(MEASUREMENT_SYSTEM, kind),), kind, value, unit, None, "request")


def parse_asked(texts: Sequence[str]) -> tuple[ClinicalFact, ...]:
    """Read ``concept=value``, ``concept=value unit`` or, of a coded concept, ``concept=answer`` as the command line gives it.

    Raises
    ------
    RequestInvalid
        If a text has another form.

    Examples
    --------
    >>> [(fact.text, fact.value, fact.unit) for fact in parse_asked(["hippocampus-volume=3.1 cm3"])]
    [('hippocampus-volume', 3.1, 'cm3')]
    >>> [(fact.text, fact.value, fact.unit) for fact in parse_asked(["nihss=12", "sex=female"])]
    [('nihss', 12.0, '{score}'), ('sex', 'female', '')]
    """
    return tuple(_parse_one(text) for text in texts)


def parse_guidance(texts: Sequence[str]) -> Guidance | None:
    """Read one weight for all, or ``modality=weight`` of each as the command line gives it; None where nothing is given.

    Raises
    ------
    RequestInvalid
        If a text has another form. Which modalities and weights there are, the generator knows.

    Examples
    --------
    >>> parse_guidance(["2"]), parse_guidance(["prior-image=2", "report=1.5"]), parse_guidance([])
    (2.0, {'prior-image': 2.0, 'report': 1.5}, None)
    """
    try:
        if len(texts) == 1 and "=" not in texts[0]:
            return float(texts[0])
        return {name.strip(): float(weight) for name, _, weight in (text.partition("=") for text in texts)} or None
    except ValueError as error:
        raise RequestInvalid(
            found="a guidance that is neither a number nor modality=number",
            allowed=f"--guidance 2, or --guidance prior-image=2; modalities: {', '.join(get_args(Modality))}",
            action="correct --guidance",
        ) from error


def _parse_one(text: str) -> ClinicalFact:
    kind, _, rest = (part.strip() for part in text.partition("="))
    concept = _concept(kind)
    if concept is not None and concept.answers and rest in concept.answers:
        return asked_fact(kind, rest)
    number, _, unit = rest.partition(" ")
    try:
        return asked_fact(kind, float(number), unit.strip())
    except ValueError as error:
        raise RequestInvalid(
            found="an asked value that is neither concept=number nor concept=answer",
            allowed=", ".join(concept.answers)
            if concept is not None and concept.answers
            else "hippocampus-volume=3100 or 'hippocampus-volume=3.1 cm3' (UCUM unit; the concept's own where none is given)",
            action="correct --ask",
        ) from error


def _concept(kind: str) -> Concept | None:
    return next((concept for concept in CONCEPTS if concept.kind == kind), None)


def request_from(
    archive: Archive,
    series_uid: str,
    settings: GenerationSettings,
    *,
    requested_by: str,
    seed: int | None = None,
    asked: tuple[ClinicalFact, ...] = (),
) -> GenerationRequest:
    """Return a new request for one volume from a series as it is held now.

    Its id is its own; the seed derives from the id where none is given.

    Raises
    ------
    UnreadableInstance
        If the archive does not hold the series.
    """
    series = archive.series(require_uid(series_uid, attribute="SeriesInstanceUID"))
    identity = uuid.uuid4()
    return GenerationRequest(
        request_id=str(identity),
        series_uid=series.series_uid,
        series_digest=series_digest(instance.digest for instance in series.instances),
        model=settings.model,
        seed=identity.int % 2**31 if seed is None else seed,
        guidance=settings.guidance,
        sampler_steps=settings.sampler_steps,
        requested_at=datetime.now(UTC),
        requested_by=requested_by,
        asked=asked,
    )
