"""Whether outputs can be made again bit by bit: each in a process of its own, from its attestation and its source alone.

Volumes with other seeds and other requested volumes are generated from the packaged sample, or from the series and Bundle that
are named; a seed whose volume a check rejects is counted and the next one taken. Each is replayed with no kept token or volume.

Run: python -m benchmarks.replay [N [DICOM FHIR]]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

_SAMPLE = Path(__file__).resolve().parents[1] / "veraicon" / "sample"
_REJECTED = 3
# Within what the packaged model was trained on, in mm3.
_SMALLEST, _STEP, _STEPS = 2700, 100, 8


def _run(*arguments: str, folder: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    environment = os.environ | {"VERAICON_STORAGE__FOLDER": str(folder / "site")}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "veraicon", *arguments], capture_output=True, text=True, env=environment, check=False
    )
    return done, time.perf_counter() - began


def main() -> None:
    """Generate and replay N outputs; print how many came out bit-exact and what a replay costs over a generation."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    dicom, fhir = sys.argv[2:4] if len(sys.argv) > 3 else (str(_SAMPLE / "series"), str(_SAMPLE / "patient.json"))
    found: Counter[str] = Counter()
    ratios, seed, rejected = [], 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        while sum(found.values()) < wanted:
            seed += 1
            out, ask = folder / str(seed), f"hippocampus-volume={_SMALLEST + _STEP * (seed % _STEPS)} mm3"
            source = ("--dicom", dicom, "--fhir", fhir, "--ask", ask)
            made, generating = _run("generate", *source, "--seed", str(seed), "--out", str(out), folder=folder)
            if made.returncode == _REJECTED:
                rejected += 1
                continue
            if made.returncode:
                raise SystemExit(made.stderr)
            again, replaying = _run("replay", str(out), *source, "--json", folder=folder)
            if not again.stdout:
                raise SystemExit(again.stderr)
            found[json.loads(again.stdout)["likeness"]] += 1
            ratios.append(replaying / generating)
    told = ", ".join(f"{count} {likeness}" for likeness, count in found.most_common())
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"{told}, n = {wanted}; {rejected} seeds rejected before by a check")
    print(f"whole process, replay over generate: median {statistics.median(ratios):.2f}, {spread}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
