"""From a settled series to requests: the site's rule, applied once to each state of each series."""

from __future__ import annotations

import threading
from collections.abc import Callable

import sqlalchemy as sa
import structlog

from dicom_node.archive import Archive, SettledSeries
from dicom_node.reading import is_image_class
from domain.identifiers import SeriesUid
from veraicon.failures import as_ours
from veraicon.jobs import Jobs, requests_for
from veraicon.sections import GenerationSettings

_log = structlog.get_logger()

# After a failure the pause doubles up to this, so that a fault that stays fills no log.
_LONGEST_PAUSE_S = 10.0


class Intake:
    """Watches the archive and submits requests.

    A crash between submit and announce repeats the submit; the request's id derives from the series' state, so nothing is
    asked twice.

    Parameters
    ----------
    settled : callable
        Called after series have settled: orders may wait for them.
    """

    def __init__(
        self,
        archive: Archive,
        jobs: Jobs,
        settings: GenerationSettings,
        *,
        settle_s: float,
        settled: Callable[[], None] = lambda: None,
    ) -> None:
        self._archive, self._jobs, self._settings, self._settle_s = archive, jobs, settings, settle_s
        self._settled = settled
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)

    def start(self) -> None:
        """Watch in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; what is not announced yet is found at the next start."""
        self._stop.set()
        self._thread.join(timeout=10)

    def announce_settled(self) -> int:
        """Submit the requests of every series that has settled since the last call; returns how many are new.

        A series at which something breaks stays unannounced and holds up no other; the first such fault is raised at the end.
        """
        submitted, faults, series = 0, list[Exception](), self._archive.unannounced(self._settle_s)
        for settled in series:
            try:
                submitted += self._announce(settled)
            except sa.exc.OperationalError:
                raise  # the database is away, for every other series too
            except Exception as error:  # noqa: BLE001 (the edge: whatever a series holds, those behind it are not its fault)
                faults.append(error)
        if series:
            self._settled()
        if faults:
            raise faults[0]
        return submitted

    def _announce(self, settled: SettledSeries) -> int:
        submitted = 0
        if self._settings.on_receive and self._may_be_source(settled.series_uid):
            submitted = self._submit(settled)
        self._archive.announce(settled.series_uid, settled.series_digest)
        return submitted

    def _may_be_source(self, series_uid: str) -> bool:
        """False for what we published ourselves, and for objects that are no images, our companions among them."""
        classes = {reference.sop_class_uid for reference in self._archive.references({"SeriesInstanceUID": [series_uid]})}
        if not any(map(is_image_class, classes)):
            _log.info("no request: a series without images", action="submit", sop_classes=sorted(classes))
            return False
        return not self._jobs.made_by_us(series_uid)

    def _submit(self, settled: SettledSeries) -> int:
        requests = requests_for(
            SeriesUid(settled.series_uid), settled.series_digest, self._settings, requested_by=settled.source
        )
        for request in requests:
            _log.info("request", action="submit", request_id=request.request_id, source=settled.source)
        return sum(self._jobs.submit(request) for request in requests)

    def _run(self) -> None:
        pause_s = usual_s = min(0.5, self._settle_s / 4)
        while not self._stop.wait(pause_s):
            try:
                self.announce_settled()
                pause_s = usual_s
            except Exception as error:  # noqa: BLE001 (the edge: a thread that ends would leave every later series unheard)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                found = as_ours(error).found
                _log.error("series stay unannounced, and are tried again", action="submit", error=found)
