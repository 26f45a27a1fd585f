"""Requests that a person or a program makes, beside the site's rule for each series that settles."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from dicom_node.archive import Archive
from dicom_node.holding.files import series_digest
from domain.clinical import ClinicalFact, Coding
from domain.errors import RequestInvalid
from domain.generation import GenerationRequest
from domain.identifiers import require_uid
from multimodal.concepts import MEASUREMENT_SYSTEM
from veraicon.sections import GenerationSettings


def asked_fact(kind: str, value: float, unit: str = "mm3") -> ClinicalFact:
    """Return a value that someone asks for, as a fact that stands above the EHR's."""
    return ClinicalFact((Coding(MEASUREMENT_SYSTEM, kind),), kind, value, unit, None, "request")


def parse_asked(texts: Sequence[str]) -> tuple[ClinicalFact, ...]:
    """Read ``concept=value`` or ``concept=value unit`` as the command line gives it.

    Raises
    ------
    RequestInvalid
        If a text has another form.

    Examples
    --------
    >>> [(fact.text, fact.value, fact.unit) for fact in parse_asked(["hippocampus-volume=3.1 cm3"])]
    [('hippocampus-volume', 3.1, 'cm3')]
    """
    facts = []
    for text in texts:
        kind, _, rest = text.partition("=")
        number, _, unit = rest.strip().partition(" ")
        try:
            facts.append(asked_fact(kind.strip(), float(number), unit.strip() or "mm3"))
        except ValueError as error:
            raise RequestInvalid(
                found="an asked value that is not of the form concept=number",
                allowed="hippocampus-volume=3100 or 'hippocampus-volume=3.1 cm3' (UCUM unit; mm3 where none is given)",
                action="correct --ask",
            ) from error
    return tuple(facts)


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
