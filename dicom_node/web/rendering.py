"""A frame as a picture that a browser shows: modality values, window, PNG or JPEG.

What is marked synthetic says so in the picture too, for people in its corner and for programs in its XMP, since its DICOM marks
do not travel with it.

References
----------
DICOM PS3.18 8.3.5 (rendering parameters); PS3.3 C.11.2.1.2 (window), C.7.6.16.2.9 and C.7.6.16.2.10 (per frame).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi

from dicom_node.holding.headers import PARSE_ERRORS, text_of
from dicom_node.marking.lettering import WORD
from dicom_node.marking.pictures import png_information, xmp_packet
from domain.errors import AnswerUnacceptable, RequestInvalid

PNG, JPEG = "image/png", "image/jpeg"
RENDERED_TYPES = (JPEG, PNG)

_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
_NUMBER = r"[+-]?[0-9]{1,9}(?:\.[0-9]{1,9})?(?:[eE][+-]?[0-9]{1,2})?"
_MAX_SIDE = 8192

Grey = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Window:
    """Center and width in the output unit of the modality (HU for CT), and the function between (PS3.3 C.11.2.1.2)."""

    center: float
    width: float
    function: str = "LINEAR"

    def apply(self, values: Grey) -> Grey:
        """Return values between 0 and 1."""
        if self.function == "SIGMOID":
            rising: Grey = 1 / (1 + np.exp(np.clip(-4 * (values - self.center) / self.width, -700, 700)))
            return rising
        if self.function == "LINEAR_EXACT":
            return np.clip((values - self.center) / self.width + 0.5, 0, 1)
        # A width of 1 is a step at the center: the limit of the formula, which would divide by nothing.
        return np.clip((values - (self.center - 0.5)) / max(self.width - 1, 1e-9) + 0.5, 0, 1)


@dataclass(frozen=True, slots=True)
class Rendering:
    """What a caller may choose.

    Attributes
    ----------
    window : Window or None
        None: the instance's own, or from its least to its greatest value.
    viewport : (int, int) or None
        Columns and rows that the picture has to fit into.
    crop : (int, int, int, int) or None
        Left, top, columns and rows of the part to show.
    quality : int
        Of JPEG, 1 to 100.
    """

    window: Window | None = None
    viewport: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] | None = None
    quality: int = 90


def parse_rendering(parameters: Mapping[str, str]) -> Rendering:
    """Return the rendering that query parameters ask for.

    Raises
    ------
    RequestInvalid
        If one has a value that it cannot have.
    """
    crop = None
    viewport = parameters.get("viewport", "")
    if viewport:
        numbers = viewport.split(",")
        if len(numbers) not in (2, 6) or not all(re.fullmatch(r"[0-9]{1,5}", number) for number in numbers):
            raise _invalid("a viewport that is none", "columns,rows or columns,rows,left,top,columns,rows in pixels")
        sizes = [int(number) for number in numbers]
        if not all(1 <= size <= _MAX_SIDE for size in (*sizes[:2], *sizes[4:])):
            raise _invalid("a viewport that is none", f"sides of 1 to {_MAX_SIDE} pixels")
        crop = (sizes[2], sizes[3], sizes[4], sizes[5]) if len(sizes) == 6 else None
    quality = parameters.get("quality", "90")
    if not re.fullmatch(r"[0-9]{1,3}", quality) or not 1 <= int(quality) <= 100:
        raise _invalid("a quality that is none", "1 to 100")
    return Rendering(_window(parameters.get("window", "")), (sizes[0], sizes[1]) if viewport else None, crop, int(quality))


def render(ds: Dataset, number: int, media_type: str, rendering: Rendering) -> bytes:
    """Return one frame (from 1) as PNG or JPEG, eight bits a channel.

    Raises
    ------
    AnswerUnacceptable
        If the frame cannot be decoded here.
    """
    try:
        picture = Image.fromarray(_eight_bits(ds, number - 1, rendering.window))
    except (*PARSE_ERRORS, OSError, RuntimeError) as error:
        raise AnswerUnacceptable(
            found=f"a frame that cannot be rendered ({type(error).__name__})",
            allowed="Pixel Data in a transfer syntax that is decoded here",
            action="retrieve the instance as it is held (application/dicom; transfer-syntax=*)",
        ) from error
    picture = _placed(picture, rendering)
    synthetic = is_synthetic(ds)
    if synthetic:
        _stamp(picture)
    buffer = BytesIO()
    if media_type == PNG:
        picture.save(buffer, "PNG", pnginfo=png_information() if synthetic else None)
    else:
        picture.save(buffer, "JPEG", quality=rendering.quality, **({"xmp": xmp_packet()} if synthetic else {}))
    return buffer.getvalue()


def is_synthetic(ds: Dataset) -> bool:
    """Return whether an instance says of itself that it is synthetic (PS3.3 C.12.1, Synthetic Data)."""
    return text_of(ds, "SyntheticData") == "YES"


def _window(text: str) -> Window | None:
    if not text:
        return None
    found = re.fullmatch(rf"({_NUMBER}),({_NUMBER})(?:,([A-Za-z_-]+))?", text)
    function = (found[3] or "LINEAR").upper().replace("-", "_") if found else ""
    if found is None or function not in _FUNCTIONS or float(found[2]) < (1 if function == "LINEAR" else 1e-9):
        raise _invalid("a window that is none", "center,width and optionally linear, linear-exact or sigmoid; width 1 or more")
    return Window(float(found[1]), float(found[2]), function)


def _eight_bits(ds: Dataset, index: int, window: Window | None) -> NDArray[np.uint8]:
    decoder = get_decoder(ds.file_meta.TransferSyntaxUID)
    stored, properties = next(iter(decoder.iter_array(ds, indices=[index])))
    meaning = str(properties["photometric_interpretation"])
    if meaning == "PALETTE COLOR":
        stored = apply_color_lut(stored, ds)
    if stored.ndim == 3:
        shift = max(0, stored.dtype.itemsize * 8 - 8)
        return np.asarray(stored >> shift if shift else stored, dtype=np.uint8)
    rescale = _frame_attributes(ds, index, "PixelValueTransformationSequence")
    values = apply_modality_lut(stored, rescale).astype(np.float64)
    grey = _windowed(values, stored, _frame_attributes(ds, index, "FrameVOILUTSequence"), window, _padding(ds))
    return np.rint(255 * (1 - grey if meaning == "MONOCHROME1" else grey)).astype(np.uint8)


def _windowed(values: Grey, stored: NDArray[Any], own: Dataset, window: Window | None, padding: int | None) -> Grey:
    """Return values between 0 and 1, by the caller's window, the instance's VOI LUT or window, or their own range."""
    if window is None and own.get("VOILUTSequence"):
        bits = int(own.VOILUTSequence[0].LUTDescriptor[2])
        looked_up: Grey = apply_voi(np.rint(values).astype(np.int32), own).astype(np.float64)
        unit: Grey = np.clip(looked_up / (2**bits - 1), 0, 1)
        return unit
    if window is None and text_of(own, "WindowCenter") and text_of(own, "WindowWidth"):
        center, width = (float(text_of(own, keyword).split("\\")[0]) for keyword in ("WindowCenter", "WindowWidth"))
        function = text_of(own, "VOILUTFunction") or "LINEAR"
        window = Window(center, width, function) if width > 0 and function in _FUNCTIONS else None
    if window is not None:
        return window.apply(values)
    shown = values[stored != padding] if padding is not None and (stored != padding).any() else values
    low, high = float(shown.min()), float(shown.max())
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)


def _frame_attributes(ds: Dataset, index: int, sequence: str) -> Dataset:
    """Return what holds for one frame: its own functional group, the shared one, or the instance itself."""
    per_frame = ds.get("PerFrameFunctionalGroupsSequence") or []
    shared = ds.get("SharedFunctionalGroupsSequence") or []
    for group in (*per_frame[index : index + 1], *shared[:1]):
        if group.get(sequence):
            found: Dataset = group[sequence].value[0]
            return found
    return ds


def _padding(ds: Dataset) -> int | None:
    text = text_of(ds, "PixelPaddingValue")
    return int(text) if re.fullmatch(r"-?[0-9]{1,6}", text) else None


def _placed(picture: Image.Image, rendering: Rendering) -> Image.Image:
    if rendering.crop is not None:
        left, top, columns, rows = rendering.crop
        picture = picture.crop((left, top, left + columns, top + rows))
    if rendering.viewport is not None:
        scale = min(rendering.viewport[0] / picture.width, rendering.viewport[1] / picture.height)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    return picture


def _stamp(picture: Image.Image) -> None:
    """Write the mark over the top left corner, light on dark, as high as a picture of 64 pixels still bears."""
    pen = ImageDraw.Draw(picture)
    size = max(8, picture.height // 16)
    pen.rectangle(pen.textbbox((1, 1), WORD, font_size=size), fill=0)
    pen.text((1, 1), WORD, fill=255 if picture.mode == "L" else (255, 255, 255), font_size=size)


def _invalid(found: str, allowed: str) -> RequestInvalid:
    return RequestInvalid(found=found, allowed=allowed, action="correct the parameter (PS3.18 8.3.5)")
