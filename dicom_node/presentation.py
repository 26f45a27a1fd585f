"""Presentation contexts that the node accepts and proposes, as data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import StoragePresentationContexts, build_context
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

# Explicit first: it keeps the VR of private attributes, which Implicit loses.
UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)

FIND_CLASSES = (PatientRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelFind)
GET_CLASSES = (PatientRootQueryRetrieveInformationModelGet, StudyRootQueryRetrieveInformationModelGet)
MOVE_CLASSES = (PatientRootQueryRetrieveInformationModelMove, StudyRootQueryRetrieveInformationModelMove)

# What we take in C-GET sub-operations, in the order in which we would rather have it.
RECEIVED_SYNTAXES = (
    *UNCOMPRESSED,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLosslessSV1,
    RLELossless,
    JPEGBaseline8Bit,
    JPEG2000,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLSNearLossless,
    HTJ2KLossless,
    HTJ2K,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)

# PS3.8 9.3.2: context ids are the odd numbers of one octet.
_MAX_CONTEXTS = 128


def verification_contexts() -> list[PresentationContext]:
    """Return what a C-ECHO requestor proposes."""
    return [build_context(Verification, list(UNCOMPRESSED))]


def find_contexts(sop_class_uid: str) -> list[PresentationContext]:
    """Return what a C-FIND requestor proposes."""
    return [build_context(sop_class_uid, list(UNCOMPRESSED))]


def retrieve_contexts(sop_class_uids: Sequence[str] = (*GET_CLASSES, *MOVE_CLASSES)) -> list[PresentationContext]:
    """Return what the node accepts, and a C-GET or C-MOVE requestor proposes, beside storage."""
    return [build_context(uid, list(UNCOMPRESSED)) for uid in sop_class_uids]


@dataclass(frozen=True, slots=True, eq=False)
class StorageBatch:
    """What one association can carry.

    Attributes
    ----------
    pairs : frozenset of (str, str)
        SOP class and transfer syntax of the instances that it is for.
    contexts : tuple of PresentationContext
        At most 128: each pair by itself, and its class in both uncompressed syntaxes.
    """

    pairs: frozenset[tuple[str, str]]
    contexts: tuple[PresentationContext, ...]


def storage_batches(pairs: Iterable[tuple[str, str]]) -> list[StorageBatch]:
    """Spread pairs of SOP class and transfer syntax over as few associations as carry them all, in their order.

    A pair stands in a context of its own, so that the peer cannot choose another syntax than its instances have; beside it
    stand the uncompressed ones, for instances that have to be transcoded.

    References
    ----------
    DICOM PS3.8 9.3.2.2: 128 presentation contexts in an association.
    """
    batches: list[tuple[set[tuple[str, str]], dict[tuple[str, str], None]]] = []
    for sop_class, syntax in dict.fromkeys(pairs):
        proposed = dict.fromkeys((sop_class, one) for one in (syntax, *UNCOMPRESSED))
        if not batches or len(batches[-1][1] | proposed) > _MAX_CONTEXTS:
            batches.append((set(), {}))
        batches[-1][0].add((sop_class, syntax))
        batches[-1][1].update(proposed)
    return [
        StorageBatch(frozenset(of), tuple(build_context(sop_class, syntax) for sop_class, syntax in proposed))
        for of, proposed in batches
    ]


def received_contexts(sop_class_uids: Sequence[str], *, reserved: int = 1) -> list[PresentationContext]:
    """Return what a C-GET requestor proposes to receive in.

    Few classes get a context for each transfer syntax, so that the peer sends its instances as they are. Where there are too
    many of them, or none is known and the common ones are taken, a context offers all syntaxes and the peer chooses.

    Parameters
    ----------
    sop_class_uids : sequence of str
        Storage classes that may come; empty for the common ones.
    reserved : int
        Contexts that the association needs for something else.
    """
    room = _MAX_CONTEXTS - reserved
    classes = list(dict.fromkeys(sop_class_uids)) or [str(context.abstract_syntax) for context in StoragePresentationContexts]
    if len(classes) * len(RECEIVED_SYNTAXES) <= room:
        return [build_context(sop_class, syntax) for sop_class in classes for syntax in RECEIVED_SYNTAXES]
    return [build_context(sop_class, list(RECEIVED_SYNTAXES)) for sop_class in classes[:room]]
