"""One held instance on its way out: in its own transfer syntax where the receiver takes it, else transcoded, else not at all.

References
----------
DICOM PS3.5 10.1 (the default transfer syntax), Annex A; PS3.7 9.1.1 (C-STORE).
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext

from dicom_node.archive import Archive
from dicom_node.association.waiting import Movement, next_message
from dicom_node.holding.index import Holding
from dicom_node.presentation import UNCOMPRESSED
from dicom_node.recoding import encoded_dataset
from domain.errors import PeerAnswerInvalid, PeerRefused, PeerUnreachable


def choose_context(
    contexts: Sequence[PresentationContext], sop_class_uid: str, syntax_uid: str, *, others: Sequence[str] = UNCOMPRESSED
) -> PresentationContext:
    """Return the accepted context that carries an instance: in its own transfer syntax, else in the first that may stand in.

    Parameters
    ----------
    others : sequence of str
        Transfer syntaxes in which it may be encoded instead, the best one first.

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
    for syntax in (syntax_uid, *others):
        if syntax in accepted:
            return accepted[syntax]
    raise PeerRefused(
        found=f"no accepted presentation context for {sop_class_uid} in {syntax_uid}",
        allowed=", ".join(UID(syntax).name for syntax in dict.fromkeys((syntax_uid, *others))),
        action="enable storage class and transfer syntax at the receiver",
    )


def encoded_for(archive: Archive, holding: Holding, syntax_uid: str) -> memoryview:
    """Return the dataset of a held instance in a transfer syntax: as it was received where it is that one.

    Raises
    ------
    UnreadableInstance
        If its bytes are not those that were received, or cannot be encoded again.
    AnswerUnacceptable
        If its Pixel Data cannot be decoded here.
    """
    with archive.checked_file(holding.reference) as file:
        return encoded_dataset(file.read(), syntax_uid)


def deliver(
    assoc: Any,
    movement: Movement,
    context: PresentationContext,
    holding: Holding,
    encoded: memoryview,
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
