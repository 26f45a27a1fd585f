"""The stage of training of the family VAE."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from generators.denoiser import label_hint
from generators.loss import label_loss, reconstruction_loss
from generators.recipes import Recipe
from generators.stages import descend, schedule, step_rng
from generators.variational import GaussianPosterior, GaussianPrior, divergence, with_free_bits
from generators.vector_data import VectorDraw
from generators.vector_decoder import VectorDecoder
from generators.vector_stage import VectorStage, decoder_of

_DIVERGENCE_WEIGHT = 2e-3  # of a nat, beside losses per voxel
_ANNEALED_OVER = 0.25  # of the steps: the vector is worth reading before it has a price
_FREE_NATS = 0.05  # of each value of the vector
_MOST_JUDGED = 10.0


class VariationalStage(VectorStage):
    """Decoder, prior and posterior, by the bound of a conditional VAE with annealed divergence and free bits; then texture.

    Losses per voxel make an image smooth wherever the vector cannot tell what it shows. So a discriminator of newly drawn
    volumes joins when there is something to judge, and teaches the decoder to make texture of its grain.

    References
    ----------
    Sohn, Lee and Yan, NeurIPS 2015, equation 4. Bowman et al., Generating Sentences from a Continuous Space, CoNLL 2016,
    section 3.1 (annealing). Larsen et al., Autoencoding beyond Pixels using a Learned Similarity Metric, ICML 2016, section 2.3
    (a discriminator of volumes from the prior).
    """

    name = "vae"
    rate, betas, weight_decay = 6e-4, (0.9, 0.99), 1e-2
    adversary_from = 0.3

    def step(self, step: int, steps: int) -> dict[str, float]:
        """Do one step: bent cases, a random subset of what is known about each."""
        rng, rate = step_rng(self._seed, step), self.rate * schedule(step, steps)
        drawn = self._train.draw(self._batch, self._scale, rng)
        told, _ = self._told(self._networks, drawn, rng)
        losses = self._losses(told, drawn, rng)
        weight = _DIVERGENCE_WEIGHT * min(1.0, step / (_ANNEALED_OVER * steps))
        loss = losses["labels"] + losses["image"] + weight * losses["divergence"]
        generated = None
        if step >= self.adversary_from * steps:
            generated = self._generated(self._networks, told, drawn, rng)
            losses["judged"] = self._judged(generated, told, drawn)
            loss = loss + self._balance(losses["image"], losses["judged"]) * losses["judged"]
        descend(loss, self._optimiser, self._networks, rate)
        self._average.update_parameters(self._networks)
        told_off = {} if generated is None else {"discriminator": self._teach_discriminator(drawn, generated, told, step, rate)}
        return {"loss": loss.item()} | {name: part.item() for name, part in losses.items()} | told_off

    def _made(self, recipe: Recipe) -> dict[str, nn.Module]:
        shape = recipe.vector_shape
        return {"decoder": VectorDecoder(shape), "prior": GaussianPrior(shape), "posterior": GaussianPosterior(shape)}

    def _vector(self, networks: nn.ModuleDict, told: Tensor, rng: torch.Generator) -> Tensor:
        mean, deviation = networks["prior"](told)
        drawn: Tensor = mean + deviation * torch.randn(mean.shape, generator=rng)
        return drawn

    def _losses(self, told: Tensor, drawn: VectorDraw, rng: torch.Generator) -> dict[str, Tensor]:
        networks, decoder = self._networks, decoder_of(self._networks)
        mean, deviation = networks["posterior"](drawn.images, drawn.labels, drawn.extents, told)
        sketch = decoder.sketch(mean + deviation * torch.randn(mean.shape, generator=rng), told, drawn.extents)
        # As when generating, the image is drawn to a label map that is final: in training the real one.
        hint = label_hint(drawn.labels, decoder.shape.label_count, decoder.shape.image_block)
        image = decoder.image(sketch, hint, decoder.drawn_grain(len(told), rng))
        return {
            "labels": label_loss(decoder.label_logits(sketch), drawn.labels.long()),
            "image": reconstruction_loss(image, drawn.images),
            "divergence": with_free_bits(divergence((mean, deviation), networks["prior"](told)), _FREE_NATS),
        }

    def _balance(self, image: Tensor, judged: Tensor) -> float:
        """Return the weight of the discriminator at which it pulls at the last layer as hard as the loss per voxel.

        References
        ----------
        Esser, Rombach and Ommer, Taming Transformers for High-Resolution Image Synthesis, CVPR 2021, equation 7.
        """
        last = decoder_of(self._networks).voxels.weight
        pulls = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm().item() for loss in (image, judged)]
        balance: float = pulls[0] / (pulls[1] + 1e-6)
        return min(balance, _MOST_JUDGED)
