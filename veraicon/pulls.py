"""Fetches series from a peer into our archive, and says of each whether it is here whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from dicom_node.archive import Archive
from dicom_node.calling import locating
from dicom_node.calling.pulling import with_retries
from dicom_node.calling.remote import PullCounts, Remote, RemoteSeries, RemoteStudy
from domain.errors import IncompleteSeries, PeerRefused, RequestInvalid

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PulledSeries:
    """What became of one series.

    Attributes
    ----------
    held, new : int
        Instances in our archive now, and how many of them came with this pull.
    """

    series: RemoteSeries
    held: int
    new: int


@dataclass(frozen=True)
class Puller:
    """Fetches from one peer, whatever protocol it speaks.

    Parameters
    ----------
    remote : Remote
    archive : Archive
        Where everything lands; with C-MOVE through our node, which must be running on the same archive.
    tell : callable or None
        Called with the counts of a series as they grow.
    """

    remote: Remote
    archive: Archive
    tell: Callable[[RemoteSeries, PullCounts], object] | None = None

    def studies(
        self, *, accession: str = "", priors: bool = False, study_uid: str = "", patient_id: str = ""
    ) -> list[RemoteStudy]:
        """Return the studies of an accession (and, with `priors`, the patient's earlier ones), one study, or all of a patient.

        Raises
        ------
        RequestInvalid
            If none or several of the keys are given.
        ResourceNotFound
            If the peer has no study of the accession.
        """
        if [bool(accession), bool(study_uid), bool(patient_id)].count(True) != 1 or (priors and not accession):
            raise RequestInvalid(
                found="none or several of accession, study and patient, or priors without an accession",
                allowed="one of them; priors with an accession",
                action="name one thing to fetch",
            )
        if accession:
            current = locating.of_accession(self.remote, accession)
            return [*current, *(locating.priors(self.remote, current) if priors else [])]
        if patient_id:
            return locating.of_patient(self.remote, patient_id)
        return [RemoteStudy(study_uid)]

    def series_of(self, studies: Sequence[RemoteStudy], *, series_uid: str = "") -> list[RemoteSeries]:
        """Return the series of studies, or the one of them that is named."""
        return [one for study in studies for one in locating.series(self.remote, study, series_uid)]

    def pull(self, series: RemoteSeries) -> PulledSeries:
        """Fetch one series; what is here already is not asked for again, and of a prior no request is made by itself.

        Raises
        ------
        PeerUnreachable
            If the peer stays unreachable after some attempts.
        PeerRefused, PeerAnswerInvalid
            If it refuses, or answers what the standard does not allow.
        IncompleteSeries
            If instances that it lists did not come; those that came are kept.
        """
        listed = with_retries(lambda: self._listed(series))
        before = self._held(series)
        if listed and listed.keys() <= before:
            return PulledSeries(series, held=len(before), new=0)
        with_retries(lambda: self._transfer(series, listed))
        held = self._held(series)
        missing = listed.keys() - held
        if missing or not held:
            raise IncompleteSeries(
                found=f"{len(held)} instances in our archive of {len(listed)} that {self.remote.name} lists for a series",
                allowed="every listed instance",
                action="see the peer's log and ours; with C-MOVE, check that our node runs on this archive; then pull again",
            )
        return PulledSeries(series, held=len(held), new=len(held - before))

    def _listed(self, series: RemoteSeries) -> dict[str, str]:
        """Return the instances that the peer lists; none where it does not answer at that level, then its counts have to do."""
        try:
            return locating.instances(self.remote, series)
        except PeerRefused as error:
            _log.warning("a peer does not list instances", action="pull", peer=self.remote.name, code=error.code)
            return {}

    def _transfer(self, series: RemoteSeries, listed: dict[str, str]) -> PullCounts:
        tell = partial(self.tell, series) if self.tell is not None else None
        return self.remote.fetch(series, self.archive, listed=listed, tell=tell)

    def _held(self, series: RemoteSeries) -> set[str]:
        references = self.archive.references({"SeriesInstanceUID": [series.series_uid]}, rejected=True)
        return {str(reference.sop_instance_uid) for reference in references}
