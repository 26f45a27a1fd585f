"""What people wrote for the cards of our models: what each is for, what it is not for, whose data it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class CardText:
    """Entries of a card that no measurement gives.

    Attributes
    ----------
    labels : tuple of (int, str)
        Label values, and the concept whose volume each is.
    """

    summary: str
    out_of_scope: str
    licence: str
    attribution: str
    data_sources: tuple[str, ...]
    labels: tuple[tuple[int, str], ...]
    intended_use: str = "Research: synthetic volumes for building and testing imaging software."

    def entries(self) -> dict[str, Any]:
        """Return the entries of `domain.model_card.ModelCard`."""
        names = ("summary", "out_of_scope", "licence", "attribution", "data_sources", "intended_use")
        return {name: getattr(self, name) for name in names}


_DECATHLON = (
    "Trained on Task04 Hippocampus of the Medical Segmentation Decathlon: M. Antonelli et al., The Medical "
    "Segmentation Decathlon, Nature Communications 13:4128 (2022); A. L. Simpson et al., arXiv:1902.09063 (2019). "
    "Images from Vanderbilt University Medical Center."
)


def _hippocampus(how: str) -> CardText:
    return CardText(
        summary=f"T1-weighted MR crops of one hippocampus with their label map, {how}, from requested volumes of its anterior "
        "and posterior part and from an image of the same person.",
        out_of_scope="Diagnosis, treatment, or any statement about a person. Other organs, sequences, spacings or fields of "
        "view. Age, sex and disease: the training data hold none, and the model knows none.",
        licence="CC BY-SA 4.0",
        attribution=_DECATHLON,
        data_sources=("Medical Segmentation Decathlon, Task04 Hippocampus, 227 of its T1 crops with labels, CC BY-SA 4.0",),
        labels=((1, "hippocampus-anterior-volume"), (2, "hippocampus-posterior-volume")),
    )


_STROKE_LESION = CardText(
    summary="Three-dimensional masks of acute ischaemic stroke lesions in MNI space, drawn by latent diffusion from what a "
    "record says: age, sex, NIHSS, modified Rankin score, body mass index, history of stroke, arterial territory, lesion "
    "volume. The modified Rankin score is the table's gs_rankin_6isdeath: an outcome of the stroke, not a state at imaging.",
    out_of_scope="Diagnosis, prognosis, treatment, or any statement about a person. Images: it draws masks alone. Haemorrhage, "
    "other spaces than MNI and finer voxels than 2 mm. A side or a territory that contradicts the other facts that are told.",
    licence="CC0 1.0",
    attribution="Trained on lesion masks of the Stroke Outcome Optimization Project: J. Absher et al., The stroke outcome "
    "optimization project: Acute ischemic strokes from a comprehensive stroke center, Scientific Data 11:839 (2024), OpenNeuro "
    "ds004889. Territories by C.-F. Liu et al., Digital 3D Brain MRI Arterial Territories Atlas, Scientific Data 10:74 (2023).",
    data_sources=("Stroke Outcome Optimization Project, 857 of its lesion masks with their clinical table, CC0 1.0",),
    labels=((1, "stroke-lesion-volume"),),
)

TEXTS = {
    "stroke-lesion": _STROKE_LESION,
    "hippocampus-t1": _hippocampus("drawn by latent diffusion, first the labels and then the image that goes with them"),
    "hippocampus-t1-vae": _hippocampus(
        "drawn by a conditional variational autoencoder; the check of sharpness refuses most of its volumes"
    ),
    "hippocampus-t1-gan": _hippocampus("drawn by a conditional generative adversarial network"),
}
