"""The images that an order is about: what our archive holds of them, and how the rest is fetched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from dicom_node.archive import Archive
from dicom_node.reading import is_image_class, read_volume
from domain.errors import InputError, RequestInvalid
from domain.identifiers import SeriesUid
from domain.model_card import ModelCard, require_series_fits
from domain.ordering import Order
from domain.volume import to_patient_axes
from veraicon.orders.rules import Verdict
from veraicon.pulls import Puller

_log = structlog.get_logger()

_MOST_KNOWN = 10_000


@dataclass(frozen=True, slots=True)
class FoundImages:
    """Series of an order.

    Attributes
    ----------
    settled : tuple of SeriesUid
        Image series that are whole as far as we know.
    arriving : int
        Series of which instances may still come.
    quiet_s : float
        Time since the last instance of any of them came, s.
    """

    settled: tuple[SeriesUid, ...]
    arriving: int
    quiet_s: float


def find_images(archive: Archive, order: Order, ours: Callable[[Sequence[str]], set[str]]) -> FoundImages:
    """Return the image series that an order names, by series, else by study, else by accession number.

    Parameters
    ----------
    ours : callable
        Returns those of some series that we published: they are never a source.

    Raises
    ------
    RequestInvalid
        If the order names no images: a patient alone does not say which of their images are meant.
    """
    entities = archive.find("SERIES", _narrowing(order), counted=False)
    uids = [entity["SeriesInstanceUID"] for entity in entities]
    made = ours(uids)
    images = [uid for uid in uids if uid not in made and _has_images(archive, uid)]
    arrivals = {uid: archive.arrival(uid) for uid in images}
    settled = tuple(SeriesUid(uid) for uid, (arriving, _) in arrivals.items() if not arriving)
    return FoundImages(settled, len(images) - len(settled), min((quiet_s for _, quiet_s in arrivals.values()), default=0.0))


class FittingSeries:
    """Tells which series the model can take: a study holds localizers and other contrasts too. Each is read once.

    Parameters
    ----------
    archive : Archive
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._known: dict[tuple[str, str, str], bool] = {}

    def of(self, series_uids: Sequence[SeriesUid], card: ModelCard) -> tuple[SeriesUid, ...]:
        """Return those of several series that fit the card; none may."""
        return tuple(uid for uid in series_uids if self._fits(uid, card))

    def _fits(self, series_uid: SeriesUid, card: ModelCard) -> bool:
        key = (series_uid, self._archive.series_digest(series_uid), f"{card.name} {card.version}")
        if key not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = _fits(self._archive, series_uid, card)
        return self._known[key]


def _fits(archive: Archive, series_uid: SeriesUid, card: ModelCard) -> bool:
    series = archive.series(series_uid)
    try:
        if series.modality == card.limits.modality:
            require_series_fits(to_patient_axes(read_volume(archive.datasets(series))), card)
            return True
    except InputError as error:
        _log.info("series left out of an order", action="order", series_uid=series_uid, code=error.code)
    return False


def fetch_images(puller: Puller, order: Order, verdict: Verdict) -> int:
    """Fetch what an order names from the peer of its rule; return how many series are here whole now.

    Raises
    ------
    ResourceNotFound
        If the peer has nothing of it yet.
    PeerError
        If it does not do its part.
    IncompleteSeries
        If instances that it lists did not come.
    """
    if order.study_uid:
        studies = puller.studies(study_uid=order.study_uid)
    else:
        studies = puller.studies(accession=order.accession, priors=verdict.priors)
    return len([puller.pull(series) for series in puller.series_of(studies, series_uid=order.series_uid)])


def names_images(order: Order) -> bool:
    """Tell whether an order says which images it is about."""
    return bool(order.series_uid or order.study_uid or order.accession)


def _narrowing(order: Order) -> Mapping[str, Sequence[str]]:
    if order.series_uid:
        return {"SeriesInstanceUID": [order.series_uid]}
    if order.study_uid:
        return {"StudyInstanceUID": [order.study_uid]}
    if order.accession:
        return {"AccessionNumber": [order.accession]}
    raise RequestInvalid(
        found="an order that names neither a series, nor a study, nor an accession number",
        allowed="one of them: a patient alone does not say which images are meant",
        action="send the order again with the accession number or the study's UID",
    )


def _has_images(archive: Archive, series_uid: str) -> bool:
    references = archive.references({"SeriesInstanceUID": [series_uid]})
    return any(is_image_class(reference.sop_class_uid) for reference in references)
