"""The ports of a site, looked at from outside: free, held by our own running `serve`, or held by somebody else."""

from __future__ import annotations

import socket

import httpx

from dicom_node.scu import Peer, echo
from domain.errors import ConfigurationError, PeerRefused
from veraicon.sections import NodeSettings
from veraicon.settings import Settings

_TIMEOUT_S = 3.0

# Where a listener on all addresses is reached from here.
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def is_serving(settings: Settings) -> bool:
    """Return whether our own `serve` answers on the HTTP port of these settings."""
    host = _LOOPBACK_OF.get(settings.http.host, settings.http.host)
    address = f"[{host}]" if ":" in host else host
    try:
        told = httpx.get(f"http://{address}:{settings.http.port}/health", timeout=_TIMEOUT_S).json()
    except (httpx.HTTPError, ValueError):
        return False
    return isinstance(told, dict) and told.get("ae_title") == settings.node.ae_title


def look_at_port(host: str, port: int, *, serving: bool) -> str:
    """Return in words how a port stands.

    Parameters
    ----------
    serving : bool
        Whether our `serve` runs, see `is_serving`.

    Raises
    ------
    ConfigurationError
        If somebody else has it, it cannot be listened on, or our `serve` should have it and has not.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if serving:
            return f"{port} is held while our serve runs"
        raise ConfigurationError(
            found=f"{host} port {port}, which cannot be listened on ({error.strerror})",
            allowed="a free port of an address of this machine, from 1024 where serve does not run as root",
            action="change host or port in the settings, or stop what uses it",
        ) from error
    if serving:
        raise ConfigurationError(
            found=f"our serve, which runs without listening on port {port}",
            allowed="a serve that was started with these settings",
            action="restart it: the settings have changed since",
        )
    return f"{port} is free: serve does not run"


def look_at_node(node: NodeSettings, *, serving: bool) -> str:
    """Return how our DICOM port without TLS stands; where our `serve` runs, it must answer there.

    Raises
    ------
    ConfigurationError
        As `look_at_port`.
    PeerUnreachable
        If nothing that speaks DICOM answers.
    """
    held = look_at_port(node.host, node.port, serving=serving)
    if not serving:
        return held
    host = _LOOPBACK_OF.get(node.host, node.host)
    try:
        echo(Peer("our node", node.ae_title, host, node.port, node.ae_title, timeout_s=_TIMEOUT_S))
    except PeerRefused:  # we are no source of our own: it answers, which is all that is asked
        return f"{node.port} answers, and takes its configured sources only"
    return f"{node.port} answers C-ECHO"
