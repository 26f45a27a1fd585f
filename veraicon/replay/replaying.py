"""`veraicon replay`: makes a volume again from its attestation and compares, naming what differs from then.

No token and no volume that the first run kept is used: the series is read, encoded and generated anew, and written anew under
the same names. Taken are the signed claims, the source series and the EHR snapshot, or the EHR itself, each held against its
digest.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from dicom_node.holding.files import series_digest
from dicom_node.reading import read_volume
from dicom_node.writing import ImageForm, SummaryForm
from domain.clinical import ClinicalFact
from domain.errors import ReplayImpossible, RequestInvalid, UnreadableInstance
from domain.generation import GeneratedVolume, GenerationRequest
from domain.model_card import ModelCard
from domain.pairing import PairedContext
from domain.series import GeneratedSeries, ImagingSeries
from domain.volume import to_patient_axes
from quality.gates import check
from veraicon.artifacts import json_codec
from veraicon.from_files import private_settings, take
from veraicon.jobs import request_of
from veraicon.marking import stated_marks
from veraicon.publishing import PublishedForms, series_of
from veraicon.replay.bundles import bundle_of
from veraicon.replay.comparison import Likeness, SeriesComparison, compare_series, overall
from veraicon.replay.differences import Difference, Here, differences
from veraicon.replay.subject import Subject, from_archive, job_folder, subject_of
from veraicon.settings import Settings
from veraicon.steps import SiteSteps
from veraicon.verifying.targets import trusted_keys
from veraicon.wiring import Site, open_outputs, open_site, worker_steps

Json = Mapping[str, Any]
Tell = Callable[[str], object]


@dataclass(frozen=True)
class ReplayOptions:
    """What a replay is given beside its target.

    Attributes
    ----------
    keys : Path or None
        JWK Set of the keys to trust; None: the site's own.
    published : Path or None
        Folder with the published instances, to say by how much a replay differs that is not bit-exact.
    dicom, fhir : Path or None
        Source series and EHR Bundle, given again; None: the site's archive, and the snapshot that its job kept, or its EHR.
    asked : tuple of ClinicalFact
        Values that were asked for, where no job keeps them.
    model : str or None
        Bundle to use, whatever its digest; None: the one with the attested digest.
    threads, device, seed : int, str, int or None
        Other ones than attested (threads, seed) or configured (device).
    """

    keys: Path | None = None
    published: Path | None = None
    dicom: Path | None = None
    fhir: Path | None = None
    asked: tuple[ClinicalFact, ...] = ()
    model: str | None = None
    threads: int | None = None
    device: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class ReplayReport:
    """What became of a replay.

    Attributes
    ----------
    differences : tuple of Difference
        What is not as attested: inputs, software, hardware.
    unknown : tuple of str
        What could not be compared, and why.
    seconds : float
        To generate the volume, weights not loaded before.
    """

    request_id: str
    likeness: Likeness
    series: tuple[SeriesComparison, ...]
    differences: tuple[Difference, ...]
    unknown: tuple[str, ...]
    seconds: float

    @property
    def verdict(self) -> bool:
        """True if the output is the same, or within the tolerance, and came from the attested inputs."""
        like = self.likeness in {Likeness.BIT_EXACT, Likeness.WITHIN_TOLERANCE}
        return like and not any(one.is_input for one in self.differences)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {
            "request": self.request_id,
            "verdict": self.verdict,
            "likeness": self.likeness.value,
            "series": [one.to_json() for one in self.series],
            "differences": [one.to_json() for one in self.differences],
            "not_checkable": list(self.unknown),
            "seconds": round(self.seconds, 3),
        }


def replay(
    target: str, settings: Settings, options: ReplayOptions | None = None, *, tell: Tell = lambda _step: None
) -> ReplayReport:
    """Make the volume of an attestation again and compare it with what was published.

    Parameters
    ----------
    target : str
        Sidecar, DICOM file or folder, or the id of a job of this site.
    settings : Settings
        The site's.
    tell : callable
        Is told each step before it begins.

    Raises
    ------
    VerificationFailed
        If the attestation does not verify: it is not replayed.
    ReplayImpossible
        If source series, weights or the secret of a watermark are not at hand.
    ConsentMissing, PatientMismatch
        If the source may no longer be used, or the EHR no longer shows that it is one patient's.
    RequestInvalid, JobNotFound
        If the target or the options name nothing that can be replayed.
    """
    options = options or ReplayOptions()
    if (options.dicom is None) != (options.fhir is None):
        raise RequestInvalid(
            found="one of source series and FHIR Bundle", allowed="both, or none", action="give the other one too"
        )
    tell("verify")
    keys = trusted_keys(options.keys, lambda: settings)
    subject = subject_of(target, settings, keys, key_file=options.keys, published=options.published)
    salt = None if options.keys else _salt_at_hand(settings)  # trusted by our own keys: attested here, with our salt
    used = _settings_of(subject, settings, options)
    with _site(used, options) as (site, require_consent):
        made = _Making(site, subject, settings, options, tell, require_consent).make()
        read = _reader(site, subject, keys)
        tell("compare")
        compared = tuple(
            compare_series(
                stated,
                made.series_of(stated.series_uid),
                made.datasets_of(stated.series_uid),
                subject.instances,
                read,
                made.card,
            )
            for stated in subject.signed.all_series
        )
    found, unknown = differences(subject, Here(made.generated, made.source_digest, made.paired.context.snapshot_digest, salt))
    return ReplayReport(subject.signed.request_id, overall(compared), compared, found, unknown, made.seconds)


@dataclass(frozen=True)
class _Made:
    """What a replay has made."""

    generated: GeneratedVolume
    paired: PairedContext
    source_digest: str
    written: Mapping[str, tuple[GeneratedSeries, list[Dataset]]]
    card: ModelCard
    seconds: float

    def series_of(self, series_uid: str) -> GeneratedSeries | None:
        return self.written[series_uid][0] if series_uid in self.written else None

    def datasets_of(self, series_uid: str) -> list[Dataset]:
        return self.written[series_uid][1] if series_uid in self.written else []


class _Making:
    """The story up to publication once more, for one attested request."""

    def __init__(
        self,
        site: Site,
        subject: Subject,
        settings: Settings,
        options: ReplayOptions,
        tell: Tell,
        require_consent: Callable[[ImagingSeries], None],
    ) -> None:
        self._site, self._subject, self._options, self._tell = site, subject, options, tell
        self._require_consent = require_consent
        self._marks = stated_marks(subject.claims, settings.storage.folder)
        self._folder = job_folder(settings, subject.signed.request_id)
        self._steps: SiteSteps = worker_steps(site, destinations=(), cancelled=lambda _request_id: False)

    def make(self) -> _Made:
        """Read, encode, generate and write anew."""
        subject, steps = self._subject, self._steps
        request = subject.request(self._site.settings.generation.model, seed=self._options.seed, asked=self._asked())
        self._tell("read source and EHR")
        series = self._source()
        self._require_consent(series)
        paired = self._paired(request, series)
        volume = to_patient_axes(read_volume(self._site.archive.datasets(series)))
        self._tell("encode")
        tokens = steps.encode(request, paired)
        self._tell("generate")
        begun = time.perf_counter()
        generated = replace(steps.generate(request, series, tokens), generated_at=subject.moment("generatedAt"))
        seconds = time.perf_counter() - begun
        self._tell("write")
        card = steps.model.card
        publisher = replace(
            steps.publisher,
            forms=_forms_of(subject, len(generated.volume.array)),
            marks=self._marks,
            software_version=str(subject.claim("softwareVersion")),
            issuer=self._issuer(),
        )
        identity = publisher.identity(request, generated)
        written = publisher.write(generated, identity, paired, check(generated, volume, card)).values()
        by_uid = {str(instances[0].SeriesInstanceUID): (series_of(instances, identity), instances) for instances in written}
        return _Made(generated, paired, _digest(series), by_uid, card, seconds)

    def _asked(self) -> GenerationRequest | None:
        """Return the request that the site's job keeps, or one with the values that the caller names."""
        kept = self._site.jobs.starting_with(self._subject.signed.request_id)
        if self._options.asked or not kept:
            plain = self._subject.request("", seed=None, asked=None)
            return replace(plain, asked=self._options.asked)
        return request_of(kept[0])

    def _source(self) -> ImagingSeries:
        """Return the series as it was attested, where its job tells its instances; else as it is held now."""
        uid, digest = str(self._subject.claim("source", "seriesUid")), self._subject.claim("source", "digest")
        kept = self._folder / "received.json"
        if self._options.dicom is None and kept.exists():
            series = json_codec(ImagingSeries).read(kept)
            held = {one.digest for one in self._site.archive.references({"SeriesInstanceUID": [uid]})}
            if _digest(series) == digest and {one.digest for one in series.instances} <= held:
                return series
        try:
            return self._site.archive.series(uid)
        except UnreadableInstance as error:
            raise ReplayImpossible(
                found="no source series under the UID that the attestation names",
                allowed="the series in this site's archive, or in the folder of --dicom",
                action="give the series with --dicom and its patient's Bundle with --fhir, or pull it from its PACS",
            ) from error

    def _paired(self, request: GenerationRequest, series: ImagingSeries) -> PairedContext:
        """Return the snapshot that the job kept, if it is the attested one; else what the EHR says of that time now."""
        kept = self._folder / "paired.json"
        if self._options.fhir is None and kept.exists():
            paired = json_codec(PairedContext).read(kept)
            if paired.context.snapshot_digest == self._subject.claim("context", "snapshotDigest"):
                return replace(paired, series=series)
        return self._steps.pair(request, series)

    def _issuer(self) -> str:
        """Return the issuer of the synthetic patient: as published, else as this site writes it."""
        ours = self._site.settings.provenance.issuer
        for path in self._subject.published.values():
            return str(dcmread(path, stop_before_pixels=True).get("IssuerOfPatientID") or ours)
        return ours


def _digest(series: ImagingSeries) -> str:
    return series_digest(instance.digest for instance in series.instances)


def _settings_of(subject: Subject, settings: Settings, options: ReplayOptions) -> Settings:
    """Return the site's settings with the attested model and threads."""
    changed: dict[str, object] = {
        "model": bundle_of(subject, settings, options.model),
        "threads": options.threads or int(subject.claim("environment", "threads")),
    }
    if options.device:
        changed["device"] = options.device
    return settings.model_copy(update={"generation": settings.generation.model_copy(update=changed)})


@contextmanager
def _site(settings: Settings, options: ReplayOptions) -> Iterator[tuple[Site, Callable[[ImagingSeries], None]]]:
    """Open the site, or a private one with what was given again; with the check of consent in the book of the real site."""
    if options.dicom is None or options.fhir is None:
        with open_site(settings) as site:
            yield site, site.outputs.require_consent
        return
    with tempfile.TemporaryDirectory(prefix="veraicon-") as work:
        # Who trusts another site's keys has no site of their own to take salt and key from, and gets none by this.
        lender = settings if options.keys is None else _in_folder(settings, Path(work) / "receiver")
        with open_site(private_settings(lender, Path(work)), log_of=lender) as site, open_outputs(lender) as book:
            take(site, options.dicom, options.fhir)
            yield site, book.require_consent


def _in_folder(settings: Settings, folder: Path) -> Settings:
    storage = settings.storage.model_copy(update={"folder": folder, "database_url": ""})
    return settings.model_copy(update={"storage": storage})


def _reader(site: Site, subject: Subject, keys: Json) -> Callable[[str], Dataset | None]:
    """Return what gives a published instance: from the folders that were found, else from the site's archive."""
    held: dict[str, Dataset] = {}

    def in_archive(series_uid: str) -> list[Dataset]:
        return [site.archive.read(one) for one in site.archive.references({"SeriesInstanceUID": [series_uid]})]

    def read(uid: str) -> Dataset | None:
        if uid in subject.published:
            return dcmread(subject.published[uid])
        if not held:
            held.update(from_archive(in_archive, subject, keys))
        return held.get(uid)

    return read


def _forms_of(subject: Subject, slices: int) -> PublishedForms:
    """Return how the series were written: it shows in what the statement names."""
    modalities = {series.modality for series in subject.signed.companions}
    summary = {"DOC": SummaryForm.PDF, "SR": SummaryForm.SR}
    return PublishedForms(
        image=ImageForm.ENHANCED if subject.signed.series.count == 1 and slices > 1 else ImageForm.CLASSIC,
        segmentation="SEG" in modalities,
        summary=next((form for modality, form in summary.items() if modality in modalities), None),
    )


def _salt_at_hand(settings: Settings) -> bytes | None:
    """Return the site's salt; None where it has none, and then nothing salted can be compared."""
    path = settings.storage.folder / "keys" / "snapshot-salt"
    return path.read_bytes() if path.exists() else None
