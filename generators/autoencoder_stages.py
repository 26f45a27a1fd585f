"""The first stages of training: the autoencoders of label maps and of images."""

from __future__ import annotations

from typing import Any, cast

import torch
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from torch import Tensor
from torch.optim import AdamW

from domain.errors import ConfigurationError
from generators.augmentation import bent
from generators.autoencoder import Autoencoder, AutoencoderShape, one_hot
from generators.loss import image_autoencoder_loss, label_autoencoder_loss
from generators.stages import descend, schedule, step_rng
from generators.training_set import TrainingSet

_ADVERSARIAL_WEIGHT = 0.1


class LabelAutoencoderStage:
    """Label maps to latents and back."""

    name = "label-autoencoder"

    def __init__(
        self, train: TrainingSet, held_out: TrainingSet, shape: AutoencoderShape, *, seed: int, batch: int, rate: float = 2e-3
    ) -> None:
        self._train, self._held_out, self._seed, self._batch, self._rate = train, held_out, seed, batch, rate
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.autoencoder = Autoencoder(shape)
        self._optimiser = AdamW(self.autoencoder.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-4)

    def step(self, step: int, steps: int) -> dict[str, float]:
        """Do one step on bent label maps."""
        rng = step_rng(self._seed, step)
        voxels = one_hot(self._drawn(rng), self.autoencoder.shape.voxel_channels)
        mean, deviation = self.autoencoder.posterior(voxels)
        logits = self.autoencoder.reconstruct(mean + deviation * torch.randn(mean.shape, generator=rng))
        loss = label_autoencoder_loss(logits, voxels, (mean, deviation))
        descend(loss, self._optimiser, self.autoencoder, self._rate * schedule(step, steps))
        return {"loss": loss.item()}

    def held_out_loss(self) -> float:
        """Return the mean loss over validation cases, from the latent's mean."""
        with torch.no_grad():
            return sum(self._loss_of(labels) for labels in self._held_out.labels) / len(self._held_out)

    def state(self) -> dict[str, Any]:
        """Return network and optimiser."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Load network and optimiser."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {"autoencoder": self.autoencoder, "optimiser": self._optimiser}

    def _loss_of(self, labels: Tensor) -> float:
        voxels = one_hot(labels[None], self.autoencoder.shape.voxel_channels)
        posterior = self.autoencoder.posterior(voxels)
        return label_autoencoder_loss(self.autoencoder.reconstruct(posterior[0]), voxels, posterior).item()

    def _drawn(self, rng: torch.Generator) -> Tensor:
        chosen = torch.randint(len(self._train), (self._batch,), generator=rng).tolist()
        nothing = torch.zeros(0, *self._train.labels.shape[1:])
        drawn = [bent(nothing, self._train.labels[i], self._train.extents[i], rng)[1] for i in chosen]
        return torch.stack(drawn)


class ImageAutoencoderStage:
    """Reconstruction, then texture: a patch discriminator joins when there is something to judge."""

    name = "image-autoencoder"
    adversary_from = 0.3
    whole_from = 0.9
    patch = (32, 48, 32)

    def __init__(
        self, train: TrainingSet, held_out: TrainingSet, shape: AutoencoderShape, *, seed: int, batch: int, rate: float = 2e-3
    ) -> None:
        self._train, self._seed, self._batch, self._rate = train, seed, batch, rate
        self._images, self._held_out = _images_of(train), _images_of(held_out)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.autoencoder = Autoencoder(shape)
            self.discriminator = PatchDiscriminator(
                spatial_dims=3, num_layers_d=2, channels=16, in_channels=1, out_channels=1, norm="INSTANCE"
            )
        self._adversarial = PatchAdversarialLoss(criterion="least_squares")
        self._optimiser = AdamW(self.autoencoder.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-4)
        self._optimiser_d = AdamW(self.discriminator.parameters(), lr=4e-4, betas=(0.5, 0.99))

    def step(self, step: int, steps: int) -> dict[str, float]:
        """Do one step on bent images: on patches, which costs less and sees less padding; at the end on whole grids."""
        rng = step_rng(self._seed, step)
        image = self._draw(rng, whole=step >= self.whole_from * steps)
        mean, deviation = self.autoencoder.posterior(image)
        decoded = self.autoencoder.reconstruct(mean + deviation * torch.randn(mean.shape, generator=rng))
        loss = image_autoencoder_loss(decoded, image, (mean, deviation))
        losses = {"loss": loss.item()}
        if step >= self.adversary_from * steps:
            judged = self._adversarial(self.discriminator(decoded)[-1], target_is_real=True, for_discriminator=False)
            loss = loss + _ADVERSARIAL_WEIGHT * judged
        descend(loss, self._optimiser, self.autoencoder, self._rate * schedule(step, steps))
        if step >= self.adversary_from * steps:  # after the descent: its gradient runs through the discriminator as it was
            losses["discriminator"] = self._teach_discriminator(image, decoded.detach())
        return losses

    def held_out_loss(self) -> float:
        """Return the mean loss over validation cases, from the latent's mean."""
        with torch.no_grad():
            return sum(self._loss_of(image[None]) for image in self._held_out) / len(self._held_out)

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

    def _loss_of(self, image: Tensor) -> float:
        posterior = self.autoencoder.posterior(image)
        return image_autoencoder_loss(self.autoencoder.reconstruct(posterior[0]), image, posterior).item()

    def _draw(self, rng: torch.Generator, *, whole: bool) -> Tensor:
        chosen = torch.randint(len(self._train), (self._batch,), generator=rng).tolist()
        drawn = [bent(self._images[i], self._train.labels[i], self._train.extents[i], rng)[0] for i in chosen]
        return torch.stack([image if whole else self._cut_patch(image, rng) for image in drawn])

    def _cut_patch(self, image: Tensor, rng: torch.Generator) -> Tensor:
        """Return a patch at a random place; multiples of the reduction keep the latent grid where it is."""
        step = self.autoencoder.shape.reduction
        for axis, length in enumerate(self.patch, start=1):
            kept = min(length, image.shape[axis])
            start = step * int(torch.randint((image.shape[axis] - kept) // step + 1, (), generator=rng))
            image = image.narrow(axis, start, kept)
        return image

    def _teach_discriminator(self, real: Tensor, generated: Tensor) -> float:
        on_generated = self._adversarial(self.discriminator(generated)[-1], target_is_real=False, for_discriminator=True)
        on_real = self._adversarial(self.discriminator(real)[-1], target_is_real=True, for_discriminator=True)
        loss = cast("Tensor", on_generated + on_real) / 2
        self._optimiser_d.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        self._optimiser_d.step()
        return loss.item()


def _images_of(cases: TrainingSet) -> Tensor:
    if cases.images is None:
        raise ConfigurationError(found="a data set without images", allowed="images", action="train the label stages alone")
    return cases.images
