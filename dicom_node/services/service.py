"""What a DIMSE service of the node looks like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import structlog
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.presentation import PresentationContext
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.statuses import Status, status_of
from domain.errors import RequestInvalid, VeraiconError

_log = structlog.get_logger(__name__)

Handler = tuple[evt.InterventionEvent | evt.NotificationEvent, Callable[[evt.Event], Any]]
Response = tuple[int | Dataset, Dataset | None]


class Service(Protocol):
    """One service class as SCP."""

    def contexts(self) -> Sequence[PresentationContext]:
        """Return the presentation contexts that it accepts."""
        ...

    def handlers(self) -> Sequence[Handler]:
        """Return the messages that it answers, each with its handler."""
        ...


def refused_query(error: BaseException, *, unreadable_index: Status = Status.UNABLE_TO_CALCULATE_MATCHES) -> int | Dataset:
    """Return the status for a query that cannot be answered (PS3.4 Tables C.4-1 to C.4-3)."""
    if isinstance(error, RequestInvalid):
        answered = status_of(error)
        answered.Status = int(Status.IDENTIFIER_DOES_NOT_MATCH)
        return answered
    if isinstance(error, VeraiconError):
        return status_of(error)
    _log.error("a query was not answered", kind=type(error).__name__)
    return unreadable_index if isinstance(error, SQLAlchemyError) else Status.CANNOT_UNDERSTAND
