"""Contexts, counts, cancels and retries behind C-GET and C-MOVE, without a network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
    RLELossless,
)
from pynetdicom import build_context
from pynetdicom.dimse_messages import C_CANCEL_RQ, C_GET_RQ

from dicom_node.calling.delivery import choose_context
from dicom_node.calling.dimse import identifier
from dicom_node.calling.pulling import with_retries
from dicom_node.calling.remote import RemoteStudy
from dicom_node.holding.index import Holding
from dicom_node.holding.skimming import file_meta_of
from dicom_node.presentation import RECEIVED_SYNTAXES, received_contexts, storage_batches
from dicom_node.recoding import encoded_dataset
from dicom_node.services.cancelling import Cancellations
from dicom_node.services.sub_operations import SubOperationCounts
from dicom_node.statuses import Status
from domain.errors import PeerRefused, PeerUnreachable, RequestInvalid, UnreadableInstance
from domain.identifiers import InstanceUid
from domain.series import InstanceReference
from tests.builders_dicom import part10_series


@pytest.mark.requirement("DICOM-QR-027")
@given(st.lists(st.tuples(st.integers(0, 99).map("1.2.{}".format), st.integers(0, 5).map("1.9.{}".format)), max_size=400))
def test_no_pair_of_class_and_syntax_is_left_out_and_no_association_is_overloaded(pairs: list[tuple[str, str]]) -> None:
    batches = storage_batches(pairs)
    assert {pair for batch in batches for pair in batch.pairs} == set(pairs)
    for batch in batches:
        proposed = [(context.abstract_syntax, tuple(context.transfer_syntax)) for context in batch.contexts]
        assert len(set(proposed)) == len(proposed) <= 128
        for sop_class, syntax in batch.pairs:
            wanted = {(sop_class, (one,)) for one in (syntax, ExplicitVRLittleEndian, ImplicitVRLittleEndian)}
            assert wanted <= set(proposed)


def test_few_known_classes_are_received_in_a_context_a_syntax_and_many_all_the_same() -> None:
    few = received_contexts([MRImageStorage, CTImageStorage, MRImageStorage])
    assert [len(context.transfer_syntax) for context in few] == [1] * 2 * len(RECEIVED_SYNTAXES)
    for many in (received_contexts([]), received_contexts([f"1.2.{n}" for n in range(300)])):
        assert len(many) <= 127
        assert all(len(context.transfer_syntax) == len(RECEIVED_SYNTAXES) for context in many)


def accepted(syntax: str, *, as_scu: bool = True) -> Any:
    context = build_context(MRImageStorage, syntax)
    context._as_scu = as_scu
    return context


@pytest.mark.requirement("DICOM-QR-020")
def test_an_instance_goes_in_its_own_syntax_else_plain_else_not() -> None:
    own, plain, bare = accepted(JPEG2000Lossless), accepted(ExplicitVRLittleEndian), accepted(ImplicitVRLittleEndian)
    assert choose_context([bare, plain, own], MRImageStorage, JPEG2000Lossless) is own
    assert choose_context([bare, plain, own], MRImageStorage, RLELossless) is plain
    assert choose_context([bare, own], MRImageStorage, RLELossless) is bare
    for contexts in ([own], [], [accepted(ExplicitVRLittleEndian, as_scu=False)]):
        with pytest.raises(PeerRefused):
            choose_context(contexts, MRImageStorage, RLELossless)


@pytest.mark.requirement("DICOM-QR-020")
def test_a_file_whose_meta_information_is_out_of_order_is_sent_all_the_same() -> None:
    (data,) = part10_series(1)
    _, start = file_meta_of(data) or pytest.fail("no Part 10 file")
    last = data.rindex(b"\x02\x00\x13\x00SH", 0, start)
    odd = data[:144] + data[last:start] + data[144:last] + data[start:]
    assert file_meta_of(odd) is None
    assert bytes(encoded_dataset(odd, ExplicitVRLittleEndian)) == data[start:]
    with pytest.raises(UnreadableInstance):
        encoded_dataset(b"no DICOM", ExplicitVRLittleEndian)


def holding(uid: str) -> Holding:
    return Holding(
        InstanceReference(MRImageStorage, InstanceUid(uid), "sha256:" + "0" * 64), ExplicitVRLittleEndian, "1.1", "1.0"
    )


@pytest.mark.requirement("DICOM-QR-022")
@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([0x0000, 0x0000], Status.SUCCESS),
        ([0x0000, 0xB007], Status.SUBOPERATIONS_WITH_FAILURES),
        ([0x0000, 0xA700], Status.SUBOPERATIONS_WITH_FAILURES),
        ([None, 0xC000], Status.UNABLE_TO_PERFORM_SUBOPERATIONS),
        ([], Status.SUCCESS),
    ],
)
def test_the_final_status_follows_from_the_counts(statuses: list[int | None], expected: Status) -> None:
    counts = SubOperationCounts(remaining=len(statuses))
    for number, status in enumerate(statuses):
        counts.note(holding(f"1.2.{number}"), status)
    assert (counts.remaining, counts.status) == (0, expected)


@pytest.mark.requirement("DICOM-QR-022")
def test_the_list_of_failures_fits_into_one_element_and_the_count_stays_true() -> None:
    counts = SubOperationCounts(remaining=3000)
    for number in range(3000):
        counts.note(holding(f"1.2.826.0.1.3680043.8.498.1234567890123456789012345678901.{number}"), None)
    assert counts.failed == 3000
    assert len("\\".join(counts.failed_uid_list)) <= 65534
    assert len(counts.failed_uid_list) > 900


class Caller:
    """Stands for an association, which is looked up by identity."""


def message(kind: type, **elements: int) -> Any:
    made = kind()
    made.command_set = SimpleNamespace(get=elements.get)
    return made


@pytest.mark.requirement("DICOM-QR-024")
def test_a_cancel_holds_for_the_request_before_it_and_is_void_for_the_one_behind() -> None:
    cancellations, caller, other = Cancellations(), Caller(), Caller()
    ((_, note),) = cancellations.handlers()
    note(SimpleNamespace(assoc=caller, message=message(C_GET_RQ, MessageID=7)))
    note(SimpleNamespace(assoc=caller, message=message(C_CANCEL_RQ, MessageIDBeingRespondedTo=7)))
    assert cancellations.asked(caller, 7)
    assert not cancellations.asked(caller, 8)
    assert not cancellations.asked(other, 7)
    note(SimpleNamespace(assoc=caller, message=message(C_GET_RQ, MessageID=7)))
    assert not cancellations.asked(caller, 7)


@pytest.mark.requirement("DICOM-PULL-004")
def test_only_an_unreachable_peer_is_tried_again_with_longer_pauses() -> None:
    pauses: list[float] = []
    calls: list[int] = []

    def unreachable() -> None:
        calls.append(1)
        raise PeerUnreachable(found="", allowed="", action="")

    def refused() -> None:
        raise PeerRefused(found="", allowed="", action="")

    with pytest.raises(PeerUnreachable):
        with_retries(unreachable, attempts=4, first_delay_s=0.5, sleep=pauses.append)
    assert (len(calls), pauses) == (4, [0.5, 1.0, 2.0])
    with pytest.raises(PeerRefused):
        with_retries(refused, sleep=pauses.append)
    assert len(pauses) == 3


@pytest.mark.requirement("DICOM-PULL-003")
def test_a_prior_is_earlier_or_has_no_date() -> None:
    current = RemoteStudy("1.1", study_date="20240305", study_time="101112")
    assert RemoteStudy("1.2", study_date="20240305", study_time="0900").precedes(current)
    assert not RemoteStudy("1.3", study_date="20240305", study_time="2000").precedes(current)
    assert RemoteStudy("1.4").precedes(current)


@pytest.mark.requirement("DICOM-QR-009")
def test_an_identifier_takes_ranges_and_wildcards_and_names_its_character_set_only_where_needed() -> None:
    plain = identifier("STUDY", "StudyInstanceUID", StudyDate="20240101-", PatientName="Doe*")
    assert (plain.QueryRetrieveLevel, plain.StudyDate, plain.StudyInstanceUID) == ("STUDY", "20240101-", None)
    assert "SpecificCharacterSet" not in plain
    assert identifier("STUDY", PatientName="Müller*").SpecificCharacterSet == "ISO_IR 192"
    with pytest.raises(RequestInvalid):
        identifier("STUDY", "NoSuchKeyword")
