"""A model as it is measured: asked as a site asks it, from what is told to the finished volume."""

from __future__ import annotations

from datetime import UTC, datetime

from domain.clinical import ClinicalContext, ClinicalFact
from domain.generation import GeneratedVolume, GenerationRequest, Guidance
from domain.identifiers import SeriesUid
from domain.volume import FloatArray, Volume
from generators.cards import advised_steps, training_default
from veraicon.evaluation.plan import Sampling
from veraicon.model import SiteModel

_WHEN = datetime(2000, 1, 1, tzinfo=UTC)
_NOTHING_KNOWN = ClinicalContext("Patient/none", None, None, _WHEN, (), "")
_GUIDANCE = "2"


class EvaluatedModel:
    """One model, drawn from by what is asked and a seed.

    Parameters
    ----------
    name : str
        Packaged name or folder, as it was given.
    site : SiteModel
        The same that jobs of a site go through.
    sampling : Sampling
    """

    def __init__(self, name: str, site: SiteModel, sampling: Sampling) -> None:
        self._name, self._site, self.card = name, site, site.card
        self.title = f"{self.card.name} {self.card.version}"
        self.guidance: Guidance = sampling.guidance or float(training_default(self.card, "default guidance") or _GUIDANCE)
        self.steps = sampling.steps or advised_steps(self.card)

    def draw(
        self,
        asked: tuple[ClinicalFact, ...],
        prior: Volume | None,
        *,
        like: Volume,
        seed: int,
        guidance: Guidance | None = None,
    ) -> GeneratedVolume:
        """Return one volume: the whole path, from what is asked to voxels.

        Raises
        ------
        RequestInvalid
            If the model cannot be told what is asked, or not these values.
        """
        tokens = self._site.encode(_NOTHING_KNOWN, asked, prior)
        request = GenerationRequest(
            request_id=f"evaluation-{seed}",
            series_uid=SeriesUid("2.25.1"),
            series_digest="",
            model=self._name,
            seed=seed,
            guidance=self.guidance if guidance is None else guidance,
            sampler_steps=self.steps,
            requested_at=_WHEN,
            requested_by="evaluation",
            asked=asked,
        )
        return self._site.generate(request, tokens, like=like, cancelled=lambda: False)

    def through_autoencoder(self, volume: Volume) -> FloatArray:
        """Return what the model keeps of an image; of a family without an autoencoder the image as it is."""
        kept = self._site.through_autoencoder(volume)
        return volume.array if kept is None else kept.array


def open_model(name: str, *, sampling: Sampling, threads: int, device: str = "cpu") -> EvaluatedModel:
    """Return a model by packaged name or folder.

    Raises
    ------
    WeightsRejected
        If it cannot be trusted.
    """
    site = SiteModel(name, device=device, threads=threads)
    site.load()
    return EvaluatedModel(name, site, sampling)
