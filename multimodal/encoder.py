"""Fuses clinical facts, report and prior image into conditioning tokens; what is missing is masked, never filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import structlog
import torch
from torch import Tensor, nn

from domain.clinical import ClinicalContext, ClinicalFact
from domain.errors import WeightsRejected
from domain.model_card import ModelCard
from multimodal.clinical_tokens import ClinicalTokens
from multimodal.concepts import Aliases
from multimodal.conditioning import MODALITIES, NULL, ConditioningTokens, EncoderInput, TokenEncoder
from multimodal.facts import gather
from multimodal.image_tokens import ImageTokens
from multimodal.sentences import EMBEDDING, Sentences

log = structlog.get_logger()

PRIOR_IMAGE = "prior-image"

_PRIOR = MODALITIES.index("prior-image")


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Size of the encoder, and what it was trained to be told.

    Attributes
    ----------
    concepts : tuple of str
        Kinds of the facts with a learned scale, in the order of their tokens.
    latent : tuple of int
        (C, d, h, w) of the image autoencoder's latent; (0, 0, 0, 0) where no prior image is taken.
    texts : tuple of str
        Texts whose embeddings come with the weights: of the concepts and of their coded answers.
    other_facts, report : bool
        Whether facts beyond the concepts, and the report's text, are told.
    width : int
        Length of a token.
    """

    concepts: tuple[str, ...]
    latent: tuple[int, int, int, int]
    texts: tuple[str, ...] = ()
    other_facts: bool = False
    report: bool = False
    width: int = 128
    embedding: int = EMBEDDING


class MultimodalEncoder(TokenEncoder):
    """Facts and the latent of a prior image to tokens with a mask; see `TokenEncoder.forward`."""

    scale: Tensor
    text_vectors: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.clinical = ClinicalTokens(config.embedding, config.width)
        self.image = ImageTokens(config.latent, config.width) if config.latent[0] else None
        self.null_tokens = nn.Parameter(torch.randn(len(MODALITIES), config.width))
        self.register_buffer("scale", torch.tensor([[0.0, 1.0]] * len(config.concepts)))  # mean and deviation
        self.register_buffer("text_vectors", torch.zeros(len(config.texts), config.embedding))

    @property
    def sizes(self) -> dict[str, object]:
        """What `from_state` needs beside the weights, as plain values for the header of a weights file."""
        return asdict(self.config)

    @property
    def regions(self) -> int:
        """Number of tokens of a prior image."""
        return self.image.count if self.image is not None else 0

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], sizes: Mapping[str, object], card: ModelCard) -> MultimodalEncoder:
        """Return the encoder that was trained together with a generator, ready to encode.

        Parameters
        ----------
        sizes : mapping
            What `sizes` returned when the weights were written.

        Raises
        ------
        WeightsRejected
            If the weights are not those of this encoder for the concepts of the card.
        """
        try:
            entries = {name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()}
            encoder = cls(EncoderConfig(**entries))  # type: ignore[arg-type]  # a wrong type or name is caught below
            encoder.load_state_dict(dict(state), strict=True)
            agrees = encoder.config.concepts == tuple(concept.kind for concept in card.concepts)
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise _rejected(card) from error
        if not agrees:
            raise _rejected(card)
        return encoder.eval().requires_grad_(requires_grad=False)

    def fit_scale(self, mean: Tensor, deviation: Tensor) -> None:
        """Set mean and standard deviation of each concept in training, (K,)."""
        self.scale.copy_(torch.stack([mean, deviation], dim=1))

    def fit_answers(self, answers: Tensor) -> None:
        """Set what tells the answers of the training data from each other: their vectors, (A, E)."""
        self.clinical.fit_answers(answers)

    def forward(self, given: EncoderInput) -> tuple[Tensor, Tensor]:
        """Return tokens and mask; see `multimodal.conditioning.TokenEncoder.forward`."""
        batch = len(given.present)
        tokens, masks = [self.clinical(given)], [given.present]
        if self.image is not None:
            tokens.append(self.image(given.prior))  # (B, I, C)
            masks.append(given.prior_present.unsqueeze(1).expand(-1, self.regions))
        tokens.append(self.null_tokens.expand(batch, -1, -1))
        masks.append(~_known(given))  # (B, 4)
        return torch.cat(tokens, dim=1), torch.cat(masks, dim=1)

    @torch.no_grad()
    def encode(
        self,
        context: ClinicalContext,
        asked: tuple[ClinicalFact, ...],
        prior_latent: Tensor | None,
        card: ModelCard,
        *,
        sentences: Sentences,
        aliases: Aliases | None = None,
    ) -> ConditioningTokens:
        """Return the conditioning tokens of one patient, a batch of one.

        Parameters
        ----------
        context : ClinicalContext
            EHR snapshot as of the imaging time.
        asked : tuple of ClinicalFact
            Values that stand above the EHR's.
        prior_latent : tensor, (C, d, h, w), or None
            What the generator's `image_latent` made of the received image.
        sentences : Sentences
            Embeds what the weights bring no vector for.

        Raises
        ------
        RequestInvalid
            If a value lies outside the trained range, or a request is faulty (see `multimodal.facts.gather`).
        """
        sentences.remember(self.config.texts, self.text_vectors)
        gathered = gather(
            context,
            asked,
            concepts=self.config.concepts,
            scales=self._scales(),
            sentences=sentences,
            prior_latent=prior_latent,
            latent_shape=self.config.latent,
            takes_other_facts=self.config.other_facts,
            takes_report=self.config.report,
            card=card,
            aliases=aliases,
        )
        tokens, mask = self(gathered.given)
        kinds = (*gathered.kinds, *(PRIOR_IMAGE,) * self.regions, *(NULL + name for name in MODALITIES))
        modalities = (*gathered.modalities, *(MODALITIES[_PRIOR],) * self.regions, *MODALITIES)
        log.info("context encoded", used=len(gathered.record.used), missing=len(gathered.record.missing))
        return ConditioningTokens(tokens, mask, kinds, modalities, gathered.record)

    def _scales(self) -> dict[str, tuple[float, float]]:
        pairs = self.scale.tolist()
        return {kind: (mean, deviation) for kind, (mean, deviation) in zip(self.config.concepts, pairs, strict=True)}


def _known(given: EncoderInput) -> Tensor:
    """Return for each modality whether anything of it is known, (B, 4)."""
    facts: Sequence[Tensor] = [
        ((given.modality == index) & given.present).any(1) for index in range(len(MODALITIES)) if index != _PRIOR
    ]
    return torch.stack([*facts, given.prior_present], dim=1)


def _rejected(card: ModelCard) -> WeightsRejected:
    return WeightsRejected(
        found=f"encoder weights of {card.name} that do not fit the encoder",
        allowed="the names and shapes of MultimodalEncoder for the concepts of the card",
        action="install the bundle again, or export it again with this version",
    )
