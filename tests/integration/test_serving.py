"""`serve` where it cannot: what the operator reads."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from tests.peers.veraicon_site import veraicon_site


def test_an_http_port_in_use_is_told_in_one_error_of_ours(tmp_path: Path, free_port: Callable[[], int]) -> None:
    with veraicon_site(tmp_path / "site", free_port, "[worker]\nembedded = false\n") as site, socket.socket() as other:
        other.bind(("127.0.0.1", site.http_port))
        other.listen()
        process = site.start("serve")
        assert process.wait(timeout=60) == 78
        assert f"HTTP address 127.0.0.1:{site.http_port} that cannot be listened on (Address already in use" in site.log()
        assert "uvicorn" not in site.log()
