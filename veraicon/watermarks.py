"""`veraicon watermark detect`: whether a series carries this site's watermark, with its rate of false alarms."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from sqlmodel import Session, select

from dicom_node.marking.watermark import Detection, detect_watermark, watermark_seed
from domain.errors import RequestInvalid, UnreadableInstance, VerificationFailed
from provenance.as_dicom import extract
from provenance.canonical import from_base64url
from veraicon.files import dicom_files
from veraicon.marking import watermark_secret
from veraicon.recall.tables import OutputRow
from veraicon.settings import Settings
from veraicon.wiring import open_site

_IMAGE_MODALITIES = frozenset({"MR", "CT"})


@dataclass(frozen=True, slots=True)
class WatermarkFinding:
    """What was found.

    Attributes
    ----------
    request_id : str
        The request whose watermark fits best.
    tried : int
        How many requests were looked for.
    """

    detection: Detection
    request_id: str
    tried: int
    slices: int

    @property
    def words(self) -> str:
        """The finding for people."""
        one = self.detection
        return (
            f"score {one.score:.2f}, threshold {one.threshold:.2f} for request {self.request_id}, best of {self.tried} tried; "
            f"{self.slices} slices; at most {one.false_alarm_rate:g} of the volumes without it pass"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the finding as plain JSON values."""
        one = self.detection
        return {
            "found": one.found,
            "score": round(one.score, 3),
            "threshold": round(one.threshold, 3),
            "false_alarm_rate": one.false_alarm_rate,
            "shift": list(one.shift),
            "request": self.request_id,
            "tried": self.tried,
            "slices": self.slices,
        }


def detect(target: Path, settings: Settings, *, requests: tuple[str, ...] = (), search: bool = False) -> WatermarkFinding:
    """Look for the watermark of this site in a series.

    Parameters
    ----------
    target : Path
        Folder with the images of one series, or one file.
    requests : tuple of str
        Whose watermark; empty: the request that the statement in the instance names, else every request of this site.
    search : bool
        Try each shift, for a volume that may have been cropped.

    Raises
    ------
    RequestInvalid
        If there is no secret of this site, no request to look for, or no single series of images.
    UnreadableInstance
        If pixels cannot be decoded.
    """
    secret = watermark_secret(settings.storage.folder)
    images = _images(target)
    candidates = requests or _stated_request(images[0]) or _all_requests(settings)
    stored = _stack(images)
    first = 0 if len(images) == 1 and stored.shape[0] > 1 else int(images[0].get("InstanceNumber") or 1) - 1
    best: tuple[Detection, str] | None = None
    for request_id in candidates:
        seed = watermark_seed(secret, request_id)
        found = detect_watermark(stored, seed, first_slice=max(first, 0), search=search, keys=len(candidates))
        if best is None or found.score > best[0].score:
            best = found, request_id
    if best is None:
        raise RequestInvalid(
            found="no request to look for",
            allowed="--request ID, an instance with its statement, or the database of the site that made it",
            action="name the request with --request",
        )
    return WatermarkFinding(best[0], best[1], len(candidates), stored.shape[0])


def _images(target: Path) -> list[Dataset]:
    """Return the images of one series in the order in which they were made."""
    read = [dcmread(path) for path in dicom_files(target)]
    images = [ds for ds in read if ds.get("Modality") in _IMAGE_MODALITIES and "PixelData" in ds]
    if len({str(ds.get("SeriesInstanceUID")) for ds in images}) != 1:
        raise RequestInvalid(
            found="no image, or images of several series",
            allowed="the MR or CT images of one series",
            action="name the folder of one series",
        )
    return sorted(images, key=lambda ds: int(ds.get("InstanceNumber") or 0))


def _stack(images: list[Dataset]) -> NDArray[Any]:
    try:
        arrays = [ds.pixel_array for ds in images]
        return arrays[0] if arrays[0].ndim == 3 else np.stack(arrays)
    except (AttributeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise UnreadableInstance(
            found=f"pixels that cannot be decoded or stacked ({type(error).__name__})",
            allowed="images of one size in a transfer syntax that is decoded here",
            action="decompress them first",
        ) from error


def _stated_request(ds: Dataset) -> tuple[str, ...]:
    """Return the request that an instance itself names; it need not be true: the watermark shows whether it is."""
    try:
        embedded = extract(ds)
        return (str(json.loads(from_base64url(embedded.jws.split(".")[1]))["requestId"]),) if embedded else ()
    except (VerificationFailed, KeyError, IndexError, ValueError, TypeError):
        return ()


def _all_requests(settings: Settings) -> tuple[str, ...]:
    with open_site(settings) as site, Session(site.engine) as session:
        return tuple(session.exec(select(OutputRow.request_id).order_by(OutputRow.request_id)))
