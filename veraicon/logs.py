"""Logs: a static message and fields, one JSON object a line in deployment, readable lines on a terminal. Never patient data."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(*, level: str = "info", json_lines: bool | None = None) -> None:
    """Set up logging to stderr once for a process.

    Parameters
    ----------
    level : str
        ``debug``, ``info``, ``warning`` or ``error``.
    json_lines : bool or None
        None: JSON unless stderr is a terminal.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    as_json = not sys.stderr.isatty() if json_lines is None else json_lines
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # Libraries may put values of a dataset or a resource into their messages: only the name of an error passes.
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(name)s: %(levelname)s", force=True)
    logging.captureWarnings(True)  # pydicom's warnings quote the value that they are about
    for name in ("pynetdicom", "pydicom", "py.warnings", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
