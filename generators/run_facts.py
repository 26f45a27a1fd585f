"""What a training run knows of itself, for the card of its weights. No torch here.

Facts are read from the run folder and from the data set; what neither says is left out, never filled in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

Precision = Literal["float32", "bfloat16"]

PLAN_NAME, LOSSES_NAME = "plan.json", "losses.jsonl"

_PLAN_FACTS = {
    "begun_from": "last stage begun from",
    "seed": "seed",
    "precision": "precision of training",
    "variants": "forms of each case that the denoiser saw",
}


def run_facts(run_folder: Path, dataset_folder: Path) -> tuple[tuple[str, str], ...]:
    """Return the facts of a finished run as entries of a card's training table.

    Parameters
    ----------
    run_folder : Path
        Holds the plan and the losses that `generators.training.train` kept.
    dataset_folder : Path
        The data set that it was trained on.
    """
    plan = _plan(run_folder / PLAN_NAME)
    facts = [(name, str(plan[key])) for key, name in _PLAN_FACTS.items() if plan.get(key) not in {None, ""}]
    facts += [(f"{stage} batch", str(size)) for stage, size in plan.get("batch", {}).items() if stage in plan.get("stages", ())]
    facts += [(f"hours of the {stage}, pauses included", f"{hours:.2f}") for stage, hours in _hours(run_folder / LOSSES_NAME)]
    files = sorted(path for path in dataset_folder.rglob("*.nii.gz") if path.is_file())
    facts.append(("data set digest", f"{dataset_digest(dataset_folder, files)} over {len(files)} files"))
    return tuple(facts)


def dataset_digest(folder: Path, files: Iterable[Path]) -> str:
    """Return ``sha256:`` over one line a file, in order of name: hex digest, two blanks, name below `folder`.

    ``sha256sum`` of the same files writes these lines, so anybody can repeat it.
    """
    lines = sorted((path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files)
    listed = "".join(f"{digest}  {name}\n" for name, digest in lines)
    return f"sha256:{hashlib.sha256(listed.encode()).hexdigest()}"


def _plan(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _hours(path: Path) -> Iterator[tuple[str, float]]:
    """Yield each stage with the hours from its first logged step to its last."""
    if not path.exists():
        return
    moments: dict[str, list[float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "time" in row:
            moments.setdefault(row["stage"], []).append(float(row["time"]))
    for stage, times in moments.items():
        yield stage, (max(times) - min(times)) / 3600
