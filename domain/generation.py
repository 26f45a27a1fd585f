"""What someone asks us to make, and what the generator returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from domain.clinical import ClinicalFact
from domain.identifiers import SeriesUid
from domain.series import GeneratedSeries
from domain.volume import Volume

Modality = Literal["demographics", "clinical-facts", "report", "prior-image"]
"""What a model can be told from."""

Guidance = float | Mapping[str, float]
"""Weight of classifier-free guidance, 1 or more: one for all, or of each `Modality` by name (1 where it is not named)."""


def guidance_text(guidance: Guidance) -> str:
    """Return a guidance in words.

    Examples
    --------
    >>> guidance_text(2.0), guidance_text({"prior-image": 1.5, "clinical-facts": 3.0})
    ('2', 'clinical-facts 3, prior-image 1.5')
    """
    if isinstance(guidance, Mapping):
        return ", ".join(f"{name} {weight:g}" for name, weight in sorted(guidance.items()))
    return f"{guidance:g}"


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What someone asked us to make; its id names everything that follows from it.

    Attributes
    ----------
    series_digest : str
        ``sha256:`` over the sorted instance digests of the source series as it stood when the request was made.
    guidance : float or mapping of str to float
        See `Guidance`.
    sampler_steps : int
        Number of denoising steps; 0: as many as the model's card advises.
    asked : tuple of ClinicalFact
        Values that the requester asks for; they stand above the EHR's.
    draw : int
        1, and one more for each request that follows a rejected volume with another seed.
    order_id : str
        Order from outside that it was made for; empty where none was.
    """

    request_id: str
    series_uid: SeriesUid
    series_digest: str
    model: str
    seed: int
    guidance: Guidance
    sampler_steps: int
    requested_at: datetime
    requested_by: str
    asked: tuple[ClinicalFact, ...] = ()
    draw: int = 1
    order_id: str = ""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which network made a volume: name, version, digests of weights and card, licence."""

    name: str
    version: str
    weights_digest: str
    card_digest: str
    licence: str


@dataclass(frozen=True, slots=True)
class ConditioningRecord:
    """What the generator was told, for gates and provenance.

    Attributes
    ----------
    targets : tuple of (str, float, str)
        Concept, value and UCUM unit of each number that the volume has to obey.
    used : tuple of str
        Kinds of tokens that were present (``prior-image``, ``hippocampus-anterior-volume``).
    missing : tuple of str
        Kinds that the model knows and the context did not hold: masked, never filled in.
    """

    targets: tuple[tuple[str, float, str], ...]
    used: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExecutionEnvironment:
    """Software and hardware facts that decide the last bits of a volume."""

    software: tuple[tuple[str, str], ...]
    device: str
    threads: int
    instruction_set: str


@dataclass(frozen=True, eq=False)
class GeneratedVolume:
    """Array and geometry, no identity.

    Attributes
    ----------
    volume : Volume
        Intensities of the model's output range (card: ``intensity_range``).
    label_map : array, (slice, row, column), uint8, or None
        Labels that belong to the volume, on the same grid; their names stand in the card.
    generated_at : datetime or None
        When it was drawn; aware. Set by the step that kept it, so that a repeated later step writes the same bytes.
    """

    volume: Volume
    label_map: NDArray[np.uint8] | None
    model: ModelIdentity
    seed: int
    sampler: str
    sampler_steps: int
    guidance: Guidance
    conditioning: ConditioningRecord
    environment: ExecutionEnvironment
    generated_at: datetime | None = None

    @property
    def is_label_map(self) -> bool:
        """Whether the volume is its own label map: the model draws no image."""
        return self.label_map is not None and np.array_equal(self.volume.array, self.label_map)


@dataclass(frozen=True, slots=True)
class Receipt:
    """A destination's word that it took every instance of every series.

    Attributes
    ----------
    committed : bool or None
        Whether it committed to keep them (DICOM PS3.4 Annex J): False where it accepted the request and its report is not here
        in time; None where it was not asked, or does not offer it.
    """

    destination: str
    protocol: str
    instances: int
    accepted_at: datetime
    committed: bool | None = None


@dataclass(frozen=True, slots=True)
class Publication:
    """Who accepted which instances.

    Attributes
    ----------
    series : GeneratedSeries
        The images.
    companions : tuple of GeneratedSeries
        Further series of the same study: segmentation, summary.
    """

    request_id: str
    series: GeneratedSeries
    receipts: tuple[Receipt, ...]
    companions: tuple[GeneratedSeries, ...] = ()
