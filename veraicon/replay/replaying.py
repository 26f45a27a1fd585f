"""`veraicon replay`: makes a volume again from its attestation and compares, naming what differs from then.

No token and no volume that the first run kept is used: the series is read, encoded and generated anew, and written anew under
the same names. Taken are the signed claims, the source series and the EHR snapshot, or the EHR itself, each held against its
digest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from domain.errors import RequestInvalid
from domain.series import ImagingSeries
from veraicon.from_files import private_settings, take
from veraicon.replay.comparison import Likeness, SeriesComparison, compare_series, overall
from veraicon.replay.differences import Difference, Here, differences
from veraicon.replay.making import Making, Tell
from veraicon.replay.options import ReplayOptions, settings_of
from veraicon.replay.subject import Subject, from_archive, subject_of
from veraicon.settings import Settings
from veraicon.verifying.targets import trusted_keys
from veraicon.wiring import Site, open_outputs, open_site

Json = Mapping[str, Any]


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
    used = settings_of(subject, settings, options)
    with _site(used, options) as (site, require_consent):
        made = Making(site, subject, settings, options, tell, require_consent).make()
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


def _salt_at_hand(settings: Settings) -> bytes | None:
    """Return the site's salt; None where it has none, and then nothing salted can be compared."""
    path = settings.storage.folder / "keys" / "snapshot-salt"
    return path.read_bytes() if path.exists() else None
