"""What an outside system asks for before any series is known, and what it is told about it afterwards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from enum import Enum

from domain.clinical import ClinicalFact, Coding
from domain.errors import RequestInvalid
from domain.identifiers import PatientIdentifier, derive_uuid

# PostgreSQL keeps no NUL, and UTF-8 carries no half of a surrogate pair; JSON can write both as escapes.
_UNSTORABLE = re.compile("[\\x00\\ud800-\\udfff]")


class OrderOrigin(Enum):
    """How an order reached us."""

    FHIR = "fhir"
    OPERATION = "fhir-operation"
    HL7V2 = "hl7v2"
    WEBHOOK = "webhook"


class OrderState(Enum):
    """Where an order stands: what has become of it, never what has become of its requests.

    RECEIVED is kept and not looked at yet; WAITING has a rule and no series yet; REQUESTED has requests; IGNORED is covered by
    no rule; REFUSED cannot be met as it stands and may be tried again by hand; REVOKED was taken back by who asked.
    """

    RECEIVED = "received"
    WAITING = "waiting"
    REQUESTED = "requested"
    IGNORED = "ignored"
    REFUSED = "refused"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Order:
    """A ServiceRequest, a Task, an order message or a webhook that asks for generated volumes.

    Attributes
    ----------
    origin : OrderOrigin
        How it came.
    sender : str
        Who sent it, as the settings name it: the FHIR server, an integration engine, a webhook.
    reference : str
        Its name at the sender: ``Task/abc``, ``ORM^O01 4711``. One sender and reference are one order, however often it comes.
    kind : str
        ``ServiceRequest``, ``Task``, ``ImagingStudy``, ``ORM^O01``, ``OMI^O23``, ``webhook``, ``$generate``.
    patient : PatientIdentifier or None
        Whom it is about, by identifier; never written to a log.
    subject_reference : str
        ``Patient/abc`` on the FHIR server, where the order names its patient so.
    accession, study_uid, series_uid : str
        Which images it is about; empty where it does not say.
    focus : str
        ``ImagingStudy/x`` or ``ServiceRequest/y`` on the FHIR server, which says which images are meant; empty where none does.
    names_us : bool
        Whether it asks for generated volumes in so many words; every other order needs a rule of the site.
    codes : tuple of Coding
        What was ordered: the codes by which routing rules choose.
    modality : str
        Defined term of (0008,0060), where the order says one.
    asked : tuple of ClinicalFact
        Values that the volumes have to obey.
    model : str
        Model by name; empty: the rule's, else the site's.
    samples : int
        How many volumes; 0: as many as the rule says.
    """

    origin: OrderOrigin
    sender: str
    reference: str
    kind: str
    received_at: datetime
    patient: PatientIdentifier | None = None
    subject_reference: str = ""
    accession: str = ""
    study_uid: str = ""
    series_uid: str = ""
    focus: str = ""
    names_us: bool = False
    codes: tuple[Coding, ...] = ()
    modality: str = ""
    asked: tuple[ClinicalFact, ...] = ()
    model: str = ""
    samples: int = 0

    @property
    def order_id(self) -> str:
        """UUID that belongs to sender and reference: a repeated notification is the same order."""
        return str(derive_uuid("order", self.origin.value, self.sender, self.reference))


def require_storable(*values: object) -> None:
    """Require that every string in orders, or in parts of them, is one that databases, files and the wire carry.

    Raises
    ------
    RequestInvalid
        If one holds NUL or half of a surrogate pair; it is not repeated.

    Examples
    --------
    >>> require_storable("A-1", (Coding("http://loinc.org", "24590-2"),))
    """
    if any(_UNSTORABLE.search(text) for text in _texts(values)):
        raise RequestInvalid(
            found="an order in which a string holds NUL or half of a surrogate pair",
            allowed="Unicode text without NUL",
            action="correct the order at its sender, then order again",
        )


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _texts(item)
    elif is_dataclass(value):
        for one in fields(value):
            yield from _texts(getattr(value, one.name))


@dataclass(frozen=True, slots=True)
class JobNews:
    """One job of an order (or of a series that came by itself), as others may know it: no patient data, no clinical value.

    Attributes
    ----------
    state : str
        ``requested``, ``held``, ``attested``, ``rejected``, ``failed``, ``cancelled``.
    error : tuple of (str, str)
        ``code``, ``found``, ``allowed``, ``next`` of the last error; empty where there is none.
    study_uid, series_uid : str
        Of what was published; empty before.
    source_study_uid, source_series_uid : str
        Of the source.
    provenance_reference, study_reference, document_references : str, str, tuple of str
        ``Provenance/x``, ``ImagingStudy/y`` and the DocumentReferences on the FHIR server; empty before.
    """

    request_id: str
    state: str
    model: str
    updated_at: datetime
    source_study_uid: str = ""
    source_series_uid: str = ""
    study_uid: str = ""
    series_uid: str = ""
    instances: int = 0
    provenance_reference: str = ""
    study_reference: str = ""
    document_references: tuple[str, ...] = ()
    error: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class News:
    """Something that others are told: an order changed its state, or one of its jobs did.

    Attributes
    ----------
    news_id : str
        The same for the same change, however often it is sent: receivers drop repeats by it.
    kind : str
        ``order.waiting``, ``order.refused``, ``order.ignored``, ``order.requested``, ``job.held``, ``job.attested``,
        ``job.rejected``, ``job.failed``, ``job.cancelled``, ``order.completed`` (all jobs of the order have ended).
    order : Order or None
        None for a job that no order asked for.
    jobs : tuple of JobNews
        For ``job.*`` the one job; for ``order.*`` all of them. A draw that was rejected and drawn again is not an end.
    reason : str
        Why, in words without patient data.
    """

    news_id: str
    kind: str
    at: datetime
    order: Order | None
    order_state: OrderState | None
    jobs: tuple[JobNews, ...]
    reason: str = ""
