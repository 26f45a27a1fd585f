"""`veraicon train`: the encoder and the generator come together here, since neither may know the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from generators.export import export_bundle
from generators.recipes import Parts, Recipe, recipe_of
from generators.run_facts import Precision
from generators.training import train
from generators.training_set import Facts, FactVectors
from generators.weights import load_bundle
from multimodal.encoder import EncoderConfig, MultimodalEncoder
from multimodal.picking import concept_of
from multimodal.sentences import SentenceEncoder
from veraicon.commands.console import err
from veraicon.measuring_run import NAME, STEPS, train_measuring
from veraicon.training_texts import OTHER_FACTS, ways_to_say


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What a person may set of a run.

    Attributes
    ----------
    stages : sequence of str
        Only these; empty for all of the recipe.
    steps : mapping of str to int
        For a stage by name, instead of the recipe's.
    begin_from : Path or None
        Folder of a finished bundle of the same recipe, from whose weights the denoisers start.
    bundle : Path or None
        Folder for weights and card when training is done; None writes none.
    precision : str
        See `generators.recipes.TrainingPlan`.
    """

    stages: Sequence[str] = ()
    steps: Mapping[str, int] = field(default_factory=dict)
    begin_from: Path | None = None
    bundle: Path | None = None
    precision: Precision = "float32"
    threads: int = 2


def run(model: str, dataset: Path, run_folder: Path, options: TrainingOptions) -> None:
    """Train a model with progress, then write its bundle.

    Parameters
    ----------
    model : str
        Name of a recipe, or ``measuring`` for the network that measures.
    dataset : Path
        Folder of the recipe's data set.
    run_folder : Path
        Checkpoints and losses; a run that stopped goes on from here.
    """
    if model == NAME:
        _run_measuring(dataset, run_folder, options)
        return
    recipe = recipe_of(model)
    plan = replace(recipe.plan, steps={**recipe.plan.steps, **options.steps}, precision=options.precision)
    recipe = replace(recipe, plan=plan)
    parts = recipe.read(dataset)
    torch.manual_seed(recipe.plan.seed)  # the encoder's first weights; every later draw has a stream of its own
    encoder, vectors = new_encoder(recipe, parts, SentenceEncoder())
    with _progress() as progress:
        tasks = {stage: progress.add_task(stage, total=None) for stage in options.stages or recipe.stages}

        def show(stage: str, step: int, steps: int, loss: float) -> None:
            progress.update(tasks[stage], completed=step, total=steps, description=f"{stage} loss {loss:.4f}")

        train(
            recipe,
            parts,
            run_folder,
            encoder=encoder,
            vectors=vectors,
            stages=options.stages,
            begin_from=load_bundle(options.begin_from) if options.begin_from else None,
            threads=options.threads,
            progress=show,
        )
    if options.bundle is not None:
        card = export_bundle(recipe, parts, run_folder, dataset, options.bundle, encoder=encoder)
        err.print(f"{card.name} {card.version}, weights {card.weights_digest}, in {options.bundle}")


def _run_measuring(dataset: Path, run_folder: Path, options: TrainingOptions) -> None:
    torch.set_num_threads(options.threads)
    with _progress() as progress:
        task = progress.add_task(NAME, total=None)

        def show(stage: str, step: int, steps: int, loss: float) -> None:
            progress.update(task, completed=step, total=steps, description=f"{stage} loss {loss:.4f}")

        steps = options.steps.get(NAME, STEPS)
        train_measuring(dataset, run_folder, steps=steps, bundle=options.bundle, progress=show)


def new_encoder(recipe: Recipe, parts: Parts, sentences: SentenceEncoder) -> tuple[MultimodalEncoder, FactVectors]:
    """Return an encoder of random weights for the facts of a data set, and the vectors by which these are told."""
    facts = parts["train"].facts
    vectors = fact_vectors(facts, sentences, others=recipe.tells_other_facts)
    texts = tuple(dict.fromkeys((*(concept_of(kind).display for kind in facts.kinds), *facts.texts)))
    config = EncoderConfig(concepts=facts.kinds, latent=recipe.latent, texts=texts, other_facts=recipe.tells_other_facts)
    encoder = MultimodalEncoder(config)
    encoder.text_vectors.copy_(sentences.embed(texts))
    return encoder, vectors


def fact_vectors(facts: Facts, sentences: SentenceEncoder, *, others: bool) -> FactVectors:
    """Return the sentence embeddings of a data set's columns and answers, and of facts that say nothing about the target."""
    return FactVectors(
        concepts=tuple(sentences.embed(ways_to_say(kind)) for kind in facts.kinds),
        answers=sentences.embed(facts.texts),
        others=sentences.embed(OTHER_FACTS if others else ()),
    )


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err)
