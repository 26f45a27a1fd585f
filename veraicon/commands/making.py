"""Commands that make something: the demo, a volume from files, a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from domain.findings import QualityReport
from veraicon.commands.console import err, out, settings_of, show_json
from veraicon.pipeline import JobState

Folder = Annotated[Path, typer.Option(exists=True, help="Folder or file with the source series.")]
FhirFile = Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The patient's FHIR R4 Bundle.")]


def demo(
    dicom: Annotated[Path | None, typer.Option(exists=True, help="Your own series instead of the sample.")] = None,
    fhir: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Its patient's FHIR Bundle.")] = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Everything that the demo makes.")] = Path("demo-output"),
) -> None:
    """Start the server, push a study, post its FHIR Bundle, wait, verify, and tell the story."""
    from domain.errors import RequestInvalid
    from veraicon.demo import run

    if (dicom is None) != (fhir is None):
        raise RequestInvalid(
            found="one of --dicom and --fhir", allowed="both, or none for the sample", action="give the other one too"
        )
    run(out_folder, dicom=dicom, fhir=fhir)


def generate(
    context: typer.Context,
    dicom: Folder,
    fhir: FhirFile,
    out_folder: Annotated[Path, typer.Option("--out", help="New folder for series, Provenance, attestation, preview.")],
    series: Annotated[str | None, typer.Option(help="Series Instance UID, where there are several.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="For the same volume again.")] = None,
    ask: Annotated[list[str] | None, typer.Option(help="Value to obey, above the EHR's: hippocampus-volume=3100")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Make one volume from files, without a server."""
    from veraicon.asking import parse_asked
    from veraicon.from_files import generate as from_files

    with err.status("receive") as status:

        def tell_about(state: JobState, result: object) -> None:
            err.print(f"  {state.value}")
            status.update(f"after {state.value}")
            if isinstance(result, QualityReport):
                for finding in result.findings:
                    err.print(f"    {finding.outcome.value:15}{finding.check}: ", end="")
                    err.print(finding.statement, markup=False)

        outcome = from_files(
            settings_of(context),
            dicom,
            fhir,
            out_folder,
            series_uid=series,
            seed=seed,
            asked=parse_asked(ask or []),
            tell_about=tell_about,
        )
    made = {
        "request": outcome.request.request_id,
        "series_uid": outcome.attestation.series_uid,
        "provenance": outcome.attestation.provenance_reference,
        "seed": outcome.request.seed,
        "used": list(outcome.generated.conditioning.used),
        "missing": list(outcome.generated.conditioning.missing),
        "folder": str(outcome.folder),
    }
    if as_json:
        show_json(made)
    else:
        out.print(f"{len(outcome.attestation.instances)} instances, Provenance, attestation and preview in {outcome.folder}")
        out.print(f"check them: veraicon verify {outcome.folder}", markup=False)


def train(
    model: Annotated[str, typer.Argument(help="hippocampus-t1, stroke-lesion, or another recipe; measuring for the ruler.")],
    dataset: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of the model's data set.")],
    run_folder: Annotated[Path, typer.Option("--run", help="Checkpoints and logs; training resumes from here.")],
    bundle: Annotated[Path | None, typer.Option(help="Write weights and card here when training is done.")] = None,
    stage: Annotated[list[str] | None, typer.Option(help="Only this stage; may be given again.")] = None,
    steps: Annotated[list[str] | None, typer.Option(help="Steps of a stage: denoiser=8000; may be given again.")] = None,
    begin_from: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="Bundle to go on from.")] = None,
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="bfloat16 is faster where the processor has it.")
    ] = "float32",
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Train a model by its recipe, stage by stage; resumes where it stopped."""
    from veraicon.training_run import TrainingOptions, run

    options = TrainingOptions(tuple(stage or ()), _steps(steps or []), begin_from, bundle, precision, threads)
    run(model, dataset, run_folder, options)


def _steps(given: list[str]) -> dict[str, int]:
    from domain.errors import RequestInvalid

    pairs = [one.partition("=") for one in given]
    if not all(number.isdecimal() and int(number) for _, _, number in pairs):
        raise RequestInvalid(
            found="steps that are no number of a stage", allowed="stage=number, at least 1", action="correct --steps"
        )
    return {name: int(number) for name, _, number in pairs}
