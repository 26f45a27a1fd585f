"""PDUs and C-STORE commands as bytes, against pynetdicom's own encoding of them."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import decode
from pynetdicom.pdu import P_DATA_TF

from dicom_node.association import wire

_CLASS, _INSTANCE = "1.2.840.10008.5.1.4.1.1.4", "1.2.3.45"


def test_the_request_is_the_one_that_pynetdicom_encodes() -> None:
    primitive = C_STORE()
    primitive.MessageID, primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = 7, _CLASS, _INSTANCE
    primitive.Priority, primitive.DataSet = 0, BytesIO(b"xx")
    primitive.MoveOriginatorApplicationEntityTitle, primitive.MoveOriginatorMessageID = "MOVER", 3
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    theirs = decode(BytesIO(_encoded(message)), True, True)
    encoded = wire.store_request(sop_class_uid=_CLASS, sop_instance_uid=_INSTANCE, message_id=7, move_originator=("MOVER", 3))
    ours = decode(BytesIO(encoded), True, True)
    assert ours.CommandGroupLength == len(encoded) - 12
    for element in ours:
        if element.keyword not in ("CommandDataSetType", "CommandGroupLength"):
            assert element.value == theirs[element.tag].value, element.keyword


def _encoded(message: object) -> bytes:
    parts = list(message.encode_msg(1, 0))  # type: ignore[attr-defined]  # a DIMSE message
    return bytes(parts[0].presentation_data_value_list[0][1][1:])


def test_the_response_is_understood_by_pynetdicom() -> None:
    request = wire.parse_command(wire.store_request(sop_class_uid=_CLASS, sop_instance_uid=_INSTANCE, message_id=9))
    answer = decode(BytesIO(wire.store_response(request, status=0xA700, comment="VI-5000: no room")), True, True)
    assert (answer.Status, answer.MessageIDBeingRespondedTo, answer.ErrorComment) == (0xA700, 9, "VI-5000: no room")
    assert (answer.AffectedSOPClassUID, answer.AffectedSOPInstanceUID) == (_CLASS, _INSTANCE)
    assert answer.CommandField == 0x8001


@given(
    data=st.binary(max_size=5000), maximum=st.one_of(st.just(0), st.integers(wire.SHORTEST_PDU, 1000)), is_command=st.booleans()
)
def test_a_message_comes_out_of_its_pdus_as_it_went_in(data: bytes, maximum: int, is_command: bool) -> None:
    stream = b"".join(wire.data_pdus(5, memoryview(data), maximum, is_command=is_command))
    found, last = bytearray(), []
    while stream:
        kind, length = wire.pdu_header(stream[:6])
        assert kind == wire.P_DATA_TF
        assert length <= (maximum or len(data) + 6)
        pdu = P_DATA_TF()
        pdu.decode(stream[: 6 + length])  # pynetdicom takes it too
        for pdv in wire.pdvs(stream[6 : 6 + length]):
            assert (pdv.context_id, pdv.is_command) == (5, is_command)
            assert pdv.is_last or len(pdv.data) % 2 == 0, "PS3.8 E.2: fragments are even"
            found += pdv.data
            last.append(pdv.is_last)
        stream = stream[6 + length :]
    assert bytes(found) == data
    assert last == [False] * (len(last) - 1) + [True]


@given(body=st.binary(max_size=200))
def test_any_octets_are_items_or_told(body: bytes) -> None:
    try:
        items = list(wire.pdvs(body))
    except wire.WireError:
        return
    assert sum(len(pdv.item) for pdv in items) == len(body)


@given(encoded=st.binary(max_size=200))
def test_any_octets_are_a_command_or_told(encoded: bytes) -> None:
    try:
        command = wire.parse_command(encoded)
    except wire.WireError:
        return
    assert all(0 <= element <= 0xFFFF for element in command)


def test_a_header_that_is_cut_is_told() -> None:
    with pytest.raises(wire.WireError):
        wire.pdu_header(b"\4\0\0")
