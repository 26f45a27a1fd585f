"""Transactions that are tried again where another one came in between: reading and then writing may lose a race."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlmodel import Session

_ATTEMPTS = 6
_PAUSE_S = 0.02

_Result = TypeVar("_Result")


def in_transaction(engine: Engine, write: Callable[[Session], _Result]) -> _Result:
    """Commit what `write` does, and return what it returns.

    SQLite refuses to write in a transaction that has read what another one has changed meanwhile; and of two that add the same
    row one fails. Either finds on its next attempt what the other has left.

    Parameters
    ----------
    write : callable
        Takes a session; it may be called several times, so it does nothing but read and write there.

    Raises
    ------
    IntegrityError, OperationalError
        If six attempts fail.
    """
    for attempt in range(1, _ATTEMPTS):
        try:
            return _once(engine, write)
        except (IntegrityError, OperationalError):
            time.sleep(_PAUSE_S * attempt)
    return _once(engine, write)


def _once(engine: Engine, write: Callable[[Session], _Result]) -> _Result:
    with Session(engine, expire_on_commit=False) as session:
        result = write(session)
        session.commit()
        return result
