"""Fuses clinical numbers and the prior image into conditioning tokens; what is missing is masked, never filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog
import torch
from torch import Tensor

from domain.clinical import ClinicalContext, ClinicalFact
from domain.errors import WeightsRejected
from domain.generation import ConditioningRecord
from domain.grid import Shape, normalised, placed
from domain.model_card import ModelCard, require_in_trained_range, require_series_fits
from domain.volume import Volume, to_patient_axes
from multimodal.clinical_tokens import ClinicalTokens
from multimodal.concepts import Aliases, Picked, pick_values
from multimodal.conditioning import ConditioningTokens, TokenEncoder
from multimodal.image_tokens import ImageTokens

log = structlog.get_logger()

PRIOR_IMAGE = "prior-image"


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Size of the encoder.

    Attributes
    ----------
    concepts : tuple of str
        Kinds of the numbers, in the order of the network's inputs.
    grid : tuple of int
        Grid on which the prior image is placed, 1 mm voxels.
    width : int
        Length of a token.
    """

    concepts: tuple[str, ...] = ("hippocampus-anterior-volume", "hippocampus-posterior-volume", "hippocampus-volume")
    grid: Shape = (48, 64, 48)
    width: int = 128


class MultimodalEncoder(TokenEncoder):
    """Clinical numbers and a prior image to tokens with a mask."""

    grid: Tensor

    def __init__(self, config: EncoderConfig | None = None) -> None:
        super().__init__()
        config = config or EncoderConfig()
        self.concepts, self.width = config.concepts, config.width
        self.clinical = ClinicalTokens(len(config.concepts), config.width)
        self.image = ImageTokens(config.grid, config.width)
        self.register_buffer("grid", torch.tensor(config.grid))

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each token speaks of."""
        return self.concepts + (PRIOR_IMAGE,) * self.image.count

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], card: ModelCard) -> MultimodalEncoder:
        """Return the encoder that was trained together with a generator, ready to encode.

        Raises
        ------
        WeightsRejected
            If the weights are not those of this encoder for the concepts of the card.
        """
        try:
            slices, rows, columns = (int(n) for n in state["grid"])
            concepts, width = tuple(concept.kind for concept in card.concepts), state["clinical.code"].shape[1]
            encoder = cls(EncoderConfig(concepts, (slices, rows, columns), width))
            encoder.load_state_dict(dict(state), strict=True)
        except (KeyError, ValueError, IndexError, RuntimeError) as error:
            raise WeightsRejected(
                found=f"encoder weights of {card.name} that do not fit the encoder",
                allowed="the names and shapes of MultimodalEncoder for the concepts of the card",
                action="install the bundle again, or export it again with this version",
            ) from error
        return encoder.eval().requires_grad_(requires_grad=False)

    def fit_values(self, mean: Tensor, deviation: Tensor) -> None:
        """Set mean and standard deviation of each number in training, (K,)."""
        self.clinical.value_mean.copy_(mean)
        self.clinical.value_deviation.copy_(deviation)

    def forward(self, values: Tensor, present: Tensor, prior: Tensor, prior_present: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens and mask; see `multimodal.conditioning.TokenEncoder.forward`."""
        tokens = torch.cat([self.clinical(values), self.image(prior)], dim=1)  # (B, K + I, C)
        image_mask = prior_present.unsqueeze(1).expand(-1, self.image.count)
        return tokens, torch.cat([present, image_mask], dim=1)

    @torch.no_grad()
    def encode(
        self,
        context: ClinicalContext,
        asked: tuple[ClinicalFact, ...],
        prior: Volume | None,
        card: ModelCard,
        *,
        aliases: Aliases | None = None,
    ) -> ConditioningTokens:
        """Return the conditioning tokens of one patient, a batch of one.

        Parameters
        ----------
        context : ClinicalContext
            EHR snapshot as of the imaging time.
        asked : tuple of ClinicalFact
            Values that stand above the EHR's.
        prior : Volume or None
            The received image, in any axes.

        Raises
        ------
        RequestInvalid
            If a value lies outside the trained range, or a request is faulty (see `multimodal.concepts.pick_values`).
        UnsupportedSeries
            If the image is not one that the model was trained to take.
        """
        picked = pick_values(context, asked, self.concepts, aliases)
        known = {found.kind: require_in_trained_range(found.kind, found.value, card) for found in picked.values}
        values = torch.tensor([[known.get(kind, 0.0) for kind in self.concepts]])  # (1, K)
        present = torch.tensor([[kind in known for kind in self.concepts]])
        image = torch.zeros(1, 1, *self.grid.tolist())
        if prior is not None:
            image[0, 0] = torch.from_numpy(self._on_grid(prior, card))
        tokens, mask = self(values, present, image, torch.tensor([prior is not None]))
        record = _record(picked, has_prior=prior is not None)
        log.info("context encoded", used=len(record.used), missing=len(record.missing))
        return ConditioningTokens(tokens, mask, self.kinds, record)

    def _on_grid(self, prior: Volume, card: ModelCard) -> object:
        fitting = require_series_fits(to_patient_axes(prior), card)
        slices, rows, columns = self.grid.tolist()
        return placed(normalised(fitting.array), (slices, rows, columns))


def _record(picked: Picked, *, has_prior: bool) -> ConditioningRecord:
    """Return what the generator is told in words; a reason never holds a value."""
    reasons = tuple(kind if reason == "not in the snapshot" else f"{kind}: {reason}" for kind, reason in picked.missing)
    used = tuple(found.kind for found in picked.values)
    return ConditioningRecord(
        targets=tuple((found.kind, found.value, found.unit) for found in picked.values),
        used=used + ((PRIOR_IMAGE,) if has_prior else ()),
        missing=reasons + (() if has_prior else (PRIOR_IMAGE,)),
    )
