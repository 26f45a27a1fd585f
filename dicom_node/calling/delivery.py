"""One held instance on its way out: in its own transfer syntax where the receiver takes it, else transcoded, else not at all.

References
----------
DICOM PS3.5 10.1 (the default transfer syntax), Annex A; PS3.7 9.1.1 (C-STORE).
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode, split_dataset
from pynetdicom.presentation import PresentationContext

from dicom_node.archive import Archive
from dicom_node.association.watchdog import Movement, next_message
from dicom_node.holding.files import digest_of
from dicom_node.holding.index import Holding
from dicom_node.presentation import UNCOMPRESSED
from dicom_node.web.recoding import recode
from domain.errors import PeerAnswerInvalid, PeerRefused, PeerUnreachable, UnreadableInstance

# PS3.7 9.1.1.1: Message ID is an unsigned 16-bit number.
MESSAGE_IDS = 65535


def choose_context(contexts: Sequence[PresentationContext], sop_class_uid: str, syntax_uid: str) -> PresentationContext:
    """Return the accepted context that carries an instance: in its own transfer syntax, else in an uncompressed one.

    Raises
    ------
    PeerRefused
        If none does.
    """
    accepted = {
        context.transfer_syntax[0]: context
        for context in contexts
        if context.abstract_syntax == sop_class_uid and context.as_scu
    }
    for syntax in (syntax_uid, *UNCOMPRESSED):
        if syntax in accepted:
            return accepted[syntax]
    raise PeerRefused(
        found=f"no accepted presentation context for {sop_class_uid}, held in {syntax_uid}",
        allowed="that transfer syntax, Explicit or Implicit VR Little Endian",
        action="enable the storage class at the receiver; the other instances are sent",
    )


def encoded_for(archive: Archive, holding: Holding, syntax_uid: str) -> bytes:
    """Return the dataset of a held instance in a transfer syntax: as it was received where it is that one.

    Raises
    ------
    UnreadableInstance
        If its bytes are not those that were received, or cannot be encoded again.
    AnswerUnacceptable
        If its Pixel Data cannot be decoded here.
    """
    if syntax_uid == holding.transfer_syntax_uid:
        return _as_received(archive, holding)
    ds = recode(archive.read(holding.reference), UNCOMPRESSED[0])
    implicit = syntax_uid == UNCOMPRESSED[1]
    encoded: bytes | None = encode(_without_group_lengths(ds), implicit, True)
    if encoded is None:
        raise UnreadableInstance(
            found=f"a held instance whose attributes cannot be encoded in {syntax_uid}",
            allowed=f"the transfer syntax in which it is held, {holding.transfer_syntax_uid}",
            action="let the receiver accept that transfer syntax",
        )
    return encoded


def deliver(
    assoc: Any,
    movement: Movement,
    context: PresentationContext,
    holding: Holding,
    encoded: bytes,
    *,
    message_id: int,
) -> int:
    """Send one instance by C-STORE over an association that serves other messages too; return the status that came back.

    Parameters
    ----------
    movement : Movement
        Watches the association: where nothing moves for its time, there is no answer.

    Raises
    ------
    PeerUnreachable
        If no answer came.
    PeerAnswerInvalid
        If something else came.
    """
    request = C_STORE()
    request.MessageID = message_id
    request.Priority = 0
    request.AffectedSOPClassUID = context.abstract_syntax
    request.AffectedSOPInstanceUID = holding.reference.sop_instance_uid
    request.DataSet = BytesIO(encoded)
    assoc.dimse.send_msg(request, context.context_id)
    _, answered = next_message(assoc, movement)
    if answered is None:
        raise PeerUnreachable(
            found=f"no answer to a C-STORE, and nothing moved for {movement.timeout_s:g} s or the connection ended",
            allowed="a response to each C-STORE",
            action="check the receiver and the network, then ask again for what is missing",
        )
    if not isinstance(answered, C_STORE) or answered.MessageIDBeingRespondedTo != message_id or answered.Status is None:
        raise PeerAnswerInvalid(
            found=f"a {type(answered).__name__} message where the response to a C-STORE was due",
            allowed="the C-STORE response with the request's Message ID (PS3.7 9.3.1.2)",
            action="ask the receiver's maker",
        )
    return int(answered.Status)


def _as_received(archive: Archive, holding: Holding) -> bytes:
    path = archive.instance_path(holding.reference)
    data = path.read_bytes()
    if digest_of(data) != holding.reference.digest:
        raise UnreadableInstance(
            found="bytes in the archive that are not those that were received",
            allowed="the bytes that the digest in the index was made from",
            action="restore the file from a backup, or send the series again",
        )
    _, offset = split_dataset(path)
    return data[offset:]


def _without_group_lengths(ds: Dataset) -> Dataset:
    """Drop retired group length elements, whose values another encoding makes untrue (PS3.5 7.2)."""
    for tag in [element.tag for element in ds if element.tag.element == 0]:
        del ds[tag]
    return ds
