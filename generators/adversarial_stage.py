"""The stage of training of the family GAN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from generators.adversarial import volume_loss
from generators.recipes import Recipe
from generators.stages import descend, schedule, step_rng
from generators.vector_decoder import VectorDecoder
from generators.vector_stage import VectorStage, decoder_of

_VOLUME_WEIGHT = 1.0


class AdversarialStage(VectorStage):
    """Decoder against discriminator: hinge losses, a lazy gradient penalty, and a regression of the volumes that were told."""

    name = "gan"
    rate, betas, weight_decay = 4e-4, (0.0, 0.99), 0.0

    def step(self, step: int, steps: int) -> dict[str, float]:
        """Do one step of the decoder, then one of the discriminator, on the same volumes."""
        rng, rate = step_rng(self._seed, step), self.rate * schedule(step, steps)
        drawn = self._train.draw(self._batch, self._scale, rng)
        told, given = self._told(self._networks, drawn, rng)
        generated = self._generated(self._networks, told, drawn, rng)
        judged = self._judged(generated, told, drawn)
        columns = given.present[:, : len(self._volumes)]
        volumes = volume_loss(generated[:, 1:], drawn.labels, self._volumes, columns)
        descend(judged + _VOLUME_WEIGHT * volumes, self._optimiser, self._networks, rate)
        self._average.update_parameters(self._networks)
        taught = self._teach_discriminator(drawn, generated, told, step, rate)
        return {"loss": taught, "judged": judged.item(), "volumes": volumes.item()}

    def _made(self, recipe: Recipe) -> dict[str, nn.Module]:
        self._volumes = tuple(recipe.volumes.get(kind, ()) for kind in self._train.cases.facts.kinds)
        return {"decoder": VectorDecoder(recipe.vector_shape)}

    def _vector(self, networks: nn.ModuleDict, told: Tensor, rng: torch.Generator) -> Tensor:
        return torch.randn(len(told), decoder_of(networks).shape.vector, generator=rng)
