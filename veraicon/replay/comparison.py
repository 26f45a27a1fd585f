"""How a series that was made again compares with the one that was published: to the bit, or by how much it differs.

The tolerance is for another build, CPU kind, thread count or device. There sums are taken in another order, and a float32
network's roundings differ in their last bits; a stored value then lands on the next of its twelve bits' steps here and there.
Another seed or other weights move voxels by hundreds of steps, so the tolerance cannot hide them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from pydicom import Dataset
from pydicom.uid import SegmentationStorage

from domain.model_card import ModelCard
from domain.series import GeneratedInstance, GeneratedSeries
from provenance.digesting.series_tree import SeriesTree
from provenance.digests import has_pixels
from provenance.statement import StatedSeries

# Largest difference of a voxel as a share of the output range, four steps of MR's twelve bits, and largest share of voxels that
# differ at all. Other thread counts and instruction sets gave one step in 0.03 to 0.1 % of voxels (docs/results.md).
MAX_DIFFERENCE = 0.001
MAX_SHARE = 0.01
# Largest share of voxels whose label differs: labels are the larger of two numbers, and only a near tie can turn.
MAX_LABEL_SHARE = 0.001


class Likeness(Enum):
    """How a replay compares with what was published."""

    BIT_EXACT = "bit-exact"
    WITHIN_TOLERANCE = "within tolerance"
    DIFFERENT = "different"
    NOT_COMPARABLE = "different, and no published pixels are at hand to say by how much"


@dataclass(frozen=True, slots=True)
class Deviation:
    """By how much pixels differ.

    Attributes
    ----------
    largest : float
        Largest difference of a voxel, as a share of the output range.
    share : float
        Share of voxels that differ.
    """

    largest: float
    share: float


@dataclass(frozen=True, slots=True)
class SeriesComparison:
    """One series, made again.

    Attributes
    ----------
    instances, made : int
        As attested, and as made again.
    known : int
        Attested digests that are at hand to be compared one by one.
    same_pixels, same_attributes : int
        Of the known ones.
    deviation : Deviation or None
        Of the pixels; None where they are equal, or no published ones are at hand.
    """

    series_uid: str
    modality: str
    instances: int
    made: int
    known: int
    same_pixels: int
    same_attributes: int
    likeness: Likeness
    deviation: Deviation | None = None

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        shown: dict[str, object] = {
            "series_uid": self.series_uid,
            "modality": self.modality,
            "instances": self.instances,
            "made": self.made,
            "compared_one_by_one": self.known,
            "same_pixels": self.same_pixels,
            "same_attributes": self.same_attributes,
            "likeness": self.likeness.value,
        }
        if self.deviation is not None:
            shown |= {"largest_difference": self.deviation.largest, "share_that_differs": self.deviation.share}
        return shown


def compare_series(
    stated: StatedSeries,
    made: GeneratedSeries | None,
    datasets: Sequence[Dataset],
    attested: Mapping[str, GeneratedInstance],
    published: Callable[[str], Dataset | None],
    card: ModelCard,
) -> SeriesComparison:
    """Compare a series that was made again with what was attested.

    Parameters
    ----------
    stated : StatedSeries
        Number of instances and root of the tree over them, signed.
    made : GeneratedSeries or None
        What was made, with digests; None where the replay made no such series.
    datasets : sequence of Dataset
        Its instances.
    attested : mapping
        Attested digests by SOP Instance UID, as far as they are at hand.
    published : callable
        Gives the published instance of a SOP Instance UID, or None.
    card : ModelCard
        Its output range is the unit of a difference.
    """
    instances = () if made is None else made.instances
    pairs = [(attested[one.sop_instance_uid], one) for one in instances if one.sop_instance_uid in attested]
    exact = bool(instances) and len(instances) == stated.count and SeriesTree(instances).root == stated.root
    deviation = None if exact else _deviation(datasets, published, card)
    same_attributes = sum(theirs.dataset_digest == ours.dataset_digest for theirs, ours in pairs)
    return SeriesComparison(
        series_uid=stated.series_uid,
        modality=stated.modality,
        instances=stated.count,
        made=len(instances),
        known=len(pairs),
        same_pixels=sum(theirs.pixel_digest == ours.pixel_digest for theirs, ours in pairs),
        same_attributes=same_attributes,
        likeness=Likeness.BIT_EXACT if exact else _likeness(stated, datasets, deviation, same_attributes),
        deviation=deviation,
    )


def overall(compared: Sequence[SeriesComparison]) -> Likeness:
    """Return the worst likeness of all series; a document may differ where the pixels that it tells of do, and only there."""
    loose = [one for one in compared if one.likeness is Likeness.WITHIN_TOLERANCE]
    if loose and not any(one.deviation for one in loose):
        return Likeness.DIFFERENT
    order = (Likeness.DIFFERENT, Likeness.NOT_COMPARABLE, Likeness.WITHIN_TOLERANCE, Likeness.BIT_EXACT)
    return next(likeness for likeness in order if any(one.likeness is likeness for one in compared))


def _likeness(stated: StatedSeries, datasets: Sequence[Dataset], deviation: Deviation | None, same_attributes: int) -> Likeness:
    if len(datasets) != stated.count:
        return Likeness.DIFFERENT
    if not has_pixels(datasets[0]):
        # A summary tells figures that were measured on the pixels: it follows them, and is judged by them.
        return Likeness.WITHIN_TOLERANCE
    if deviation is None:
        return Likeness.NOT_COMPARABLE
    labels = datasets[0].SOPClassUID == SegmentationStorage
    largest, share = (1.0, MAX_LABEL_SHARE) if labels else (MAX_DIFFERENCE, MAX_SHARE)
    whole = labels or same_attributes == stated.count
    return Likeness.WITHIN_TOLERANCE if whole and _within(deviation, largest, share) else Likeness.DIFFERENT


def _within(deviation: Deviation, largest: float, share: float) -> bool:
    return deviation.largest <= largest and deviation.share <= share


def _deviation(datasets: Sequence[Dataset], published: Callable[[str], Dataset | None], card: ModelCard) -> Deviation | None:
    """Return by how much the pixels of all instances differ; None unless each has a published one of its shape."""
    largest, differing, count = 0.0, 0, 0
    for ours in datasets:
        theirs = published(str(ours.SOPInstanceUID))
        if theirs is None or not has_pixels(ours) or not has_pixels(theirs):
            return None
        here, there = ours.pixel_array.astype(np.int64), theirs.pixel_array.astype(np.int64)
        if here.shape != there.shape:
            return Deviation(1.0, 1.0)
        distance = np.abs(here - there)
        largest = max(largest, float(distance.max()) / _span(ours, card))
        differing, count = differing + int(np.count_nonzero(distance)), count + distance.size
    return Deviation(largest, differing / count) if count else None


def _span(ds: Dataset, card: ModelCard) -> float:
    """Return the output range in stored values: all bits for MR and labels, Hounsfield units for CT."""
    if ds.get("Modality") == "CT":
        return card.reference.intensity_range.high - card.reference.intensity_range.low
    return float(2 ** int(ds.BitsStored) - 1)
