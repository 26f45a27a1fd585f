"""`veraicon serve`: SCP, HTTP, intake, and one worker process. This process never loads torch."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import structlog
import uvicorn

from dicom_node.scp import StorageNode
from domain.errors import ConfigurationError
from veraicon.api.app import create_app
from veraicon.api.hooks import Hearing
from veraicon.doctor import require_single_owner
from veraicon.engines import EngineService
from veraicon.intake import Intake
from veraicon.node_services import NodeServices, node_services
from veraicon.orders.service import OrderService
from veraicon.peers import move_destinations
from veraicon.sections import HttpSettings
from veraicon.settings import Settings
from veraicon.subscriptions.service import SubscriptionService
from veraicon.wiring import Site, listener_context, open_site, policies_of

_log = structlog.get_logger()
_RESTART_PAUSE_S = 2.0
_BACKLOG = 2048


def run(settings: Settings, *, config: Path | None) -> None:
    """Serve until SIGTERM or SIGINT.

    Parameters
    ----------
    settings : Settings
        The site.
    config : Path or None
        The file they came from, for the worker process.

    Raises
    ------
    ConfigurationError
        If a port is taken or a part of the site cannot be opened.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    require_single_owner()
    with open_site(settings) as site:
        extra = node_services(site)
        node = _node(site, extra)
        orders = OrderService(site)
        intake = Intake(
            site.archive,
            site.jobs,
            settings.generation,
            settle_s=settings.node.settle_s,
            settled=site.orders.look_again,
        )
        subscriptions = SubscriptionService(site)
        engines = EngineService(site)
        http = _HttpServer(site, subscriptions)
        node.start()
        extra.reporter.start()
        http.start()
        intake.start()
        orders.start()
        subscriptions.start()
        engines.start()
        _log.info("serving", action="start", dicom_port=settings.node.port, http_port=settings.http.port)
        try:
            _supervise(settings, config, stop)
        finally:
            engines.stop()
            subscriptions.stop()
            orders.stop()
            intake.stop()
            extra.reporter.stop()
            node.stop()
            http.stop()
            _log.info("stopped", action="stop")


def _node(site: Site, extra: NodeServices) -> StorageNode:
    settings = site.settings.node
    return StorageNode(
        site.archive,
        ae_title=settings.ae_title,
        host=settings.host,
        port=settings.port or None,
        tls=listener_context(settings) if settings.tls_port else None,
        tls_port=settings.tls_port,
        allowed_sources=policies_of(site.settings.sources),
        move_destinations=move_destinations(site.settings),
        hand_out=site.outputs.hand_out,
        services=extra.services,
        audit=extra.audit,
        maximum_pdu=settings.maximum_pdu,
        maximum_associations=settings.maximum_associations,
        maximum_message_bytes=settings.maximum_message_mib * 2**20,
        unknown_storage_classes=settings.unknown_storage_classes,
        acse_timeout_s=settings.artim_timeout_s,
        dimse_timeout_s=settings.dimse_timeout_s,
        network_timeout_s=settings.idle_timeout_s,
        pdu_timeout_s=settings.pdu_timeout_s,
    )


def _supervise(settings: Settings, config: Path | None, stop: threading.Event) -> None:
    """Keep one worker process running until we are told to stop; without one, only wait."""
    worker = _start_worker(config) if settings.worker.embedded else None
    while not stop.wait(0.5):
        if worker and worker.poll() is not None:
            _log.error("worker ended", action="worker", exit_code=worker.returncode)
            if stop.wait(_RESTART_PAUSE_S):
                break
            worker = _start_worker(config)
    if worker and worker.poll() is None:
        worker.terminate()
        try:
            worker.wait(timeout=30)
        except subprocess.TimeoutExpired:
            worker.kill()  # its job resumes at the next start


def _start_worker(config: Path | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "veraicon", *(["--config", str(config)] if config else []), "work"]
    return subprocess.Popen([*command, "--parent", str(os.getpid())])


class _HttpServer:
    """uvicorn in a thread, since signals belong to `run`."""

    def __init__(self, site: Site, hearing: Hearing) -> None:
        http = site.settings.http
        self._server = uvicorn.Server(
            uvicorn.Config(create_app(site, hearing=hearing), host=http.host, port=http.port, log_config=None, lifespan="off")
        )
        self._http = http
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen, or say why not: uvicorn would write a line of its own where it cannot."""
        sockets = _listening(self._http)
        self._thread = threading.Thread(target=self._server.run, args=(sockets,), name="http", daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.02)

    def stop(self) -> None:
        """Finish open requests and stop."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(timeout=10)


def _listening(http: HttpSettings) -> list[socket.socket]:
    """Return a bound socket for each address that the host has, as uvicorn binds them itself."""
    bound: list[socket.socket] = []
    try:
        addresses = socket.getaddrinfo(http.host, http.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in addresses:
            bound.append(socket.create_server(address[:2], family=family, backlog=_BACKLOG))
    except OSError as error:
        for one in bound:
            one.close()
        raise ConfigurationError(
            found=f"HTTP address {http.host}:{http.port} that cannot be listened on ({error.strerror})",
            allowed="a free port of an address of this machine",
            action="change [http] host or port, or stop what uses it",
        ) from error
    return bound
