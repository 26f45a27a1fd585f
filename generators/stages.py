"""The two stages of training: first the autoencoder, then denoiser and token encoder on its latents.

A stage owns its networks and optimisers, does one step when told its number, and measures itself on people it never trains on.
All randomness comes from the seed and the step's number, so a resumed run draws what an unbroken one would have drawn.
"""

from __future__ import annotations

import math
from typing import Any, Protocol, cast

import torch
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from generators.augmentation import bent
from generators.autoencoder import Autoencoder, AutoencoderShape
from generators.denoiser import Denoiser, DenoiserShape
from generators.hippocampus_data import GridBatch
from generators.latent_data import LatentData
from generators.loss import autoencoder_loss, rectified_flow_loss
from multimodal.conditioning import TokenEncoder

_GRADIENT_CLIP = 1.0
_WARM_UP_STEPS = 150
_LAST_RATE = 0.03
_LONGEST_DECAY = 0.999


class Stage(Protocol):
    """What the training loop knows of a stage."""

    name: str

    def step(self, step: int, steps: int) -> dict[str, float]:
        """Do one step and return its losses."""

    def held_out_loss(self) -> float:
        """Return the loss on validation people; the same each time for the same weights."""

    def state(self) -> dict[str, Any]:
        """Return everything that resuming needs."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what `state` returned."""


def step_rng(seed: int, step: int) -> torch.Generator:
    """Return the random stream of one step."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


class AutoencoderStage:
    """Reconstruction, then texture: a patch discriminator joins late, when there is something worth judging."""

    name = "autoencoder"
    adversary_from = 0.6
    whole_from = 0.85
    patch = (32, 48, 32)

    def __init__(self, train: GridBatch, held_out: GridBatch, *, seed: int, batch: int, rate: float = 2e-3) -> None:
        self._train, self._held_out, self._seed, self._batch, self._rate = train, held_out, seed, batch, rate
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.autoencoder = Autoencoder(AutoencoderShape())
            self.discriminator = PatchDiscriminator(
                spatial_dims=3, num_layers_d=2, channels=16, in_channels=1, out_channels=1, norm="INSTANCE"
            )
        self._adversarial = PatchAdversarialLoss(criterion="least_squares")
        self._optimiser = AdamW(self.autoencoder.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-4)
        self._optimiser_d = AdamW(self.discriminator.parameters(), lr=4e-4, betas=(0.5, 0.99))

    def step(self, step: int, steps: int) -> dict[str, float]:
        """Do one step on bent crops: on patches at first, which is cheaper and sees less padding, on whole grids at the end."""
        rng = step_rng(self._seed, step)
        image, labels = self._draw(rng, whole=step >= self.whole_from * steps)
        mean, deviation = self.autoencoder.posterior(image, labels)
        latent = mean + deviation * torch.randn(mean.shape, generator=rng)
        decoded, logits = self.autoencoder.reconstruct(latent)
        loss = autoencoder_loss(decoded, logits, image, labels, (mean, deviation))
        losses = {"loss": loss.item()}
        if step >= self.adversary_from * steps:
            judged = self._adversarial(self.discriminator(decoded)[-1], target_is_real=True, for_discriminator=False)
            loss = loss + 0.01 * judged
        _descend(loss, self._optimiser, self.autoencoder, self._rate * schedule(step, steps))
        if step >= self.adversary_from * steps:  # after the descent: its gradient runs through the discriminator as it was
            losses["discriminator"] = self._teach_discriminator(image, decoded.detach())
        return losses

    def held_out_loss(self) -> float:
        """Return the mean loss over validation crops, from the latent's mean."""
        with torch.no_grad():
            return sum(self._loss_of(index) for index in range(len(self._held_out))) / len(self._held_out)

    def state(self) -> dict[str, Any]:
        """Return networks and optimisers."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Load networks and optimisers."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {
            "autoencoder": self.autoencoder,
            "discriminator": self.discriminator,
            "optimiser": self._optimiser,
            "optimiser_d": self._optimiser_d,
        }

    def _loss_of(self, index: int) -> float:
        image, labels = self._held_out.images[index : index + 1], self._held_out.labels[index : index + 1].long()
        mean, deviation = self.autoencoder.posterior(image, labels)
        decoded, logits = self.autoencoder.reconstruct(mean)
        return autoencoder_loss(decoded, logits, image, labels, (mean, deviation)).item()

    def _draw(self, rng: torch.Generator, *, whole: bool) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(self._train), (self._batch,), generator=rng).tolist()
        drawn = [bent(self._train.images[i], self._train.labels[i], self._train.extents[i], rng) for i in chosen]
        if not whole:
            drawn = [self._cut_patch(image, labels, rng) for image, labels in drawn]
        return torch.stack([image for image, _ in drawn]), torch.stack([labels for _, labels in drawn]).long()

    def _cut_patch(self, image: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return a patch at a random place; multiples of four voxels keep the latent grid where it is."""
        for axis, length in enumerate(self.patch):
            room = (labels.shape[axis] - length) // 4
            start = 4 * int(torch.randint(room + 1, (), generator=rng))
            image, labels = image.narrow(axis + 1, start, length), labels.narrow(axis, start, length)
        return image, labels

    def _teach_discriminator(self, real: Tensor, generated: Tensor) -> float:
        on_generated = self._adversarial(self.discriminator(generated)[-1], target_is_real=False, for_discriminator=True)
        on_real = self._adversarial(self.discriminator(real)[-1], target_is_real=True, for_discriminator=True)
        loss = cast("Tensor", on_generated + on_real) / 2
        self._optimiser_d.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        self._optimiser_d.step()
        return loss.item()


class DenoiserStage:
    """Denoiser and token encoder together; what is kept is the exponential moving average of their weights."""

    name = "denoiser"

    def __init__(
        self, train: LatentData, held_out: LatentData, encoder: TokenEncoder, *, seed: int, batch: int, rate: float = 6e-4
    ) -> None:
        self._train, self._held_out, self._seed, self._batch, self._rate = train, held_out, seed, batch, rate
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            denoiser = Denoiser(DenoiserShape(latent_channels=train.channels, token_width=encoder.width))
        encoder.fit_values(train.values_mean(), train.values_deviation())
        self._networks = nn.ModuleDict({"denoiser": denoiser, "encoder": encoder})
        self._average = AveragedModel(self._networks, avg_fn=warmed_average)
        self._optimiser = AdamW(self._networks.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-2)

    @property
    def averaged(self) -> tuple[Denoiser, TokenEncoder]:
        """The averaged networks."""
        networks = cast("nn.ModuleDict", self._average.module)
        return cast("Denoiser", networks["denoiser"]), cast("TokenEncoder", networks["encoder"])

    def step(self, step: int, steps: int) -> dict[str, float]:
        """Do one step: random latents, random subset of what is known about each."""
        rng = step_rng(self._seed, step)
        loss = self._loss(self._networks, self._train.draw(self._batch, rng), rng)
        _descend(loss, self._optimiser, self._networks, self._rate * schedule(step, steps))
        self._average.update_parameters(self._networks)
        return {"loss": loss.item()}

    def held_out_loss(self) -> float:
        """Return the mean loss of the averaged networks over fixed draws from validation people."""
        networks = cast("nn.ModuleDict", self._average.module)
        with torch.no_grad():
            rounds = [step_rng(self._seed, -1 - index) for index in range(8)]
            losses = [self._loss(networks, self._held_out.draw(16, rng), rng).item() for rng in rounds]
        return sum(losses) / len(losses)

    def state(self) -> dict[str, Any]:
        """Return networks, their average and the optimiser."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Load networks, their average and the optimiser."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {"networks": self._networks, "average": self._average, "optimiser": self._optimiser}

    def _loss(self, networks: nn.ModuleDict, drawn: Any, rng: torch.Generator) -> Tensor:
        tokens, mask = networks["encoder"](drawn.values, drawn.present, drawn.prior, drawn.prior_present)
        return rectified_flow_loss(cast("Denoiser", networks["denoiser"]), drawn.z, tokens, mask, drawn.field, rng)


def schedule(step: int, steps: int) -> float:
    """Return the share of the learning rate at a step: a short warm-up, then a cosine down to a small remainder."""
    warm = min(1.0, (step + 1) / _WARM_UP_STEPS)
    return warm * (_LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * step / steps)))


def warmed_average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    """Return the moving average after one more step; it looks back over a tenth of the steps at first, a thousand at most.

    With a constant decay of 0.999 the random weights of the start would still be a twentieth of the average after 3000 steps.

    References
    ----------
    Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models, CVPR 2024, section 3 (averages whose
    length grows with training).
    """
    decay = min(_LONGEST_DECAY, (1 + int(count)) / (10 + int(count)))
    return averaged.lerp(current, 1 - decay)


def _descend(loss: Tensor, optimiser: Optimizer, networks: nn.Module, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
    nn.utils.clip_grad_norm_(networks.parameters(), _GRADIENT_CLIP)
    optimiser.step()
