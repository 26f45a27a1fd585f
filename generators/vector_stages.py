"""The stages of training of the families VAE and GAN: decoder and token encoder together, on whole volumes.

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

from generators.adversarial import (
    Discriminator,
    discriminator_loss,
    gradient_penalty,
    hard_labels,
    sliced_distance,
    volume_loss,
)
from generators.denoiser import label_hint
from generators.loss import label_loss, reconstruction_loss
from generators.recipes import Recipe
from generators.stages import descend, schedule, step_rng, warmed_average
from generators.training_set import FactVectors, tell_at_random
from generators.variational import GaussianPosterior, GaussianPrior, divergence, with_free_bits
from generators.vector_data import VectorData, VectorDraw, number_scale
from generators.vector_decoder import VectorDecoder
from multimodal.conditioning import EncoderInput, TokenEncoder

_DIVERGENCE_WEIGHT = 2e-3  # of a nat, beside losses per voxel
_ANNEALED_OVER = 0.25  # of the steps: the vector is worth reading before it has a price
_FREE_NATS = 0.05  # of each value of the vector
_VOLUME_WEIGHT = 1.0
_PENALTY_WEIGHT = 5.0
_PENALTY_EVERY = 8
_HELD_OUT_ROUNDS = 3


class _VectorStage(ABC):
    """What both stages share: data, networks by name, their average.

    Parameters
    ----------
    recipe : Recipe
        Size of the networks, batch and seed.
    train, held_out : VectorData
    encoder : TokenEncoder
    vectors : FactVectors
        Sentence embeddings of the facts of the data set.
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
        self._average = AveragedModel(self._networks, avg_fn=warmed_average)
        self._optimiser = self._optimiser_of(self._networks)

    def _optimiser_of(self, networks: nn.Module) -> AdamW:
        return AdamW(networks.parameters(), lr=self.rate, betas=self.betas, weight_decay=self.weight_decay)

    @abstractmethod
    def _made(self, recipe: Recipe) -> dict[str, nn.Module]:
        """Return the networks beside the token encoder, of random weights, by name."""

    @abstractmethod
    def _parts(self) -> dict[str, Any]:
        """Return everything that has a state, by name."""

    def begin_from(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Start from the weights of a finished model, by part; what no bundle holds stays random."""
        for name, network in self._networks.items():
            if name in states:
                network.load_state_dict(dict(states[name]))
        self._average = AveragedModel(self._networks, avg_fn=warmed_average)

    def state(self) -> dict[str, Any]:
        """Return networks, their average and the optimisers."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Load networks, their average and the optimisers."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _told(self, networks: nn.ModuleDict, drawn: VectorDraw, rng: torch.Generator) -> tuple[Tensor, EncoderInput]:
        """Return what a random subset of the known facts tells the decoder, and that subset."""
        given = tell_at_random(drawn.known, self._modalities, self._vectors, rng)
        told = cast("VectorDecoder", networks["decoder"]).told(*networks["encoder"](given))
        return told, given

    def _held_out_draws(self) -> list[tuple[VectorDraw, torch.Generator]]:
        rounds = [step_rng(self._seed, -1 - index) for index in range(_HELD_OUT_ROUNDS)]
        return [(self._held_out.draw(16, self._scale, rng), rng) for rng in rounds]


class VariationalStage(_VectorStage):
    """Decoder, prior and posterior, by the bound of a conditional VAE with annealed divergence and free bits.

    References
    ----------
    Sohn, Lee and Yan, NeurIPS 2015, equation 4. Bowman et al., Generating Sentences from a Continuous Space, CoNLL 2016,
    section 3.1 (annealing).
    """

    name = "vae"
    rate, betas, weight_decay = 6e-4, (0.9, 0.99), 1e-2

    def step(self, step: int, steps: int) -> dict[str, float]:
        """Do one step: bent cases, a random subset of what is known about each."""
        rng = step_rng(self._seed, step)
        losses = self._losses(self._networks, self._train.draw(self._batch, self._scale, rng), rng)
        weight = _DIVERGENCE_WEIGHT * min(1.0, step / (_ANNEALED_OVER * steps))
        loss = _bound(losses, weight)
        descend(loss, self._optimiser, self._networks, self.rate * schedule(step, steps))
        self._average.update_parameters(self._networks)
        return {"loss": loss.item()} | {name: part.item() for name, part in losses.items()}

    def held_out_loss(self) -> float:
        """Return the bound, with the divergence in full, of the averaged networks over fixed draws from validation people."""
        networks = cast("nn.ModuleDict", self._average.module)
        with torch.no_grad():
            losses = [self._losses(networks, drawn, rng) for drawn, rng in self._held_out_draws()]
        return sum(_bound(parts, _DIVERGENCE_WEIGHT).item() for parts in losses) / len(losses)

    def _made(self, recipe: Recipe) -> dict[str, nn.Module]:
        shape = recipe.vector_shape
        return {"decoder": VectorDecoder(shape), "prior": GaussianPrior(shape), "posterior": GaussianPosterior(shape)}

    def _parts(self) -> dict[str, Any]:
        return {"networks": self._networks, "average": self._average, "optimiser": self._optimiser}

    def _losses(self, networks: nn.ModuleDict, drawn: VectorDraw, rng: torch.Generator) -> dict[str, Tensor]:
        told, _ = self._told(networks, drawn, rng)
        decoder = cast("VectorDecoder", networks["decoder"])
        mean, deviation = networks["posterior"](drawn.images, drawn.labels, drawn.extents, told)
        sketch = decoder.sketch(mean + deviation * torch.randn(mean.shape, generator=rng), told, drawn.extents)
        # As when generating, the image is drawn to a label map that is final: in training the real one.
        hint = label_hint(drawn.labels, decoder.shape.label_count, decoder.shape.image_block)
        return {
            "labels": label_loss(decoder.label_logits(sketch), drawn.labels.long()),
            "image": reconstruction_loss(decoder.image(sketch, hint), drawn.images),
            "divergence": with_free_bits(divergence((mean, deviation), networks["prior"](told)), _FREE_NATS),
        }


class AdversarialStage(_VectorStage):
    """Decoder against discriminator: hinge losses, a lazy gradient penalty, and a regression of the volumes that were told.

    References
    ----------
    Karras et al., Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020, section 3.1 (lazy regularisation).
    """

    name = "gan"
    # Little momentum: the other side moves all the time (Mescheder et al., 2018, section 5).
    rate, betas, weight_decay = 4e-4, (0.0, 0.99), 0.0

    def step(self, step: int, steps: int) -> dict[str, float]:
        """Do one step of the decoder, then one of the discriminator, on the same volumes."""
        rng, rate = step_rng(self._seed, step), self.rate * schedule(step, steps)
        drawn = self._train.draw(self._batch, self._scale, rng)
        told, given = self._told(self._networks, drawn, rng)
        generated = self._generated(self._networks, told, drawn, rng)
        judged = -self._discriminator(generated, drawn.extents, told.detach()).mean()
        columns = given.present[:, : len(self._volumes)]
        volumes = volume_loss(generated[:, 1:], drawn.labels, self._volumes, columns)
        descend(judged + _VOLUME_WEIGHT * volumes, self._optimiser, self._networks, rate)
        self._average.update_parameters(self._networks)
        taught = self._teach_discriminator(drawn, generated.detach(), told.detach(), rate, penalised=step % _PENALTY_EVERY == 0)
        return {"loss": taught, "judged": judged.item(), "volumes": volumes.item()}

    def held_out_loss(self) -> float:
        """Return how far volumes of the averaged networks are from those of validation people, over fixed draws."""
        networks, sides = cast("nn.ModuleDict", self._average.module), []
        with torch.no_grad():
            for drawn, rng in self._held_out_draws():
                told, _ = self._told(networks, drawn, rng)
                sides.append((self._real(drawn), self._generated(networks, told, drawn, rng)))
        real, generated = (torch.cat(side) for side in zip(*sides, strict=True))
        return sliced_distance(real, generated, step_rng(self._seed, -1))

    def _made(self, recipe: Recipe) -> dict[str, nn.Module]:
        self._volumes = tuple(recipe.volumes.get(kind, ()) for kind in self._train.cases.facts.kinds)
        self._discriminator = Discriminator(recipe.vector_shape)
        self._optimiser_d = self._optimiser_of(self._discriminator)
        return {"decoder": VectorDecoder(recipe.vector_shape)}

    def _parts(self) -> dict[str, Any]:
        return {
            "networks": self._networks,
            "average": self._average,
            "discriminator": self._discriminator,
            "optimiser": self._optimiser,
            "optimiser_d": self._optimiser_d,
        }

    def _generated(self, networks: nn.ModuleDict, told: Tensor, drawn: VectorDraw, rng: torch.Generator) -> Tensor:
        """Return images with their label maps, (B, 1 + L, D, H, W), for vectors of their own."""
        decoder = cast("VectorDecoder", networks["decoder"])
        vector = torch.randn(len(told), decoder.shape.vector, generator=rng)
        sketch = decoder.sketch(vector, told, drawn.extents)
        present = hard_labels(decoder.label_logits(sketch))
        image = decoder.image(sketch, pixelunshuffle(present, 3, decoder.shape.image_block))
        return torch.cat([image, present], dim=1)

    def _real(self, drawn: VectorDraw) -> Tensor:
        count = cast("VectorDecoder", self._networks["decoder"]).shape.label_count
        present = functional.one_hot(drawn.labels.long(), 1 + count)[..., 1:].movedim(-1, 1)
        return torch.cat([drawn.images, present.to(drawn.images)], dim=1)

    def _teach_discriminator(
        self, drawn: VectorDraw, generated: Tensor, told: Tensor, rate: float, *, penalised: bool
    ) -> float:
        real = self._real(drawn).requires_grad_(penalised)
        on_real = self._discriminator(real, drawn.extents, told)
        loss = discriminator_loss(on_real, self._discriminator(generated, drawn.extents, told))
        penalty = gradient_penalty(on_real, real) if penalised else loss.new_zeros(())
        # The penalty is rare, so it counts as many times as the steps between.
        whole = loss + _PENALTY_EVERY * _PENALTY_WEIGHT / 2 * penalty
        descend(whole, self._optimiser_d, self._discriminator, rate)
        return loss.item()


def _bound(losses: dict[str, Tensor], weight: float) -> Tensor:
    return losses["labels"] + losses["image"] + weight * losses["divergence"]
