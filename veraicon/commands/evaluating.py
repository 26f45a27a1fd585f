"""The command that measures models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from veraicon.commands.console import err, show_json
from veraicon.evaluation.plan import EvaluationPlan, Sampling

_DEFAULT = EvaluationPlan()


def evaluate(
    models: Annotated[
        list[str], typer.Argument(help="Packaged names or bundle folders, measured side by side.", metavar="MODEL...")
    ],
    dataset: Annotated[Path, typer.Option(exists=True, file_okay=False, help="The data set that the models were trained on.")],
    out_folder: Annotated[Path, typer.Option("--out", file_okay=False, help="Gets table, JSON and contact sheets.")],
    count: Annotated[int, typer.Option(min=2, help="Volumes of each arm.")] = _DEFAULT.count,
    seed: Annotated[int, typer.Option(min=0, max=2**30, help="Of the first volume.")] = _DEFAULT.seed,
    guidance: Annotated[
        list[str] | None, typer.Option(help="Instead of the card's default: 2, or prior-image=2; may be given again.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampler steps instead of the card's default.")] = None,
    segmenter_steps: Annotated[
        int, typer.Option(min=1, help="Training steps of each segmenter that tells what volumes are worth as training data.")
    ] = _DEFAULT.segmenter_steps,
    measuring: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of another measuring network.")
    ] = None,
    write_cards: Annotated[bool, typer.Option("--write-cards", help="Put the figures into the cards of the models.")] = False,
    threads: Annotated[int, typer.Option(min=1)] = _DEFAULT.threads,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Measure models on people whom they were not trained on, beside real volumes, and say which bars they miss."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from veraicon.asking import parse_guidance
    from veraicon.evaluation.report import to_json, to_markdown
    from veraicon.evaluation.run import evaluate as run

    plan = EvaluationPlan(
        count=count,
        seed=seed,
        segmenter_steps=segmenter_steps,
        threads=threads,
        sampling=Sampling(parse_guidance(guidance or []), steps),
        measuring=measuring,
        write_cards=write_cards,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err) as progress:
        tasks = {}

        def tell(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=of)
            progress.update(tasks[what], completed=done)

        report = run(models, dataset, out_folder, plan, tell)
    err.print(f"table, JSON and contact sheets in {out_folder}", markup=False)
    if as_json:
        show_json(to_json(report))
    else:
        typer.echo(to_markdown(report))
