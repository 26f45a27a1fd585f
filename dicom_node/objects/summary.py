"""What a person reads beside a generated volume: the same words as an encapsulated PDF or as a structured report.

No clinical value is told: of each target only its kind, as in the signed statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dicom_node.objects.common import NOT_FOR_CLINICAL_USE
from domain.findings import Finding
from domain.generation import GeneratedVolume, guidance_text

TITLE = "Summary of a synthetic volume"


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and its lines; each line is a name and a text."""

    heading: str
    lines: tuple[tuple[str, str], ...]


def summary_sections(generated: GeneratedVolume, findings: Sequence[Finding], request_id: str) -> tuple[Section, ...]:
    """Return the content of the summary: use, model, request, volume, quality findings.

    Parameters
    ----------
    findings : sequence of Finding
        Of the quality gates that the volume passed.
    """
    quality = ((one.check, f"{one.outcome.value}. {one.statement} Allowed: {one.allowed}") for one in findings)
    return (
        Section("Use", (("Notice", f"This volume is {NOT_FOR_CLINICAL_USE}. It shows no real person."),)),
        Section("Model", _model(generated)),
        Section("Request", _request(generated, request_id)),
        Section("Volume", _volume(generated)),
        Section("Quality", tuple(quality)),
    )


def _model(generated: GeneratedVolume) -> tuple[tuple[str, str], ...]:
    model = generated.model
    return (
        ("Name", f"{model.name} {model.version}"),
        ("Licence", model.licence),
        ("Weights", model.weights_digest),
        ("Card", model.card_digest),
    )


def _request(generated: GeneratedVolume, request_id: str) -> tuple[tuple[str, str], ...]:
    told = generated.conditioning
    return (
        ("Request", request_id),
        ("Targets", ", ".join(kind for kind, _value, _unit in told.targets) or "none"),
        ("Conditioned on", ", ".join(told.used) or "nothing"),
        ("Not known", ", ".join(told.missing) or "nothing"),
        ("Seed", str(generated.seed)),
        ("Sampler", f"{generated.sampler}, {generated.sampler_steps} steps, guidance {guidance_text(generated.guidance)}"),
    )


def _volume(generated: GeneratedVolume) -> tuple[tuple[str, str], ...]:
    volume = generated.volume
    return (
        ("Modality", volume.modality),
        ("Voxels", " x ".join(str(length) for length in volume.shape) + " (slice, row, column)"),
        ("Spacing", " x ".join(f"{mm:.4g}" for mm in volume.spacing_mm) + " mm"),
    )
