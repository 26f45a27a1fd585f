"""The story up to publication once more: reads, encodes, generates and writes anew what one attestation tells of."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pydicom import Dataset, dcmread

from dicom_node.holding.files import series_digest
from dicom_node.reading import read_volume
from dicom_node.writing import ImageForm, SummaryForm
from domain.errors import ReplayImpossible, UnreadableInstance
from domain.generation import GeneratedVolume, GenerationRequest
from domain.model_card import ModelCard
from domain.pairing import PairedContext
from domain.series import GeneratedSeries, ImagingSeries
from domain.volume import to_patient_axes
from quality.gates import check
from veraicon.artifacts import json_codec
from veraicon.jobs import request_of
from veraicon.marking import stated_marks
from veraicon.publishing import PublishedForms, series_of
from veraicon.replay.options import ReplayOptions
from veraicon.replay.subject import Subject, job_folder
from veraicon.settings import Settings
from veraicon.steps import SiteSteps
from veraicon.wiring import Site
from veraicon.worker_wiring import worker_steps

Tell = Callable[[str], object]


@dataclass(frozen=True)
class Made:
    """What a replay has made.

    Attributes
    ----------
    source_digest : str
        Of the source series as it was used.
    written : mapping
        Series with digests and instances, by UID.
    seconds : float
        To generate the volume.
    """

    generated: GeneratedVolume
    paired: PairedContext
    source_digest: str
    written: Mapping[str, tuple[GeneratedSeries, list[Dataset]]]
    card: ModelCard
    seconds: float

    def series_of(self, series_uid: str) -> GeneratedSeries | None:
        """Return a series with its digests; None where none has this UID."""
        return self.written[series_uid][0] if series_uid in self.written else None

    def datasets_of(self, series_uid: str) -> list[Dataset]:
        """Return the instances of a series; none where none has this UID."""
        return self.written[series_uid][1] if series_uid in self.written else []


class Making:
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

    def make(self) -> Made:
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
        return Made(generated, paired, _digest(series), by_uid, card, seconds)

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


def _forms_of(subject: Subject, slices: int) -> PublishedForms:
    """Return how the series were written: it shows in what the statement names."""
    modalities = {series.modality for series in subject.signed.companions}
    summary = {"DOC": SummaryForm.PDF, "SR": SummaryForm.SR}
    return PublishedForms(
        image=ImageForm.ENHANCED if subject.signed.series.count == 1 and slices > 1 else ImageForm.CLASSIC,
        segmentation="SEG" in modalities,
        summary=next((form for modality, form in summary.items() if modality in modalities), None),
    )
