"""Trains the hippocampus model: one visible loop over the steps of two stages, resumable after any of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog
import torch

from domain.errors import ConfigurationError, NonFiniteOutput
from generators.autoencoder import Autoencoder, AutoencoderShape
from generators.hippocampus_data import GridBatch, of_subjects, on_grid, read_crops, split_subjects
from generators.latent_data import LatentData, latents_of, standardise_latents
from generators.stages import AutoencoderStage, DenoiserStage, Stage
from generators.weights import file_digest
from multimodal.conditioning import TokenEncoder

log = structlog.get_logger()

STAGES = ("autoencoder", "denoiser")
Progress = Callable[[str, int, int, float], None]


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How long and how; a run folder keeps the plan that it was started with.

    Attributes
    ----------
    variants : int
        Forms of each crop that the denoiser sees: one as it is, the others bent.
    check_every : int
        Steps between measuring the held-out loss and writing a checkpoint.
    patience : int
        Checks without a better held-out loss after which a stage stops.
    """

    autoencoder_steps: int = 3500
    denoiser_steps: int = 5000
    autoencoder_batch: int = 2
    denoiser_batch: int = 8
    variants: int = 12
    check_every: int = 250
    patience: int = 8
    seed: int = 20261


def train(
    dataset_folder: Path,
    run_folder: Path,
    *,
    encoder: TokenEncoder,
    plan: TrainingPlan | None = None,
    stages: Sequence[str] = STAGES,
    threads: int = 2,
    resume: bool = True,
    progress: Progress = lambda stage, step, steps, loss: None,
) -> None:
    """Train the stages that are named, in order, keeping the best weights of each in the run folder.

    Parameters
    ----------
    dataset_folder : Path
        MSD Task04 (see `generators.hippocampus_data.read_crops`).
    run_folder : Path
        Checkpoints, losses (``losses.jsonl``) and the plan. Created if missing.
    encoder : TokenEncoder
        Trained together with the denoiser.
    resume : bool
        Go on after the last checkpoint of a stage; False begins anew.
    progress : callable
        Told (stage, step, steps, loss) after every step.

    Raises
    ------
    ConfigurationError
        If the data set is not there, or a stage is unknown or lacks the one before it.
    NonFiniteOutput
        If a loss is not finite.
    """
    unknown = set(stages) - set(STAGES)
    if unknown:
        raise ConfigurationError(found=f"unknown stages {sorted(unknown)}", allowed=", ".join(STAGES), action="name these")
    plan = plan or TrainingPlan()
    torch.set_num_threads(threads)
    run_folder.mkdir(parents=True, exist_ok=True)
    _write_json(run_folder / "plan.json", asdict(plan))
    crops = read_crops(dataset_folder)
    split = split_subjects(crops)
    train_part, held_out = on_grid(of_subjects(crops, split.train)), on_grid(of_subjects(crops, split.validation))
    if "autoencoder" in stages:
        stage = AutoencoderStage(train_part, held_out, seed=plan.seed, batch=plan.autoencoder_batch)
        run_stage(stage, run_folder, steps=plan.autoencoder_steps, plan=plan, resume=resume, progress=progress)
    if "denoiser" in stages:
        load_checkpoint(run_folder / "autoencoder.pt")  # says which stage is missing
        latents = _latents(run_folder, train_part, held_out, plan)
        second = DenoiserStage(*latents, encoder, seed=plan.seed, batch=plan.denoiser_batch)
        run_stage(second, run_folder, steps=plan.denoiser_steps, plan=plan, resume=resume, progress=progress)


def run_stage(stage: Stage, folder: Path, *, steps: int, plan: TrainingPlan, resume: bool, progress: Progress) -> None:
    """Train one stage to its last step, or until the held-out loss no longer falls.

    ``<stage>.pt`` is the last checkpoint, ``<stage>-best.pt`` the one with the lowest held-out loss.
    """
    last, best = folder / f"{stage.name}.pt", folder / f"{stage.name}-best.pt"
    first, lowest, checks_since = 0, float("inf"), 0
    if resume and last.exists():
        saved = load_checkpoint(last)
        stage.restore(saved["stage"])
        first, lowest, checks_since = saved["step"], saved["lowest"], saved["checks_since"]
        log.info("training resumed", stage=stage.name, step=first)
    for step in range(first, steps):
        if checks_since >= plan.patience:
            log.info("training stopped early", stage=stage.name, step=step)
            return
        losses = stage.step(step, steps)
        _require_finite(losses, stage.name)
        progress(stage.name, step + 1, steps, losses["loss"])
        if (step + 1) % 10 == 0:
            _append(folder / "losses.jsonl", {"stage": stage.name, "step": step + 1, "time": round(time.time()), **losses})
        if (step + 1) % plan.check_every == 0 or step + 1 == steps:
            held_out = stage.held_out_loss()
            _append(folder / "losses.jsonl", {"stage": stage.name, "step": step + 1, "held_out": held_out})
            checks_since = 0 if held_out < lowest else checks_since + 1
            lowest = min(lowest, held_out)
            saved = {"stage": stage.state(), "step": step + 1, "lowest": lowest, "checks_since": checks_since}
            save_checkpoint(saved, last)
            if checks_since == 0:
                save_checkpoint({"stage": saved["stage"], "step": step + 1}, best)


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint; a reader finds the whole file or the one before."""
    partial = path.with_name(path.name + ".partial")
    torch.save(content, partial)
    partial.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint: tensors and plain values only, no code.

    Raises
    ------
    ConfigurationError
        If the stage was not trained here.
    """
    if not path.exists():
        raise ConfigurationError(
            found=f"no {path.name} in the run folder",
            allowed="the checkpoint of a stage that was trained",
            action="train the stages in order: autoencoder, denoiser",
        )
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def trained_autoencoder(run_folder: Path, train_part: GridBatch) -> Autoencoder:
    """Return the autoencoder of a run, its latents standardised over the crops that it was trained on.

    It is the last one, not the one with the lowest held-out loss: that loss cannot see the texture which the discriminator
    teaches at the end.
    """
    autoencoder = Autoencoder(AutoencoderShape())
    autoencoder.load_state_dict(load_checkpoint(run_folder / "autoencoder.pt")["stage"]["autoencoder"])
    autoencoder.eval().requires_grad_(requires_grad=False)
    standardise_latents(autoencoder, train_part)
    return autoencoder


def _latents(run_folder: Path, train_part: GridBatch, held_out: GridBatch, plan: TrainingPlan) -> tuple[LatentData, LatentData]:
    """Return the latents of both parts; kept in the run folder under the digest of the autoencoder that made them."""
    digest = file_digest(run_folder / "autoencoder.pt").removeprefix("sha256:")[:12]
    made = []
    for name, part, variants in (("train", train_part, plan.variants), ("validation", held_out, 2)):
        path = run_folder / f"latents-{name}-{variants}-{digest}.safetensors"
        if not path.exists():
            log.info("latents are being made", part=name, crops=len(part), variants=variants)
            autoencoder = trained_autoencoder(run_folder, train_part)
            latents_of(autoencoder, part, variants=variants, seed=plan.seed).save(path)
        made.append(LatentData.load(path))
    return made[0], made[1]


def _require_finite(losses: dict[str, float], stage: str) -> None:
    if not all(abs(loss) < float("inf") for loss in losses.values()):
        raise NonFiniteOutput(
            found=f"a loss of the {stage} that is not finite",
            allowed="finite losses",
            action="resume from the last checkpoint with another seed, or a lower learning rate",
        )


def _append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as lines:
        lines.write(json.dumps(row) + os.linesep)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
