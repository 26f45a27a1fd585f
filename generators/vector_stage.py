"""What the stages of the families VAE and GAN share: decoder and token encoder, taught together on whole volumes, and judged.

Both keep the exponential moving average of their weights, as the denoisers do, and draw everything from the seed and the step's
number, so a resumed run goes on as an unbroken one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, cast

import torch
from monai.networks.utils import pixelunshuffle
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

from generators.adversarial import Discriminator, discriminator_loss, gradient_penalty, hard_labels, sliced_distance
from generators.recipes import Recipe
from generators.stages import descend, step_rng, warmed_average
from generators.training_set import FactVectors, tell_at_random
from generators.vector_data import VectorData, VectorDraw, number_scale
from generators.vector_decoder import VectorDecoder
from multimodal.conditioning import EncoderInput, TokenEncoder

_PENALTY_WEIGHT = 5.0
_PENALTY_EVERY = 8
_HELD_OUT_ROUNDS = 3


class VectorStage(ABC):
    """Data, networks by name, their average, and the discriminator that they are up against.

    Parameters
    ----------
    recipe : Recipe
        Size of the networks, batch and seed.
    train, held_out : VectorData
    encoder : TokenEncoder
    vectors : FactVectors
        Sentence embeddings of the facts of the data set.

    References
    ----------
    Karras et al., Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020, section 3.1 (lazy regularisation).
    """

    name: str
    rate: float
    betas: tuple[float, float]
    weight_decay: float

    def __init__(
        self, recipe: Recipe, train: VectorData, held_out: VectorData, encoder: TokenEncoder, vectors: FactVectors
    ) -> None:
        self._train, self._held_out, self._vectors = train, held_out, vectors
        self._seed, self._batch = recipe.plan.seed, recipe.plan.batch[self.name]
        self._modalities = train.cases.facts.modalities
        self._scale = number_scale(train.cases.facts)
        encoder.fit_scale(*self._scale)
        with torch.random.fork_rng():
            torch.manual_seed(self._seed)
            self._networks = nn.ModuleDict({"encoder": encoder, **self._made(recipe)})
            self._discriminator = Discriminator(recipe.vector_shape)
        self._average = AveragedModel(self._networks, avg_fn=warmed_average)
        self._optimiser = AdamW(self._networks.parameters(), lr=self.rate, betas=self.betas, weight_decay=self.weight_decay)
        # Little momentum: the other side moves all the time (Mescheder et al., 2018, section 5).
        self._optimiser_d = AdamW(self._discriminator.parameters(), lr=self.rate, betas=(0.0, 0.99), weight_decay=0.0)

    @abstractmethod
    def step(self, step: int, steps: int) -> dict[str, float]:
        """Do one step and return its losses."""

    @abstractmethod
    def _made(self, recipe: Recipe) -> dict[str, nn.Module]:
        """Return the networks beside the token encoder, of random weights, by name."""

    @abstractmethod
    def _vector(self, networks: nn.ModuleDict, told: Tensor, rng: torch.Generator) -> Tensor:
        """Return the vectors of new volumes, (B, H), as they are drawn when generating."""

    def held_out_loss(self) -> float:
        """Return how far volumes of the averaged networks are from those of validation people, over fixed draws."""
        networks, sides = cast("nn.ModuleDict", self._average.module), []
        with torch.no_grad():
            for index in range(_HELD_OUT_ROUNDS):
                rng = step_rng(self._seed, -1 - index)
                drawn = self._held_out.draw(16, self._scale, rng)
                told, _ = self._told(networks, drawn, rng)
                sides.append((self._real(drawn), self._generated(networks, told, drawn, rng)))
        real, generated = (torch.cat(side) for side in zip(*sides, strict=True))
        return sliced_distance(real, generated, step_rng(self._seed, -1))

    def begin_from(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Start from the weights of a finished model, by part; what no bundle holds stays random."""
        for name, network in self._networks.items():
            network.load_state_dict({**network.state_dict(), **states.get(name, {})})
        self._average = AveragedModel(self._networks, avg_fn=warmed_average)

    def state(self) -> dict[str, Any]:
        """Return networks, their average and the optimisers."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Load networks, their average and the optimisers."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {
            "networks": self._networks,
            "average": self._average,
            "discriminator": self._discriminator,
            "optimiser": self._optimiser,
            "optimiser_d": self._optimiser_d,
        }

    def _told(self, networks: nn.ModuleDict, drawn: VectorDraw, rng: torch.Generator) -> tuple[Tensor, EncoderInput]:
        """Return what a random subset of the known facts tells the decoder, and that subset."""
        given = tell_at_random(drawn.known, self._modalities, self._vectors, rng)
        told = decoder_of(networks).told(*networks["encoder"](given))
        return told, given

    def _generated(self, networks: nn.ModuleDict, told: Tensor, drawn: VectorDraw, rng: torch.Generator) -> Tensor:
        """Return new images with their label maps, (B, 1 + L, D, H, W), drawn as when generating."""
        decoder = decoder_of(networks)
        sketch = decoder.sketch(self._vector(networks, told, rng), told, drawn.extents)
        present = hard_labels(decoder.label_logits(sketch))
        grain = decoder.drawn_grain(len(told), rng)
        image = decoder.image(sketch, pixelunshuffle(present, 3, decoder.shape.image_block), grain)
        return torch.cat([image, present], dim=1)

    def _real(self, drawn: VectorDraw) -> Tensor:
        count = decoder_of(self._networks).shape.label_count
        present = functional.one_hot(drawn.labels.long(), 1 + count)[..., 1:].movedim(-1, 1)
        return torch.cat([drawn.images, present.to(drawn.images)], dim=1)

    def _judged(self, generated: Tensor, told: Tensor, drawn: VectorDraw) -> Tensor:
        """Return the loss of the networks against the discriminator."""
        scores: Tensor = self._discriminator(generated, drawn.extents, told.detach())
        return -scores.mean()

    def _teach_discriminator(self, drawn: VectorDraw, generated: Tensor, told: Tensor, step: int, rate: float) -> float:
        generated, told, penalised = generated.detach(), told.detach(), step % _PENALTY_EVERY == 0
        real = self._real(drawn).requires_grad_(penalised)
        on_real = self._discriminator(real, drawn.extents, told)
        loss = discriminator_loss(on_real, self._discriminator(generated, drawn.extents, told))
        penalty = gradient_penalty(on_real, real) if penalised else loss.new_zeros(())
        # The penalty is rare, so it counts as many times as the steps between.
        whole = loss + _PENALTY_EVERY * _PENALTY_WEIGHT / 2 * penalty
        descend(whole, self._optimiser_d, self._discriminator, rate)
        return loss.item()


def decoder_of(networks: nn.ModuleDict) -> VectorDecoder:
    """Return the decoder among networks by name."""
    return cast("VectorDecoder", networks["decoder"])
