"""Whether a generated volume is the patient's own image again. numpy only."""

from __future__ import annotations

from domain.findings import Finding, Outcome
from domain.generation import GeneratedVolume
from domain.image_statistics import similarity
from domain.model_card import ModelCard
from domain.volume import Volume, to_patient_axes

NOT_A_COPY = "not-a-copy"


def not_a_copy(generated: GeneratedVolume, source: Volume | None, card: ModelCard) -> Finding:
    """Compare a generated volume with the source image that conditioned it.

    Measured is `domain.image_statistics.similarity`: voxel by voxel, centre on centre. A value that is not finite fails.

    Parameters
    ----------
    generated : GeneratedVolume
        What the generator made.
    source : Volume or None
        The real image; None where the generator was given none, then there is nothing to copy.
    card : ModelCard
        ``reference.source_similarity`` is the accepted range.
    """
    accepted = card.reference.source_similarity
    if source is None:
        return Finding(
            NOT_A_COPY,
            Outcome.NOT_APPLICABLE,
            None,
            str(accepted),
            "No source image conditioned this volume, so none can be copied.",
        )
    if generated.is_label_map:
        return Finding(
            NOT_A_COPY, Outcome.NOT_APPLICABLE, None, str(accepted), "The volume is a label map: no image in it can be a copy."
        )
    measured = similarity(to_patient_axes(generated.volume).array, to_patient_axes(source).array)
    if measured in accepted:
        outcome, sentence = Outcome.PASSED, "The volume differs from the source image as other subjects' volumes do."
    elif measured > accepted.high:
        outcome, sentence = Outcome.FAILED, "The volume is too much like the source image to count as synthetic."
    else:
        outcome, sentence = (
            Outcome.FAILED,
            "The volume has too little to do with the source image, or cannot be compared with it.",
        )
    return Finding(NOT_A_COPY, outcome, measured, str(accepted), f"{sentence} Correlation {measured:.3f}.")
