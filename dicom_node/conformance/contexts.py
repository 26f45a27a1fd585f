"""What the node accepts and proposes, asked of its services and of `dicom_node.presentation`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydicom.uid import UID
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import _STORAGE_CLASSES as _STORAGE

from dicom_node.association.policy import AuditTrail
from dicom_node.commitment.messages import commitment_contexts
from dicom_node.presentation import (
    FIND_CLASSES,
    GET_CLASSES,
    MOVE_CLASSES,
    find_contexts,
    retrieve_contexts,
    verification_contexts,
)
from dicom_node.services.commitment import CommitmentService
from dicom_node.services.find import FindService
from dicom_node.services.procedure_step import ProcedureStepService
from dicom_node.services.retrieve import RetrieveService
from dicom_node.services.service import Service
from dicom_node.services.storage import StorageService
from dicom_node.services.verification import VerificationService

# A service knows its contexts before it is given an archive or a database, and nothing else is asked of it here.
_NONE_YET: Any = None


@dataclass(frozen=True, slots=True)
class NamedContext:
    """An abstract syntax with its transfer syntaxes.

    Attributes
    ----------
    role : str
        Ours: SCU, SCP, or both where the requestor may choose (PS3.7 D.3.3.4).
    """

    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    role: str

    @property
    def name(self) -> str:
        """As PS3.6 has it."""
        return UID(self.abstract_syntax).name


@dataclass(frozen=True, slots=True)
class Activity:
    """Why we call a peer, and what we propose for it."""

    name: str
    contexts: tuple[NamedContext, ...]


def services() -> tuple[Service, ...]:
    """Return the services of a node as `veraicon serve` runs it, not connected to anything."""
    audit = AuditTrail()
    return (
        VerificationService(audit),
        StorageService(_NONE_YET, audit),
        FindService(_NONE_YET, audit, ae_title=""),
        RetrieveService(_NONE_YET, audit),
        CommitmentService(_NONE_YET, _NONE_YET, _NONE_YET, audit),
        ProcedureStepService(_NONE_YET, audit),
    )


def accepted() -> tuple[NamedContext, ...]:
    """Return what the node accepts, storage apart: that is accepted without a list."""
    return tuple(_named(context, _role_of_acceptor(context)) for service in services() for context in service.contexts())


def activities() -> tuple[Activity, ...]:
    """Return what the node proposes, storage apart: that follows from the instances at hand."""
    return (
        Activity("Verify a peer (C-ECHO)", _as(verification_contexts(), "SCU")),
        Activity("Ask what a peer has (C-FIND)", _as((one for uid in FIND_CLASSES for one in find_contexts(uid)), "SCU")),
        Activity("Fetch from a peer (C-GET)", _as(retrieve_contexts([GET_CLASSES[1]]), "SCU")),
        Activity("Have a peer send to us (C-MOVE)", _as(retrieve_contexts([MOVE_CLASSES[1]]), "SCU")),
        Activity(
            "Ask a peer to commit to what was published (N-ACTION)",
            _as([*commitment_contexts(), *verification_contexts()], "SCU"),
        ),
        Activity("Report a commitment that was asked of us (N-EVENT-REPORT)", _as(commitment_contexts(), "SCP")),
    )


def storage_classes() -> dict[str, str]:
    """Return the storage classes that have a name here, name by UID, in the order of names; others are accepted too."""
    # pynetdicom names classes that are younger than pydicom's dictionary, by keyword.
    names = {str(uid): UID(uid).name if UID(uid).name != uid else word for word, uid in _STORAGE.items()}
    return dict(sorted(names.items(), key=lambda one: one[1]))


def syntax_name(uid: str) -> str:
    """Return a transfer syntax by name and UID.

    Examples
    --------
    >>> syntax_name("1.2.840.10008.1.2.1")
    'Explicit VR Little Endian (1.2.840.10008.1.2.1)'
    """
    return f"{UID(uid).name} ({uid})"


def _role_of_acceptor(context: PresentationContext) -> str:
    """Where a context says that its requestor may be SCP, we may be SCU of it."""
    return "SCP, or SCU where the requestor proposes that" if context.scp_role else "SCP"


def _as(contexts: Iterable[PresentationContext], role: str) -> tuple[NamedContext, ...]:
    return tuple(_named(context, role) for context in contexts)


def _named(context: PresentationContext, role: str) -> NamedContext:
    return NamedContext(str(context.abstract_syntax), tuple(str(uid) for uid in context.transfer_syntax or ()), role)
