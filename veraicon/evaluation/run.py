"""`veraicon evaluate`: real people, volumes drawn for them, a network that measures both, figures, a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from domain.errors import RequestInvalid
from domain.generation import guidance_text
from generators.cards import WEIGHTS_NAME, bundle_folder, bundled_models, write_card
from generators.hippocampus_data import CONCEPTS
from quality.measuring_network import PACKAGED
from quality.resampling import Estimate
from veraicon.evaluation import figures
from veraicon.evaluation.carding import with_figures
from veraicon.evaluation.lesions import NIHSS, Lesions, lesion_rows
from veraicon.evaluation.models import EvaluatedModel, open_model
from veraicon.evaluation.plan import EvaluationPlan, Tell, telling
from veraicon.evaluation.report import ModelReport, Report, Row, write

_LESIONS = "stroke-lesion"
_MEGABYTE = 1e6


def evaluate(names: Sequence[str], dataset: Path, out: Path, plan: EvaluationPlan, tell: Tell) -> Report:
    """Measure models on the held-out people of a data set; write table, JSON and contact sheets, and return the report.

    Parameters
    ----------
    names : sequence of str
        Packaged names or bundle folders.
    tell : callable
        Told how far it is.

    Raises
    ------
    RequestInvalid
        If the models are not all of hippocampi, or all of stroke lesions.
    WeightsRejected
        If a model or the measuring network cannot be trusted.
    ConfigurationError
        If the folder does not hold the data set.
    """
    models = [open_model(name, sampling=plan.sampling, threads=plan.threads) for name in names]
    about = _subject(models)
    out.mkdir(parents=True, exist_ok=True)
    report = _lesions(models, dataset, plan, tell) if about == NIHSS else _hippocampi(models, dataset, out, plan, tell)
    write(report, out)
    if plan.write_cards:
        for name, model, figures_of in zip(names, models, report.models, strict=True):
            write_card(with_figures(model.card, figures_of), bundle_folder(name))
    return report


def package_size() -> Row:
    """Return the size of all weights that are installed with this package, in megabytes."""
    weights = [bundle_folder(name) / WEIGHTS_NAME for name in bundled_models()] + [PACKAGED / WEIGHTS_NAME]
    sizes = [path.stat().st_size for path in weights if path.is_file()]
    size = Estimate(sum(sizes) / _MEGABYTE, np.nan, np.nan, len(sizes), 0)
    return Row("package-size", "weights in the package, all models together", size, "MB")


def _hippocampi(models: Sequence[EvaluatedModel], dataset: Path, out: Path, plan: EvaluationPlan, tell: Tell) -> Report:
    from veraicon.evaluation.hippocampi import HippocampusBench

    bench = HippocampusBench(dataset, out, plan, tell)
    return Report(tuple(_with_size(bench.measure(model)) for model in models), bench.facts())


def _lesions(models: Sequence[EvaluatedModel], dataset: Path, plan: EvaluationPlan, tell: Tell) -> Report:
    from generators.recipes import recipe_of

    recipe = recipe_of(_LESIONS)
    lesions = Lesions(recipe.read(dataset)["test"], recipe.spacing_mm)
    reports = []
    for model in models:
        told = telling(tell, f"{model.title}: lesions")
        rows = lesion_rows(model, lesions, count=plan.count, seed=plan.seed, replays=plan.replays, tell=told)
        drawn = f"{plan.count} lesions, guidance {guidance_text(model.guidance)}, {model.steps} steps, seed {plan.seed}"
        facts = (("weights", model.card.weights_digest), ("drawn", drawn))
        reports.append(_with_size(ModelReport(model.title, tuple(rows), facts)))
    people = (
        f"{len(lesions)} held-out people, one lesion each; asked is everything that is known of them and the model can be told"
    )
    return Report(tuple(reports), (("people", people), *figures.facts()))


def _with_size(report: ModelReport) -> ModelReport:
    return ModelReport(report.model, (*report.rows, package_size()), report.facts)


def _subject(models: Sequence[EvaluatedModel]) -> str:
    """Return the concept by which all models are measured."""
    known = [{concept.kind for concept in model.card.concepts} for model in models]
    for kind in (CONCEPTS[0], NIHSS):
        if all(kind in kinds for kinds in known):
            return kind
    raise RequestInvalid(
        found="models that are not told the same things, or nothing that is measured here",
        allowed=f"models that are all told {CONCEPTS[0]}, or all told {NIHSS}",
        action="evaluate them one kind at a time, each with its own data set",
    )
