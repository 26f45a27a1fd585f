"""Our HTTP face over one site on loopback, in a thread, as `veraicon serve` runs it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from veraicon.api.app import create_app
from veraicon.wiring import Site


@contextmanager
def serving(site: Site, port: int, *, deadline_s: float = 20.0) -> Iterator[str]:
    """Serve a site and yield the root of its DICOMweb service."""
    server = uvicorn.Server(uvicorn.Config(create_app(site), host="127.0.0.1", port=port, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + deadline_s
    while not server.started:
        if time.monotonic() > end or not thread.is_alive():
            raise AssertionError("our HTTP face does not listen")
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}/dicom-web"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
