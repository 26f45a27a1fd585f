"""`veraicon generate`: the whole story for one series from files, without a server."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dicom_node.reading import read_volume
from domain.attestation import Attestation
from domain.clinical import ClinicalFact
from domain.errors import RequestInvalid
from domain.findings import QualityReport
from domain.generation import GeneratedVolume, GenerationRequest
from domain.series import ImagingSeries
from domain.volume import to_patient_axes
from fhir_adapter.json_text import write_json
from fhir_adapter.local.intake import prepare_intake
from provenance.attest import PROV_NAME, SIDECAR_NAME
from veraicon.asking import request_from
from veraicon.destinations import FolderDestination
from veraicon.files import dicom_files, read_json
from veraicon.marking import content_credentials, lend_watermark_secret
from veraicon.pipeline import JobState, tell
from veraicon.preview import draw, origin_of
from veraicon.publishing import PREPARED, STATEMENT
from veraicon.recall.outputs import Outputs
from veraicon.sections import FhirSettings
from veraicon.settings import Settings
from veraicon.wiring import Site, lend_salt, open_outputs, open_site
from veraicon.worker_wiring import worker_steps

Result = TypeVar("Result")


class Telling:
    """A recorder that only runs each step and tells about it."""

    def __init__(self, tell_about: Callable[[JobState, object], None]) -> None:
        self._tell_about = tell_about

    def __call__(self, state: JobState, step: Callable[..., Result], *arguments: object) -> Result:
        """Return the step's result; see `veraicon.pipeline.Recorder`."""
        result = step(*arguments)
        self._tell_about(state, result)
        return result


@dataclass(frozen=True)
class Outcome:
    """What was made and where it lies."""

    attestation: Attestation
    request: GenerationRequest
    source: ImagingSeries
    generated: GeneratedVolume
    report: QualityReport
    folder: Path


def generate(
    settings: Settings,
    dicom: Path,
    fhir: Path,
    out: Path,
    *,
    series_uid: str | None = None,
    seed: int | None = None,
    asked: tuple[ClinicalFact, ...] = (),
    tell_about: Callable[[JobState, object], None] = lambda _state, _result: None,
) -> Outcome:
    """Run one request from files and write series, Provenance, attestation and preview below `out`.

    Parameters
    ----------
    dicom : Path
        Folder (searched through) or file with the source series.
    fhir : Path
        FHIR R4 JSON: a Bundle or resources of the patient.
    out : Path
        Made where it is missing; must not hold an earlier result.
    series_uid : str or None
        Which series, where the folder holds several.

    Raises
    ------
    VeraiconError
        As the step in question; nothing is written to `out` then.
    """
    if out.exists() and any(out.iterdir()):
        raise RequestInvalid(
            found="an output folder that is not empty", allowed="a new or empty folder", action="name another --out"
        )
    if settings.publication.approval == "person":
        raise RequestInvalid(
            found="a volume from files at a site whose volumes a person approves",
            allowed='[publication] approval = "automatic", or a job that waits for its approval',
            action="send the series to `veraicon serve`, then use `veraicon job preview` and `veraicon job approve`",
        )
    credentials = content_credentials(settings.provenance)
    results: dict[JobState, Any] = {}

    def remember(state: JobState, result: object) -> None:
        results[state] = result
        tell_about(state, result)

    with (
        tempfile.TemporaryDirectory(prefix="veraicon-") as work,
        open_site(private_settings(settings, Path(work)), log_of=settings) as site,
        open_outputs(settings) as book,
    ):
        take(site, dicom, fhir)
        series = _chosen_series(site, series_uid)
        book.require_consent(series)
        request = request_from(
            site.archive, series.series_uid, settings.generation, requested_by="files", seed=seed, asked=asked
        )
        steps = worker_steps(site, destinations=(FolderDestination(Path(work) / "series"),), cancelled=lambda _: False)
        attestation = tell(steps, request, Telling(remember))
        generated: GeneratedVolume = results[JobState.GENERATED]
        report: QualityReport = results[JobState.CHECKED]
        source = to_patient_axes(read_volume(site.archive.datasets(series)))
        _note_output(book, site, attestation, series, out)
        _hand_over(site, attestation, Path(work) / "series", out)
        draw(
            source,
            generated.volume,
            out / "preview.png",
            caption=f"seed {request.seed}, model {generated.model.name}",
            origin=origin_of(request.request_id, site.jobs.artifacts(request.request_id).folder),
            credentials=credentials,
        )
    return Outcome(attestation, request, series, generated, report, out)


def private_settings(settings: Settings, work: Path) -> Settings:
    """Return the settings with everything kept in `work`, but with the site's own signing key, salt and watermark.

    The salt is the site's, so that digests which are made here can be checked when the same files are given again.
    """
    lend_salt(settings.storage.folder, work)
    if settings.publication.watermark:
        lend_watermark_secret(settings.storage.folder, work)
    key = settings.provenance.key_file or str((settings.storage.folder / "keys" / "signing.jwk").absolute())
    return settings.model_copy(
        update={
            "storage": settings.storage.model_copy(update={"folder": work, "database_url": ""}),
            "fhir": FhirSettings(),
            "destinations": (),
            "provenance": settings.provenance.model_copy(update={"key_file": key}),
        }
    )


def take(site: Site, dicom: Path, fhir: Path) -> None:
    """Put the files where a server would have put what was sent to it."""
    for path in dicom_files(dicom):
        site.archive.land(path.read_bytes(), source="files")
    site.fhir.transact(prepare_intake(read_json(fhir)))


def _note_output(book: Outputs, site: Site, attestation: Attestation, source: ImagingSeries, out: Path) -> None:
    """Note the output in the site's own book, which outlives this folder: a recall then tells where the files went."""
    folder = site.jobs.artifacts(attestation.request_id).folder
    book.made(STATEMENT.read(folder / f"statement{STATEMENT.suffix}"), source.patient)
    book.attested(attestation)
    book.leaving(attestation.request_id, str(out.absolute()), "file")


def _chosen_series(site: Site, series_uid: str | None) -> ImagingSeries:
    settled = site.archive.unannounced(0)
    if series_uid is None and len(settled) != 1:
        raise RequestInvalid(
            found=f"{len(settled)} series in the folder",
            allowed="one, or --series UID: " + ", ".join(found.series_uid for found in settled),
            action="choose one with --series",
        )
    return site.archive.series(series_uid or settled[0].series_uid)


def _hand_over(site: Site, attestation: Attestation, series: Path, out: Path) -> None:
    """Copy what a person keeps: the series, the FHIR resources, the sidecar and the public keys."""
    job = site.jobs.artifacts(attestation.request_id)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(series, out / "series")
    shutil.copy(job.folder / SIDECAR_NAME, out / SIDECAR_NAME)
    shutil.copy(job.folder / PROV_NAME, out / PROV_NAME)
    bundle = PREPARED.read(job.folder / f"prepared-attestation{PREPARED.suffix}").bundle
    (out / "fhir-bundle.json").write_text(bundle, encoding="utf-8")
    provenance = site.fhir.read(attestation.provenance_reference)
    (out / "provenance.json").write_text(write_json(provenance.body), encoding="utf-8")
    (out / "jwks.json").write_text(json.dumps(site.keyring.public_jwks(), indent=1), encoding="utf-8")
