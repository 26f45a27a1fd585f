"""Trains a model by its recipe: one visible loop over the steps of its stages, resumable after any of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog
import torch

from domain.errors import ConfigurationError, NonFiniteOutput
from generators.adversarial_stage import AdversarialStage
from generators.autoencoder import Autoencoder, AutoencoderShape, one_hot
from generators.autoencoder_stages import ImageAutoencoderStage, LabelAutoencoderStage
from generators.cards import training_default
from generators.denoiser_stage import DenoiserStage
from generators.latent_data import LatentData, latents_of, standardise_latents
from generators.recipes import Parts, Recipe, TrainingPlan
from generators.run_facts import PLAN_NAME
from generators.stages import LastStage, Stage
from generators.training_set import FactVectors, TrainingSet
from generators.variational_stage import VariationalStage
from generators.vector_data import VectorData
from generators.weights import Bundle, file_digest
from multimodal.conditioning import TokenEncoder

log = structlog.get_logger()

Progress = Callable[[str, int, int, float], None]


def train(
    recipe: Recipe,
    parts: Parts,
    run_folder: Path,
    *,
    encoder: TokenEncoder,
    vectors: FactVectors,
    stages: Sequence[str] = (),
    begin_from: Bundle | None = None,
    threads: int = 2,
    progress: Progress = lambda stage, step, steps, loss: None,
) -> None:
    """Train the stages that are named (all of them by default), in order, keeping the best weights of each in the run folder.

    A stage goes on after its last checkpoint.

    Parameters
    ----------
    parts : mapping
        What `recipe.read` returned.
    run_folder : Path
        Checkpoints, losses (``losses.jsonl``) and the plan. Created if missing.
    encoder : TokenEncoder
        Trained together with the denoisers.
    vectors : FactVectors
        Sentence embeddings for the facts of the data set.
    begin_from : Bundle or None
        A finished model: its autoencoders are taken as they are, and the last stage starts from its weights.
    progress : callable
        Told (stage, step, steps, loss) after every step.

    Raises
    ------
    ConfigurationError
        If a stage is unknown or lacks the one before it.
    NonFiniteOutput
        If a loss is not finite.
    """
    unknown = set(stages) - set(recipe.stages)
    if unknown:
        raise ConfigurationError(found="unknown stages", allowed=", ".join(recipe.stages), action="name some of these")
    torch.set_num_threads(threads)
    run_folder.mkdir(parents=True, exist_ok=True)
    _write_plan(recipe, run_folder, begin_from)
    if begin_from:
        _adopt_autoencoders(recipe, run_folder, begin_from)
    for name in recipe.stages:
        if not stages or name in stages:
            stage = _stage(name, recipe, parts, run_folder, encoder, vectors)
            if begin_from and isinstance(stage, LastStage):
                stage.begin_from(begin_from.states)
            run_stage(stage, run_folder, steps=recipe.plan.steps[name], plan=recipe.plan, progress=progress)


def run_stage(stage: Stage, folder: Path, *, steps: int, plan: TrainingPlan, progress: Progress) -> None:
    """Train one stage to its last step, or until the held-out loss no longer falls.

    ``<stage>.pt`` is the last checkpoint, ``<stage>-best.pt`` the one with the lowest held-out loss.
    """
    last, best = folder / f"{stage.name}.pt", folder / f"{stage.name}-best.pt"
    first, lowest, checks_since = 0, float("inf"), 0
    if last.exists():
        saved = load_checkpoint(last)
        if saved["step"] >= steps or saved.get("adopted"):
            return
        stage.restore(saved["stage"])
        first, lowest, checks_since = saved["step"], saved["lowest"], saved["checks_since"]
        log.info("training resumed", stage=stage.name, step=first)
    for step in range(first, steps):
        if checks_since >= plan.patience:
            log.info("training stopped early", stage=stage.name, step=step)
            return
        with torch.autocast("cpu", torch.bfloat16, enabled=plan.precision == "bfloat16"):
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


def _adopt_autoencoders(recipe: Recipe, run_folder: Path, finished: Bundle) -> None:
    """Put the autoencoders of a finished model where a run keeps its own, as stages that are trained no further."""
    for name in recipe.stages[:-1]:
        path = run_folder / f"{name}.pt"
        if not path.exists():
            stage = {"autoencoder": finished.states[name.replace("-", "_")]}
            trained = int(training_default(finished.card, f"{name} steps") or recipe.plan.steps[name])
            save_checkpoint({"stage": stage, "step": trained, "adopted": True}, path)


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
            action="train the stages in order: autoencoders, then the denoiser",
        )
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


@dataclass(frozen=True, eq=False)
class Autoencoders:
    """Trained autoencoders of a run; their latents are standardised over the cases that they were trained on."""

    labels: Autoencoder
    image: Autoencoder | None


def trained_autoencoders(recipe: Recipe, run_folder: Path, train_part: TrainingSet) -> Autoencoders:
    """Return the autoencoders of a run.

    Of the image's it is the last one, not the one with the lowest held-out loss: that loss cannot see the texture which the
    discriminator teaches at the end.
    """
    count = recipe.label_autoencoder.voxel_channels
    labels = _trained(recipe.label_autoencoder, run_folder / "label-autoencoder.pt")
    standardise_latents(labels, (one_hot(label_map[None], count) for label_map in train_part.labels))
    with_image = recipe.image_autoencoder is not None
    return Autoencoders(labels, trained_image_autoencoder(recipe, run_folder, train_part) if with_image else None)


def trained_image_autoencoder(recipe: Recipe, run_folder: Path, train_part: TrainingSet) -> Autoencoder:
    """Return the image's autoencoder of a run, alone.

    Raises
    ------
    ConfigurationError
        If the recipe or the data set has no images, or the stage was not trained.
    """
    if recipe.image_autoencoder is None or train_part.images is None:
        raise ConfigurationError(found="a model without images", allowed="images", action="train the label stages alone")
    image = _trained(recipe.image_autoencoder, run_folder / "image-autoencoder.pt")
    standardise_latents(image, (one[None] for one in train_part.images))
    return image


def _trained(shape: AutoencoderShape, path: Path) -> Autoencoder:
    autoencoder = Autoencoder(shape)
    state = load_checkpoint(path)["stage"]["autoencoder"]
    autoencoder.load_state_dict(state)
    return autoencoder.eval().requires_grad_(requires_grad=False)


def _stage(name: str, recipe: Recipe, parts: Parts, run_folder: Path, encoder: TokenEncoder, vectors: FactVectors) -> Stage:
    train_part, held_out, plan = parts["train"], parts["validation"], recipe.plan
    if name == "label-autoencoder":
        return LabelAutoencoderStage(train_part, held_out, recipe.label_autoencoder, seed=plan.seed, batch=plan.batch[name])
    if name == "image-autoencoder" and recipe.image_autoencoder is not None:
        return ImageAutoencoderStage(train_part, held_out, recipe.image_autoencoder, seed=plan.seed, batch=plan.batch[name])
    if recipe.vector is not None:
        return _vector_stage(recipe, parts, run_folder, encoder, vectors)
    latents, held_out_latents = _latents(recipe, parts, run_folder)
    return DenoiserStage(recipe, latents, held_out_latents, encoder, vectors, train_part.facts)


def _vector_stage(recipe: Recipe, parts: Parts, run_folder: Path, encoder: TokenEncoder, vectors: FactVectors) -> Stage:
    """Return the stage of a family VAE or GAN. The image's autoencoder stays as it is: prior images are told by its latents."""
    autoencoder = trained_image_autoencoder(recipe, run_folder, parts["train"])
    train_part, held_out = (
        VectorData.of(parts[name], autoencoder, variants=variants, seed=recipe.plan.seed)
        for name, variants in (("train", recipe.plan.variants), ("validation", 1))
    )
    stages: dict[str, Callable[..., Stage]] = {"vae": VariationalStage, "gan": AdversarialStage}
    return stages[recipe.family](recipe, train_part, held_out, encoder, vectors)


def _latents(recipe: Recipe, parts: Parts, run_folder: Path) -> Iterator[LatentData]:
    """Yield the latents of both parts; kept in the run folder under the digest of the autoencoders that made them."""
    made_by = sorted(run_folder.glob("*-autoencoder.pt"))
    digest = "-".join(file_digest(path).removeprefix("sha256:")[:8] for path in made_by)
    for name, variants in (("train", recipe.plan.variants), ("validation", 2)):
        path = run_folder / f"latents-{name}-{variants}-{digest}.safetensors"
        if not path.exists():
            log.info("latents are being made", part=name, cases=len(parts[name]), variants=variants)
            autoencoders = trained_autoencoders(recipe, run_folder, parts["train"])
            made = latents_of(autoencoders.labels, autoencoders.image, parts[name], variants=variants, seed=recipe.plan.seed)
            made.save(path)
        yield LatentData.load(path)


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


def _write_plan(recipe: Recipe, run_folder: Path, begin_from: Bundle | None) -> None:
    """Write the plan; what a run was begun from stays in it when it is resumed."""
    path = run_folder / PLAN_NAME
    begun_from = json.loads(path.read_text()).get("begun_from", "") if path.exists() else ""
    if begin_from:
        begun_from = f"{begin_from.card.name} {begin_from.card.version}, {begin_from.card.weights_digest}"
    plan = {"model": recipe.name, "stages": recipe.stages, "begun_from": begun_from, **asdict(recipe.plan)}
    path.write_text(json.dumps(plan, indent=2) + "\n")
