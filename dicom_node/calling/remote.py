"""What we ask of a remote archive, whatever protocol it speaks: does it answer, what has it, its series into our archive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydicom.dataset import Dataset

from dicom_node.archive import Archive


@dataclass(frozen=True, slots=True)
class RemoteStudy:
    """A study as its peer describes it; text is empty where the peer is silent.

    Attributes
    ----------
    prior : bool
        It was found as an earlier study of the patient, and not asked for itself.
    """

    study_uid: str
    patient_id: str = ""
    patient_id_issuer: str = ""
    accession: str = ""
    study_date: str = ""
    study_time: str = ""
    prior: bool = False

    def precedes(self, other: RemoteStudy) -> bool:
        """Return whether this study was made before another one; True where either has no date."""
        if not self.study_date or not other.study_date:
            return True
        return (self.study_date, self.study_time) <= (other.study_date, other.study_time)


@dataclass(frozen=True, slots=True)
class RemoteSeries:
    """A series as its peer describes it.

    Attributes
    ----------
    prior : bool
        As for `RemoteStudy`.
    """

    study_uid: str
    series_uid: str
    prior: bool = False

    @property
    def origin(self) -> str:
        """How our archive files it: a prior is there to be seen, and no request is made of it by itself."""
        return "pulled" if self.prior else "received"


@dataclass(frozen=True, slots=True)
class PullCounts:
    """What became of the instances of a series under way: C-STORE sub-operations of DIMSE, or parts of a WADO-RS answer.

    Attributes
    ----------
    remaining : int or None
        None where nobody says.
    """

    completed: int = 0
    failed: int = 0
    warning: int = 0
    remaining: int | None = None

    def __str__(self) -> str:
        rest = "" if self.remaining is None else f", {self.remaining} remaining"
        return f"{self.completed} completed, {self.failed} failed, {self.warning} with warnings{rest}"


Tell = Callable[[PullCounts], object]


class Remote(Protocol):
    """A remote archive. All methods raise PeerUnreachable, PeerRefused and PeerAnswerInvalid."""

    @property
    def name(self) -> str:
        """Name from the settings, for messages."""
        ...

    def echo(self) -> None:
        """Verify that it answers."""
        ...

    def find(self, level: str, wanted: Sequence[str], matching: Mapping[str, str]) -> list[Dataset]:
        """Return all matches at a level.

        Parameters
        ----------
        level : {"PATIENT", "STUDY", "SERIES", "IMAGE"}
        wanted : sequence of str
            Keywords to be returned.
        matching : mapping of str to str
            Keywords and values to match: wildcards, ranges and lists as in C-FIND. A peer may leave a key out of its matching.
        """
        ...

    def fetch(
        self, series: RemoteSeries, archive: Archive, *, listed: Mapping[str, str], tell: Tell | None = None
    ) -> PullCounts:
        """Bring a series into our archive, each instance durable before it is counted.

        Parameters
        ----------
        listed : mapping of str to str
            SOP Instance UIDs that the peer lists, each with its SOP class or an empty text; empty where it lists none.
        tell : callable or None
            Called with the counts as they grow.

        Raises
        ------
        IncompleteSeries
            If some instances could not be taken; the others are kept.
        StorageExhausted
            If we had no room left.
        """
        ...
