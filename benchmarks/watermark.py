"""What the watermark costs and when it is found: volumes of the packaged model, marked, changed as others do, and read.

Run it from the repository root: ``python benchmarks/watermark.py [--volumes 24] [--keys 2000]``. The volumes are drawn for the
packaged sample with seeds 0, 1, 2 and so on; it prints Markdown.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import JPEG2000
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dicom_node.marking.watermark import FALSE_ALARM_RATE, detect_watermark, embed_watermark, watermark_seed
from dicom_node.objects.voxels import MR_MAX, stored_voxels
from dicom_node.reading import read_volume
from domain.generation import GeneratedVolume
from domain.volume import Volume, to_patient_axes
from quality.gates import check
from tests.builders_dicom import slice_dataset
from veraicon import logs
from veraicon.asking import request_from
from veraicon.demo import SAMPLE
from veraicon.from_files import take
from veraicon.settings import load_settings
from veraicon.wiring import open_site
from veraicon.worker_wiring import worker_steps

_SECRET = b"benchmark"
Stored = NDArray[Any]


@dataclass(frozen=True)
class Drawn:
    """Volumes of the packaged model, and what the gates compare them with."""

    volumes: list[GeneratedVolume]
    source: Volume
    card: Any


def draw(count: int) -> Drawn:
    """Draw volumes for the packaged sample, one a seed."""
    with tempfile.TemporaryDirectory() as folder, open_site(load_settings(storage={"folder": folder})) as site:
        take(site, SAMPLE / "series", SAMPLE / "patient.json")
        series = site.archive.unannounced(0)[0]
        steps = worker_steps(site, destinations=(), cancelled=lambda _: False)
        request = request_from(site.archive, series.series_uid, site.settings.generation, requested_by="benchmark", seed=0)
        received = steps.receive(request)
        tokens = steps.encode(request, steps.pair(request, received))
        volumes = []
        for seed in range(count):
            volumes.append(steps.generate(replace(request, seed=seed), received, tokens))
            print(f"drew {seed + 1} of {count}", file=sys.stderr)
        source = to_patient_axes(read_volume(site.archive.datasets(received)))
        return Drawn(volumes, source, steps.model.card)


def jpeg_2000(ratio: float) -> Callable[[Stored], Stored]:
    """Return a change: each slice through lossy JPEG 2000 at a compression ratio."""

    def change(stored: Stored) -> Stored:
        slices = []
        for one in stored:
            ds = slice_dataset(1, one.astype(np.uint16), BitsStored=12, HighBit=11)
            ds.compress(JPEG2000, j2k_cr=[ratio], generate_instance_uid=False)
            slices.append(ds.pixel_array)
        return np.stack(slices)

    return change


def _eight_bits(stored: Stored) -> Stored:
    return np.rint(stored * (255 / MR_MAX)).astype(np.uint8)


def _noise(stored: Stored) -> Stored:
    noisy = stored + np.random.default_rng(1).normal(0, 0.01 * MR_MAX, stored.shape)
    return np.rint(np.clip(noisy, 0, MR_MAX)).astype(np.uint16)


def _smoothing(sigma: float) -> Callable[[Stored], Stored]:
    return lambda stored: np.rint(ndimage.gaussian_filter(stored.astype(float), sigma)).astype(np.uint16)


def _turned(stored: Stored) -> Stored:
    return ndimage.rotate(stored.astype(float), 3, axes=(1, 2), reshape=False, order=1)


def _resampled(stored: Stored) -> Stored:
    return ndimage.zoom(stored.astype(float), (1, 1.1, 1.1), order=1)


CHANGES: tuple[tuple[str, Callable[[Stored], Stored], bool], ...] = (
    ("none", lambda stored: stored, False),
    ("one slice in the middle alone", lambda stored: stored[len(stored) // 2 :][:1], False),
    ("rescaled to 8 bits", _eight_bits, False),
    ("lossy JPEG 2000, ratio 4", jpeg_2000(4), False),
    ("lossy JPEG 2000, ratio 8", jpeg_2000(8), False),
    ("lossy JPEG 2000, ratio 16", jpeg_2000(16), False),
    ("Gaussian noise, 1% of the range", _noise, False),
    ("smoothing, sigma 0.7 voxels", _smoothing(0.7), False),
    ("smoothing, sigma 1 voxel", _smoothing(1.0), False),
    ("cropped by 3 slices, 5 rows, 4 columns on each side; every shift searched", lambda s: s[3:-3, 5:-5, 4:-4], True),
    ("turned by 3 degrees; every shift searched", _turned, True),
    ("resampled in the plane by 1.1; every shift searched", _resampled, True),
)


def cost_table(drawn: Drawn, pairs: list[tuple[Stored, Stored]]) -> list[str]:
    """Return the rows of what the watermark costs."""
    psnr, largest, changed = [], [], []
    for plain, marked in pairs:
        moved = marked.astype(float) - plain
        psnr.append(10 * math.log10(MR_MAX**2 / float((moved**2).mean())))
        largest.append(float(np.abs(moved).max()))
        changed.append(float((moved != 0).mean()))
    rows = [
        _row("PSNR, dB", psnr),
        _row(f"largest change of a voxel, steps of {MR_MAX + 1}", largest),
        _row("share of voxels changed", changed),
    ]
    measures: dict[str, list[float]] = {}
    lost = 0
    for volume, (plain, marked) in zip(drawn.volumes, pairs, strict=True):
        before, after = (_measured(volume, stored, drawn) for stored in (plain, marked))
        for name, value in before.items():
            measures.setdefault(name, []).append(abs(after[name] - value) / max(abs(value), 1e-9))
        lost += _passes(volume, plain, drawn) and not _passes(volume, marked, drawn)
    rows += [_row(f"relative change of the gate's measure: {name}", values) for name, values in measures.items()]
    return [*rows, f"| volumes that pass every gate without it and not with it | {lost} of {len(pairs)} | |"]


def _as_volume(volume: GeneratedVolume, stored: Stored) -> GeneratedVolume:
    return replace(volume, volume=replace(volume.volume, array=(stored / MR_MAX).astype(np.float32)))


def _measured(volume: GeneratedVolume, stored: Stored, drawn: Drawn) -> dict[str, float]:
    report = check(_as_volume(volume, stored), drawn.source, drawn.card)
    wanted = ("contrast", "mean", "standard-deviation", "sharpness", "not-a-copy")
    return {one.check: float(one.measured) for one in report.findings if one.check in wanted and one.measured is not None}


def _passes(volume: GeneratedVolume, stored: Stored, drawn: Drawn) -> bool:
    return check(_as_volume(volume, stored), drawn.source, drawn.card).passed


def detection_table(pairs: list[tuple[Stored, Stored]], seeds: list[bytes]) -> list[str]:
    """Return the rows of how often the watermark is found after each change, and how often where there is none."""
    rows = []
    for name, change, search in CHANGES:
        found, absent, losses = [], [], []
        for (plain, marked), seed in zip(pairs, seeds, strict=True):
            changed = change(marked)
            first = len(marked) // 2 if len(changed) == 1 else 0
            found.append(detect_watermark(changed, seed, first_slice=first, search=search))
            absent.append(detect_watermark(change(plain), seed, first_slice=first, search=search))
            losses.append(_loss(marked, changed))
        scores = [one.score for one in found]
        rows.append(
            f"| {name} | {_told(losses)} | {sum(one.found for one in found)} of {len(found)} | {statistics.median(scores):.1f} "
            f"| {min(scores):.1f} | {sum(one.found for one in absent)} of {len(absent)} | {found[0].threshold:.2f} |"
        )
    return rows


def _loss(before: Stored, after: Stored) -> float:
    """PSNR of a change on the same grid and scale; NaN for another."""
    if before.shape != after.shape or before.dtype != after.dtype or (before == after).all():
        return math.nan
    return 10 * math.log10(MR_MAX**2 / float(((after.astype(float) - before) ** 2).mean()))


def _told(losses: list[float]) -> str:
    return "" if any(math.isnan(one) for one in losses) else f"{statistics.median(losses):.1f}"


def false_alarms(pairs: list[tuple[Stored, Stored]], keys: int) -> str:
    """Return a sentence about volumes without the watermark, read with many keys."""
    scores = np.array(
        [
            detect_watermark(plain, watermark_seed(_SECRET, f"absent-{number}-{key}")).score
            for number, (plain, _) in enumerate(pairs)
            for key in range(keys // len(pairs))
        ]
    )
    threshold = detect_watermark(pairs[0][0], _SECRET).threshold
    return (
        f"Without a watermark, {len(scores)} readings with other keys: mean score {scores.mean():.2f}, standard deviation "
        f"{scores.std():.2f}, largest {scores.max():.2f}; {int((scores > 3).sum())} above 3 (a normal variable: "
        f"{len(scores) * 0.00135:.1f}), {int((scores > threshold).sum())} above the threshold {threshold:.2f} "
        f"(stated bound {FALSE_ALARM_RATE:g} a reading)."
    )


def _row(name: str, values: list[float]) -> str:
    return f"| {name} | {statistics.median(values):.4g} | {min(values):.4g} to {max(values):.4g} |"


def main() -> None:
    """Draw, mark, change, read and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=24)
    parser.add_argument("--keys", type=int, default=2400)
    options = parser.parse_args()
    logs.configure(level="warning")
    drawn = draw(options.volumes)
    seeds = [watermark_seed(_SECRET, f"request-{number}") for number in range(options.volumes)]
    pairs = []
    for volume, seed in zip(drawn.volumes, seeds, strict=True):
        plain = stored_voxels(volume.volume).array
        pairs.append((plain, embed_watermark(plain, seed, low=0, high=MR_MAX)))
    shape = " x ".join(map(str, pairs[0][0].shape))
    print(f"{options.volumes} volumes of {shape} voxels (slice, row, column), one a seed.\n")
    print("| cost | median | range |\n|---|---|---|")
    print("\n".join(cost_table(drawn, pairs)))
    print("\n| change | its PSNR, dB | found | median score | least score | found where there is none | threshold |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(detection_table(pairs, seeds)))
    print("\n" + false_alarms(pairs, options.keys))


if __name__ == "__main__":
    main()
