"""The last stage of training: denoisers and token encoder together, on the latents of the autoencoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

from generators.denoiser import Denoiser, label_hint, latent_field
from generators.latent_data import Draw, LatentData
from generators.loss import importance, rectified_flow_loss
from generators.recipes import Recipe
from generators.size_prior import SIZE_PRIOR, SizePrior, size_hint
from generators.stages import descend, schedule, step_rng, warmed_average
from generators.training_set import Facts, FactVectors, tell_at_random
from multimodal.conditioning import TokenEncoder

_SIZE_WEIGHT = 0.05  # of a nat, beside the mean squared error of a velocity
_IMAGE_SHARE = 1 / 2  # of a batch from which the image's denoiser learns too: its steps cost more than the label's


class DenoiserStage:
    """Denoisers and token encoder together; what is kept is the exponential moving average of their weights.

    Parameters
    ----------
    recipe : Recipe
        Sizes of the networks, batch and seed.
    train, held_out : LatentData
    encoder : TokenEncoder
    vectors : FactVectors
        Sentence embeddings of the facts of the data set.
    facts : Facts
        Of the training people; their kinds and modalities are what the columns of the draws mean.
    """

    name = "denoiser"

    def __init__(
        self,
        recipe: Recipe,
        train: LatentData,
        held_out: LatentData,
        encoder: TokenEncoder,
        vectors: FactVectors,
        facts: Facts,
        *,
        rate: float = 6e-4,
    ) -> None:
        self._recipe, self._train, self._held_out, self._rate = recipe, train, held_out, rate
        self._vectors, self._kinds, self._modalities = vectors, facts.kinds, facts.modalities
        self._seed, self._batch = recipe.plan.seed, recipe.plan.batch[self.name]
        self._scale = train.scale()
        encoder.fit_scale(*self._scale)
        encoder.fit_answers(vectors.answers)
        networks: dict[str, nn.Module] = {"encoder": encoder}
        with torch.random.fork_rng():
            torch.manual_seed(self._seed)
            networks["label_denoiser"] = Denoiser(recipe.label_denoiser)
            if recipe.image_denoiser is not None:
                networks["image_denoiser"] = Denoiser(recipe.image_denoiser)
            if recipe.size_prior is not None:
                networks[SIZE_PRIOR] = SizePrior(recipe.size_prior)
        self._networks = nn.ModuleDict(networks)
        self._average = AveragedModel(self._networks, avg_fn=warmed_average)
        self._optimiser = AdamW(self._networks.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-2)

    def begin_from(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Start from the weights of a finished model, by part, instead of random ones."""
        for name, network in self._networks.items():
            network.load_state_dict(dict(states[name]))
        self._average = AveragedModel(self._networks, avg_fn=warmed_average)

    def step(self, step: int, steps: int) -> dict[str, float]:
        """Do one step: random latents, random subset of what is known about each."""
        rng = step_rng(self._seed, step)
        losses = self._losses(self._networks, self._train.draw(self._batch, self._scale, rng), rng)
        descend(sum(losses.values(), torch.zeros(())), self._optimiser, self._networks, self._rate * schedule(step, steps))
        self._average.update_parameters(self._networks)
        return {"loss": sum(loss.item() for loss in losses.values())} | {name: loss.item() for name, loss in losses.items()}

    def held_out_loss(self) -> float:
        """Return the mean loss of the averaged networks over fixed draws from validation people."""
        networks = cast("nn.ModuleDict", self._average.module)
        with torch.no_grad():
            rounds = [step_rng(self._seed, -1 - index) for index in range(8)]
            losses = [self._losses(networks, self._held_out.draw(16, self._scale, rng), rng) for rng in rounds]
        return sum(loss.item() for parts in losses for loss in parts.values()) / len(losses)

    def state(self) -> dict[str, Any]:
        """Return networks, their average and the optimiser."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Load networks, their average and the optimiser."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {"networks": self._networks, "average": self._average, "optimiser": self._optimiser}

    def _losses(self, networks: nn.ModuleDict, drawn: Draw, rng: torch.Generator) -> dict[str, Tensor]:
        tokens, mask = networks["encoder"](tell_at_random(drawn.known, self._modalities, self._vectors, rng))
        of_labels, of_image = self._recipe.label_autoencoder, self._recipe.image_autoencoder
        field = latent_field(drawn.extents, self._recipe.grid, of_labels.reduction)
        denoiser = cast("Denoiser", networks["label_denoiser"])
        losses, hint = {}, field
        if self._recipe.size_prior is not None:
            sizes = self._sizes_of(drawn)
            losses["sizes"] = _SIZE_WEIGHT * cast("SizePrior", networks[SIZE_PRIOR]).loss(tokens, mask, sizes)
            hint = torch.cat([field, size_hint(sizes, field)], dim=1)
        losses["labels"] = rectified_flow_loss(denoiser, drawn.label_z, tokens, mask, hint, rng)
        if of_image is not None:
            n = max(1, round(_IMAGE_SHARE * len(tokens)))
            field = latent_field(drawn.extents[:n], self._recipe.grid, of_image.reduction)
            hint = label_hint(drawn.labels[:n], of_labels.voxel_channels - 1, of_image.reduction)
            denoiser = cast("Denoiser", networks["image_denoiser"])
            losses["image"] = rectified_flow_loss(
                denoiser,
                drawn.image_z[:n],
                tokens[:n],
                mask[:n],
                torch.cat([field, hint], dim=1),
                rng,
                weight=importance(field, hint),
            )
        return losses

    def _sizes_of(self, drawn: Draw) -> Tensor:
        """Return the number of voxels of each label, (B, L): of such a model each label's volume is a fact, told or not."""
        mean, deviation = self._scale
        volumes = drawn.known.numbers * deviation + mean
        kind_of = {group[0]: kind for kind, group in self._recipe.volumes.items() if len(group) == 1}
        columns = [self._kinds.index(kind_of[label]) for label in sorted(kind_of)]
        return volumes[:, columns] / self._recipe.spacing_mm**3


def averaged_networks(state: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Return the averaged weights of a `DenoiserStage`'s state, by network."""
    networks: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state["average"].items():
        if name.startswith("module."):
            _, network, rest = name.split(".", 2)
            networks.setdefault(network, {})[rest] = tensor
    return networks
