"""`veraicon verify --peer`: verifies what a PACS holds of ours, series by series, and tells what it no longer holds.

Each series is fetched into a folder that is removed after it was read, never into the site's archive. What is asked for by
default are the patients that a site of ours makes up (``SYN-...``); beside them each study is looked up that our own book says
was taken by this peer, so that a series which was filed under another patient is found, and one that was deleted is missed.
What our book says was recalled should not be there: however true its statement is, it stands as recalled.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydicom import Dataset

from dicom_node import tables as archive_tables
from dicom_node.archive import Archive
from dicom_node.calling import locating
from dicom_node.calling.remote import Remote, RemoteSeries, RemoteStudy
from dicom_node.holding.headers import text_of
from domain.errors import IncompleteSeries, PeerAnswerInvalid, PeerRefused, RequestInvalid
from provenance.as_dicom import extract
from provenance.report import VerificationReport
from provenance.verification import verify_series
from veraicon.pulls import Puller
from veraicon.verifying.book import Expected

Json = Mapping[str, Any]

_OUR_PATIENTS = "SYN-*"


class Standing(Enum):
    """What could be said of a series."""

    VERIFIED = "verified"
    FALSE = "false"
    RECALLED = "recalled, still there"
    NOT_OURS = "not ours"
    MISSING = "missing"
    NOT_FETCHED = "not fetched"

    @property
    def good(self) -> bool:
        """True where nothing of ours is amiss."""
        return self in {Standing.VERIFIED, Standing.NOT_OURS}


@dataclass(frozen=True, slots=True)
class PeerQuery:
    """Which series of a peer are verified; all of ours where nothing is named.

    Attributes
    ----------
    date : str
        Study date or range, ``20240101-20240131``.
    """

    study_uid: str = ""
    patient_id: str = ""
    date: str = ""
    modality: str = ""

    @property
    def everything(self) -> bool:
        """True where neither study nor patient is named."""
        return not (self.study_uid or self.patient_id)


@dataclass(frozen=True, slots=True)
class SeriesStanding:
    """One series of the peer, or one that it should hold."""

    study_uid: str
    series_uid: str
    modality: str
    standing: Standing
    why: str
    instances: int = 0

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {
            "study": self.study_uid,
            "series": self.series_uid,
            "modality": self.modality,
            "instances": self.instances,
            "standing": self.standing.value,
            "why": self.why,
        }


@dataclass
class PeerVerification:
    """Verifies the series of one peer.

    Parameters
    ----------
    remote : Remote
        The peer; with C-MOVE its instances would go to our node, so it has to give them by C-GET or WADO-RS.
    keys : mapping
        JWK Set of the trusted keys.
    issuer : str
        Issuer of our patients' ids: a study with another one is not ours.
    expected : mapping of str to Expected
        Series that it took from us, by UID.
    recalled : mapping of str to str
        When and why each series of ours that was recalled was taken back, by UID.
    tell : callable
        Is told how many series are done, and of how many.
    """

    remote: Remote
    keys: Json
    issuer: str
    expected: Mapping[str, Expected] = field(default_factory=dict)
    recalled: Mapping[str, str] = field(default_factory=dict)
    tell: Callable[[int, int], object] = lambda _done, _total: None

    def run(self, query: PeerQuery) -> Iterator[SeriesStanding]:
        """Yield what is said of each series: those that the peer lists, then those that it no longer holds.

        Raises
        ------
        PeerUnreachable, PeerRefused, PeerAnswerInvalid
            If the peer cannot be asked what it holds.
        """
        wanted = {uid: one for uid, one in self.expected.items() if _asked_for(one, query)}
        listed = self._listed(query, wanted)
        seen = set()
        for number, (series, modality) in enumerate(listed):
            self.tell(number, len(listed))
            seen.add(series.series_uid)
            yield self._verified(series, modality)
        self.tell(len(listed), len(listed))
        for uid, one in wanted.items():
            if uid not in seen and uid not in self.recalled and query.modality in ("", one.modality):
                why = f"by our book the peer took {one.instances} instances of it, and it lists none"
                yield SeriesStanding(one.study_uid, uid, one.modality, Standing.MISSING, why)

    def _listed(self, query: PeerQuery, wanted: Mapping[str, Expected]) -> list[tuple[RemoteSeries, str]]:
        """Return the series to verify with their modality, each once."""
        studies = {study.study_uid: study for study in self._studies(query)}
        for one in wanted.values():
            studies.setdefault(one.study_uid, RemoteStudy(one.study_uid))
        found: dict[str, tuple[RemoteSeries, str]] = {}
        for study in studies.values():
            for ds in self.remote.find("SERIES", ("SeriesInstanceUID", "Modality"), {"StudyInstanceUID": study.study_uid}):
                uid, modality = text_of(ds, "SeriesInstanceUID"), text_of(ds, "Modality")
                if not uid:
                    raise PeerAnswerInvalid(
                        found=f"a series without its UID from {self.remote.name}",
                        allowed="the unique key of its level with each match (PS3.4 C.4.1.1.3.2)",
                        action="tell the peer's maker",
                    )
                if query.modality in ("", modality):
                    found[uid] = RemoteSeries(study.study_uid, uid), modality
        return list(found.values())

    def _studies(self, query: PeerQuery) -> list[RemoteStudy]:
        keys = {
            "StudyInstanceUID": query.study_uid,
            "PatientID": query.patient_id or ("" if query.study_uid else _OUR_PATIENTS),
            "StudyDate": query.date,
        }
        studies = locating.studies(self.remote, **{keyword: value for keyword, value in keys.items() if value})
        named = {"study_uid": query.study_uid, "patient_id": query.patient_id}
        return [
            study
            for study in studies
            if all(value in ("", getattr(study, name)) for name, value in named.items())
            and (not query.everything or study.patient_id_issuer in ("", self.issuer))
        ]

    def _verified(self, series: RemoteSeries, modality: str) -> SeriesStanding:
        def stands(standing: Standing, why: str, instances: int = 0) -> SeriesStanding:
            return SeriesStanding(series.study_uid, series.series_uid, modality, standing, why, instances)

        if series.series_uid in self.recalled:
            return stands(Standing.RECALLED, f"{self.recalled[series.series_uid]}; have it removed from the peer")
        with scratch_archive() as archive:
            try:
                pulled = Puller(self.remote, archive).pull(series)
            except (IncompleteSeries, PeerRefused) as error:  # the peer goes on with the next series, so do we
                return stands(Standing.NOT_FETCHED, error.found)
            carrying: Counter[bool] = Counter()
            report = verify_series(_counted(archive, series, carrying), self.keys)
        if not carrying[True] and series.series_uid not in self.expected:
            return stands(Standing.NOT_OURS, "no statement", pulled.held)
        why = "every claim is true, or was not to be checked here" if report.verdict else _why(report)
        return stands(Standing.VERIFIED if report.verdict else Standing.FALSE, why, pulled.held)


@contextlib.contextmanager
def scratch_archive() -> Iterator[Archive]:
    """Give an empty archive with an index of its own, in a folder that nobody else can read and that is removed in the end."""
    with tempfile.TemporaryDirectory(prefix="veraicon-verify-") as work:
        engine = sa.create_engine(f"sqlite:///{Path(work) / 'index.sqlite'}")
        sa.event.listen(engine, "connect", _without_syncing)
        archive_tables.metadata.create_all(engine)
        archive = Archive(engine, Path(work) / "archive")
        try:
            yield archive
        finally:
            archive.close()
            engine.dispose()


def _without_syncing(connection: Any, _record: object) -> None:
    """Spare the disk: what is in this index outlives nothing."""
    for pragma in ("synchronous=OFF", "journal_mode=MEMORY"):
        connection.execute(f"PRAGMA {pragma}")


def _counted(archive: Archive, series: RemoteSeries, carrying: Counter[bool]) -> Iterator[Dataset]:
    """Yield the instances one after the other, and count which of them carry a statement, whatever it is worth."""
    for reference in archive.references({"SeriesInstanceUID": [series.series_uid]}):
        ds = archive.read(reference)
        try:
            carrying[extract(ds) is not None] += 1
        except Exception:  # noqa: BLE001 (the stated edge: a hostile block may fail in any way, and the report says that it does)
            carrying[True] += 1
        yield ds


def _asked_for(one: Expected, query: PeerQuery) -> bool:
    """Whether a series of our book is among what was asked for; by patient it is found by the peer alone."""
    if query.patient_id or query.study_uid not in ("", one.study_uid):
        return False
    first, _, last = query.date.partition("-")
    if "-" not in query.date:
        last = first
    return (not first or first <= one.date) and (not last or one.date <= last)


def _why(report: VerificationReport) -> str:
    if report.false:
        return "; ".join(f"{claim.name}: {claim.why}" for claim in report.false)
    return "; ".join(f"{claim.name}: {claim.why}" for claim in report.claims if claim.name in report.required)


def require_query(query: PeerQuery) -> PeerQuery:
    """Return a query whose values are single ones.

    Raises
    ------
    RequestInvalid
        If study or patient hold a wildcard or several values.
    """
    if set(query.study_uid + query.patient_id) & set("*?\\"):
        raise RequestInvalid(found="a wildcard or several values", allowed="one study or patient", action="name it whole")
    return query
