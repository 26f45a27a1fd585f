"""Family VAE: the vector of a volume follows a normal distribution that depends on what is told.

In training a posterior network reads the vector off a real volume; a prior network learns to say, from the tokens alone, where
such vectors lie. A volume is then drawn from the prior. Losses per voxel make its image smoother than a real one, which a
discriminator mends in part.

References
----------
Kingma and Welling, Auto-Encoding Variational Bayes, ICLR 2014, equations 3 (bound) and 4 (reparameterisation).
Sohn, Lee and Yan, Learning Structured Output Representation using Deep Conditional Generative Models, NeurIPS 2015, equation 4.
"""

from __future__ import annotations

import torch
from monai.networks.utils import pixelunshuffle
from torch import Tensor, nn

from domain.model_card import ModelCard
from generators.autoencoder import Autoencoder
from generators.denoiser import label_hint, latent_field
from generators.vector_decoder import VectorDecoder, VectorShape
from generators.vector_generator import VectorGenerator, vector_networks
from generators.weights import Bundle, built

_WIDTH = 128
_LOG_DEVIATION = (-5.0, 3.0)

Normal = tuple[Tensor, Tensor]
"""Mean and standard deviation of each value of a vector, (B, H) each."""


class GaussianPrior(nn.Module):
    """p(h | tokens): what is told to a normal distribution of the vector."""

    def __init__(self, shape: VectorShape) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(shape.told, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, 2 * shape.vector)
        )

    def forward(self, told: Tensor) -> Normal:
        """Return mean and deviation for what is told, (B, P C)."""
        return _normal(self.network(told))


class GaussianPosterior(nn.Module):
    """q(h | image, labels, tokens): used in training alone."""

    def __init__(self, shape: VectorShape) -> None:
        super().__init__()
        self.shape = shape
        seen, groups = shape.block**3 * (1 + shape.label_count) + 1, shape.norm_groups
        self.network = nn.Sequential(
            nn.Conv3d(seen, 64, 1),
            *_halving(64, 96, groups),
            *_halving(96, _WIDTH, groups),
            nn.AdaptiveAvgPool3d(2),
            nn.Flatten(),
            nn.Linear(8 * _WIDTH, _WIDTH),
        )
        self.head = nn.Sequential(
            nn.SiLU(), nn.Linear(_WIDTH + shape.told, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, 2 * shape.vector)
        )

    def forward(self, image: Tensor, labels: Tensor, extents: Tensor, told: Tensor) -> Normal:
        """Return mean and deviation for images (B, 1, D, H, W), labels (B, D, H, W), extents (B, 3) and what is told."""
        size = self.shape
        voxels = pixelunshuffle(image, 3, size.block)
        hint = label_hint(labels, size.label_count, size.block)
        seen = torch.cat([voxels, hint, latent_field(extents, size.grid, size.block)], dim=1)
        return _normal(self.head(torch.cat([self.network(seen), told], dim=1)))


class VariationalGenerator(VectorGenerator):
    """Conditional VAE with a learned prior."""

    sampler = "conditional-prior"

    def __init__(
        self, card: ModelCard, decoder: VectorDecoder, prior: GaussianPrior, autoencoder: Autoencoder, *, device: str = "cpu"
    ) -> None:
        super().__init__(card, decoder, autoencoder, device=device)
        self._prior = prior

    @classmethod
    def from_bundle(cls, bundle: Bundle, device: str = "cpu") -> VariationalGenerator:
        """Return the generator of a bundle with the parts ``decoder``, ``prior`` and ``image_autoencoder``, on `device`.

        Raises
        ------
        WeightsRejected
            If the weights are not those of the networks.
        """
        decoder, autoencoder = vector_networks(bundle, device)
        prior = built(bundle, "prior", lambda sizes: GaussianPrior(VectorShape(**sizes)), device)
        return cls(bundle.card, decoder, prior, autoencoder, device=device)

    def _vector(self, told: Tensor, normal: Tensor) -> Tensor:
        mean, deviation = self._prior(told)
        drawn: Tensor = mean + deviation * normal
        return drawn


def divergence(posterior: Normal, prior: Normal) -> Tensor:
    """Return the Kullback-Leibler divergence of two normal distributions for each value, (B, H), nats.

    References
    ----------
    Kingma and Welling, 2014, appendix B, for a prior of any mean and deviation.
    """
    (mean, deviation), (prior_mean, prior_deviation) = posterior, prior
    ratio = deviation / prior_deviation
    apart = (mean - prior_mean) / prior_deviation
    return (ratio.square() + apart.square() - 1) / 2 - ratio.log()


def with_free_bits(divergences: Tensor, free: float) -> Tensor:
    """Return the divergence of a batch, (B, H), summed over values, each counted as `free` nats at least.

    A value that holds less gains nothing by holding still less: otherwise values fall silent and the volumes all look alike.

    References
    ----------
    Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, NeurIPS 2016, equation 15.
    """
    return divergences.mean(0).clamp_min(free).sum()


def _halving(inputs: int, outputs: int, groups: int) -> tuple[nn.Module, ...]:
    return nn.Conv3d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(groups, outputs), nn.SiLU()


def _normal(values: Tensor) -> Normal:
    mean, log_deviation = values.chunk(2, dim=1)
    return mean, log_deviation.clamp(*_LOG_DEVIATION).exp()
