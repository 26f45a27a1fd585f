"""Presentation contexts that the node accepts and proposes, as data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
)

# Explicit first: it keeps the VR of private attributes, which Implicit loses.
UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)

FIND_CLASSES = (PatientRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelFind)
GET_CLASSES = (StudyRootQueryRetrieveInformationModelGet,)

# PS3.8 9.3.2: context ids are the odd numbers of one octet.
_MAX_CONTEXTS = 128


def verification_contexts() -> list[PresentationContext]:
    """Return what a C-ECHO requestor proposes."""
    return [build_context(Verification, list(UNCOMPRESSED))]


def find_contexts(sop_class_uid: str) -> list[PresentationContext]:
    """Return what a C-FIND requestor proposes."""
    return [build_context(sop_class_uid, list(UNCOMPRESSED))]


def get_contexts() -> list[PresentationContext]:
    """Return what the node accepts, and a C-GET requestor proposes, beside storage."""
    return [build_context(uid, list(UNCOMPRESSED)) for uid in GET_CLASSES]


def storage_contexts(datasets: Iterable[Dataset]) -> list[PresentationContext]:
    """Return one proposed context for each SOP class and transfer syntax that is really to be sent.

    One transfer syntax in a context: the peer cannot then choose another one than the instances have. An uncompressed class is
    proposed in Implicit VR Little Endian too, the default that every AE supports (PS3.5 10.1).
    """
    wanted: dict[tuple[str, str], None] = {}
    for ds in datasets:
        syntax = ds.file_meta.TransferSyntaxUID
        wanted[(ds.SOPClassUID, syntax)] = None
        if syntax in UNCOMPRESSED:
            wanted[(ds.SOPClassUID, ImplicitVRLittleEndian)] = None
    return [build_context(sop_class, syntax) for sop_class, syntax in list(wanted)[:_MAX_CONTEXTS]]


def is_accepted(contexts: Sequence[PresentationContext], sop_class_uid: str, transfer_syntax_uid: str) -> bool:
    """Return whether an accepted context carries this SOP class in exactly this transfer syntax."""
    return any(
        context.abstract_syntax == sop_class_uid and transfer_syntax_uid in context.transfer_syntax for context in contexts
    )
