"""`veraicon train`: the encoder and the generator come together here, since neither may know the other."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from generators.training import TrainingPlan, train
from multimodal.encoder import MultimodalEncoder
from veraicon.commands.console import err


def run(dataset: Path, run_folder: Path, *, plan: TrainingPlan, bundle: Path | None, threads: int) -> None:
    """Train both stages with progress, then write the bundle.

    Parameters
    ----------
    dataset : Path
        Images, labels and measurements of MSD Task04.
    run_folder : Path
        Checkpoints and losses; a run that stopped goes on from here.
    bundle : Path or None
        Folder for weights and card; None writes none.
    """
    torch.manual_seed(plan.seed)  # the encoder's first weights; every later draw has a stream of its own
    encoder = MultimodalEncoder()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err) as progress:
        tasks = {stage: progress.add_task(stage, total=None) for stage in ("autoencoder", "denoiser")}

        def show(stage: str, step: int, steps: int, loss: float) -> None:
            progress.update(tasks[stage], completed=step, total=steps, description=f"{stage} loss {loss:.4f}")

        train(dataset, run_folder, encoder=encoder, plan=plan, threads=threads, progress=show)
    if bundle is not None:
        from generators.export import export_bundle

        card = export_bundle(run_folder, dataset, bundle, encoder=encoder)
        err.print(f"{card.name} {card.version}, weights {card.weights_digest}, in {bundle}")
