"""The worker: the only process that loads torch. Runs queued jobs until it is told to stop."""

from __future__ import annotations

import logging
import os
import signal
import threading

import structlog
from dbos import DBOS, DBOSPortableJSONSerializer

from domain.errors import WeightsRejected
from veraicon.heartbeat import Heartbeat
from veraicon.jobs import APPLICATION, QUEUE, WORKFLOW_VERSION
from veraicon.settings import Settings
from veraicon.steps import SiteSteps
from veraicon.wiring import open_site
from veraicon.worker_wiring import worker_codecs, worker_steps
from veraicon.workflow import register

_log = structlog.get_logger()


def run(settings: Settings, *, parent: int | None = None) -> None:
    """Run jobs until SIGTERM or SIGINT, or until the parent process is gone.

    Parameters
    ----------
    settings : Settings
        The site.
    parent : int or None
        Process id of `veraicon serve`, where it started this worker.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with open_site(settings) as site:
        steps = worker_steps(site)
        _warm_up(steps)
        register(steps, site.jobs, worker_codecs(), settings.worker, redraws=settings.generation.redraws)
        heartbeat = Heartbeat(site.engine, site.jobs)
        _launch(site.engine, heartbeat.worker_id, settings)
        heartbeat.start()
        _log.info("worker ready", action="start", worker_id=heartbeat.worker_id, model=settings.generation.model)
        while not stop.wait(0.5):
            if parent is not None and os.getppid() != parent:
                break
        DBOS.destroy(workflow_completion_timeout_sec=10)
        heartbeat.stop()
        _log.info("worker stopped", action="stop", worker_id=heartbeat.worker_id)


def _warm_up(steps: SiteSteps) -> None:
    """Load the model before the first job; a model that is refused fails the jobs that need it, by name."""
    try:
        steps.model.load()
    except WeightsRejected as error:
        _log.error("model refused", action="start", code=error.code, found=error.found, next=error.action)


def _launch(engine: object, worker_id: str, settings: Settings) -> None:
    # Its start lines advertise a hosted service, and its tracebacks repeat errors that the job itself shows.
    logging.getLogger("dbos").setLevel(logging.CRITICAL)
    DBOS(
        config={
            "name": APPLICATION,
            "system_database_engine": engine,  # type: ignore[typeddict-item]
            "application_version": WORKFLOW_VERSION,
            "executor_id": worker_id,
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "CRITICAL",
            "run_migrations": False,
        }
    )
    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=settings.worker.concurrency, polling_interval_sec=0.2)
