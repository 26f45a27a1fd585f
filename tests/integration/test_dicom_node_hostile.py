"""Peers that break the protocol, by mistake or on purpose: nothing hangs, nothing is lost, nothing piles up.

The node runs in a process of its own, so that its memory, threads and open files are seen from outside.
"""

from __future__ import annotations

import hashlib
import random
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage

from dicom_node.archive import DISK_THREADS
from dicom_node.scu import Peer, echo
from tests.peers.node_process import NodeProcess, Usage, running_node
from tests.peers.raw_scu import (
    ABORT,
    AC,
    COMMAND,
    DATA,
    DATASET,
    ECHO,
    LAST,
    RELEASE,
    RJ,
    STORE,
    RawScu,
    associate_rq,
    command,
    context,
    echo_rq,
    element,
    item,
    pdu,
    pdv,
    raw_scu,
    store_rq,
    us,
)

VERIFICATION = context(1, ECHO[0], ECHO[1])
UID = "1.2.826.0.1.3680043.9.9999.77"
WHOLE = COMMAND | LAST

# The database keeps the connections of as many threads as have used it at once, each with its journal.
_POOLED_FILES = 10


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    options = {"acse_timeout_s": 1.0, "network_timeout_s": 1.0, "pdu_timeout_s": 0.5, "dimse_timeout_s": 1.0}
    with running_node(tmp_path_factory.mktemp("hostile"), port, **options) as running:
        yield running


@pytest.fixture(autouse=True)
def still_well(node: NodeProcess, eventually: Callable[..., object]) -> Iterator[None]:
    """After each test the node answers, holds no thread and no socket of its callers, and no thread of it died aloud."""
    echo(_peer(node))
    before = _rested(node, eventually)
    yield
    echo(_peer(node))
    after = _rested(node, eventually)
    assert after.files <= before.files + _POOLED_FILES
    assert after.resident_mib < before.resident_mib + 80
    assert "Traceback" not in node.log()


def _rested(node: NodeProcess, eventually: Callable[..., object]) -> Usage:
    eventually(lambda: node.usage().threads <= 3 + DISK_THREADS, deadline_s=10)
    return node.usage()


def _peer(node: NodeProcess) -> Peer:
    return Peer("node", "VERAICON", "127.0.0.1", node.port, "TEST", timeout_s=10.0)


def _answers_or_ends(raw: RawScu) -> None:
    """Read until the node hangs up; a node that does neither in time is a TimeoutError, which fails the test."""
    while (answer := raw.read()) is not None and answer[0] != ABORT:
        pass


def _rq(contexts: list[bytes] | None = None, **options: bytes) -> bytes:
    return associate_rq([VERIFICATION] if contexts is None else contexts, **options)


_DEEP = item(0x54, struct.pack(">H", 0xFFFF) + item(0x54, struct.pack(">H", 0xFFFF) + item(0x54, b"\0\0")))

BEFORE_ASSOCIATION = {
    "unknown type 0": pdu(0x00, b"\0" * 8),
    "unknown type 8": pdu(0x08, b"\0" * 8),
    "unknown type 255": pdu(0xFF, b"\0" * 8),
    "an accept": pdu(AC, _rq()[6:]),
    "a rejection": pdu(RJ, bytes(4)),
    "a release": pdu(RELEASE, bytes(4)),
    "an abort": pdu(ABORT, bytes(4)),
    "data": pdu(DATA, pdv(1, WHOLE, echo_rq())),
    "length 0": pdu(1, b""),
    "length too long": pdu(1, _rq()[6:], length=10_000),
    "length too short": pdu(1, _rq()[6:], length=80),
    "length 4 GiB": pdu(1, _rq()[6:], length=0xFFFFFFFF),
    "10,000 contexts": _rq([context(2 * (n % 128) + 1, ECHO[0], ECHO[1]) for n in range(10_000)]),
    "no context": _rq([]),
    "a context without syntaxes": _rq([item(0x20, bytes([1, 0, 0, 0]))]),
    "a context without transfer syntax": _rq([context(1, ECHO[0])]),
    "a context with even id": _rq([context(2, *ECHO)]),
    "a context with a UID of 5,000 digits": _rq([context(1, "1." * 2500, ECHO[1])]),
    "a context with bytes for a UID": _rq([item(0x20, bytes([1, 0, 0, 0]) + item(0x30, b"\xff\xfe") + item(0x40, b"\0"))]),
    "an unknown item": _rq([VERIFICATION, item(0x77, b"?" * 40)]),
    "user items within user items": _rq(user_items=_DEEP * 50),
    "user items of no length": _rq(user_items=item(0x51, b"") * 5000),
    "a user identity that lies": _rq(user_items=item(0x58, bytes([9, 1]) + struct.pack(">H", 0xFFFF) + b"me")),
    "a maximum length of 1": _rq(user_items=item(0x51, struct.pack(">L", 1)) + item(0x52, b"1.2.3")),
    "no user items": _rq(user_items=b""),
    "a called title of bytes": _rq(called=b"\xff\xfe\0\0"),
    "a calling title of nothing": _rq(calling=b""),
    "protocol version 0": pdu(1, b"\0\0" + _rq()[8:]),
}


@pytest.mark.requirement("DICOM-ASSOC-008")
@pytest.mark.parametrize("sent", BEFORE_ASSOCIATION.values(), ids=BEFORE_ASSOCIATION.keys())
def test_what_is_no_association_request_is_answered_or_ended(node: NodeProcess, sent: bytes) -> None:
    with raw_scu(node.port) as raw:
        raw.send(sent)
        _answers_or_ends(raw)


@pytest.mark.requirement("DICOM-ASSOC-008")
def test_a_request_cut_anywhere_and_one_with_any_length_wrong_hold_nothing(node: NodeProcess) -> None:
    whole = _rq()
    broken = [whole[:at] for at in range(1, len(whole), 9)]
    for at in range(6 + 68, len(whole) - 2):  # each place where an item's length may stand
        broken += [whole[:at] + struct.pack(">H", length) + whole[at + 2 :] for length in (0, 0xFFFF)]

    def send(data: bytes) -> None:
        with raw_scu(node.port) as raw:
            raw.send(data)
            raw.connection.shutdown(socket.SHUT_WR)
            _answers_or_ends(raw)

    with ThreadPoolExecutor(4) as callers:
        list(callers.map(send, broken))


_STORE_NO_UID = command(
    element(0x0002, MRImageStorage.encode()), element(0x0100, us(1)), element(0x0110, us(1)), element(0x0800, us(1))
)

AFTER_ASSOCIATION = {
    "an empty data PDU": pdu(DATA, b""),
    "an item without header": pdu(DATA, struct.pack(">L", 0)),
    "an item of length 1": pdu(DATA, pdv(1, WHOLE, b"", length=1)),
    "an item longer than its PDU": pdu(DATA, pdv(1, WHOLE, echo_rq(), length=0xFFFF)),
    "an item of 4 GiB": pdu(DATA, pdv(1, WHOLE, echo_rq(), length=0xFFFFFFFF)),
    "a PDU of 4 GiB": pdu(DATA, b"", length=0xFFFFFFFF),
    "half a PDU": pdu(DATA, pdv(1, WHOLE, echo_rq()))[:30],
    "an unknown context": pdu(DATA, pdv(77, WHOLE, echo_rq())),
    "an instance in an unknown context": pdu(DATA, pdv(77, WHOLE, store_rq(MRImageStorage, UID)) + pdv(77, LAST, b"\0" * 64)),
    "a dataset before any command": pdu(DATA, pdv(1, DATASET | LAST, b"\0" * 64)),
    "a command that never ends": pdu(DATA, pdv(1, COMMAND, b"\0" * 10_000)) * 200,
    "a command of zeros": pdu(DATA, pdv(1, WHOLE, b"\0" * 64)),
    "an empty command": pdu(DATA, pdv(1, WHOLE, b"")),
    "a wrong group length": pdu(DATA, pdv(1, WHOLE, command(element(0x0100, us(0x30)), group_length=0x7FFFFFFF))),
    "an element that is too long": pdu(DATA, pdv(1, WHOLE, command(element(0x0100, us(0x30), length=0x7FFFFFFF)))),
    "no command field": pdu(DATA, pdv(1, WHOLE, command(element(0x0110, us(1)), element(0x0800, us(0x0101))))),
    "an unknown command field": pdu(DATA, pdv(1, WHOLE, command(element(0x0100, us(0x7FFF)), element(0x0800, us(0x0101))))),
    "a command field of four bytes": pdu(DATA, pdv(1, WHOLE, command(element(0x0100, struct.pack("<L", 0x30))))),
    "a command field of text": pdu(DATA, pdv(1, WHOLE, command(element(0x0100, b"x"), element(0x0800, b"yyyyyy")))),
    "an echo without message id": pdu(
        DATA, pdv(1, WHOLE, command(element(0x0002, ECHO[0].encode()), element(0x0100, us(0x30)), element(0x0800, us(0x0101))))
    ),
    "an echo with a dataset": pdu(DATA, pdv(1, WHOLE, echo_rq()) + pdv(1, LAST, b"\0" * 64)),
    "an answer nobody asked for": pdu(
        DATA, pdv(1, WHOLE, command(element(0x0100, us(0x8001)), element(0x0120, us(9)), element(0x0800, us(0x0101))))
    ),
    "a cancel of nothing": pdu(
        DATA, pdv(1, WHOLE, command(element(0x0100, us(0x0FFF)), element(0x0120, us(9)), element(0x0800, us(0x0101))))
    )
    * 50,
    "an instance without UID": pdu(DATA, pdv(3, WHOLE, _STORE_NO_UID) + pdv(3, LAST, b"\0" * 64)),
    "an instance without dataset": pdu(
        DATA, pdv(3, WHOLE, command(element(0x0100, us(1)), element(0x0110, us(1)), element(0x0800, us(0x0101))))
    ),
    "a command within a dataset": pdu(
        DATA, pdv(3, WHOLE, store_rq(MRImageStorage, UID)) + pdv(3, DATASET, b"\0" * 64) + pdv(1, WHOLE, echo_rq())
    ),
    "a dataset that changes its context": pdu(
        DATA, pdv(3, WHOLE, store_rq(MRImageStorage, UID)) + pdv(3, DATASET, b"\0" * 64) + pdv(1, LAST, b"\0" * 64)
    ),
    "a release within a dataset": pdu(DATA, pdv(3, WHOLE, store_rq(MRImageStorage, UID)) + pdv(3, DATASET, b"\0" * 64))
    + pdu(RELEASE, bytes(4)),
    "an abort within a dataset": pdu(DATA, pdv(3, WHOLE, store_rq(MRImageStorage, UID)) + pdv(3, DATASET, b"\0" * 64))
    + pdu(ABORT, bytes(4)),
    "a second association request": _rq(),
    "data after the release": pdu(RELEASE, bytes(4)) + pdu(DATA, pdv(1, WHOLE, echo_rq())),
    "a thousand echoes at once": pdu(DATA, pdv(1, WHOLE, echo_rq())) * 1000,
    "silence": b"",
}


@pytest.mark.requirement("DICOM-ASSOC-008")
@pytest.mark.parametrize("sent", AFTER_ASSOCIATION.values(), ids=AFTER_ASSOCIATION.keys())
def test_what_is_no_message_is_answered_or_ended(node: NodeProcess, sent: bytes, eventually: Callable[..., object]) -> None:
    before = node.kept("instances")
    with raw_scu(node.port) as raw:
        raw.associate(ECHO, STORE)
        raw.send(sent)
        _answers_or_ends(raw)
    assert node.kept("instances") == before
    eventually(lambda: not list(node.folder.rglob("*.part")), deadline_s=5)


@pytest.mark.requirement("DICOM-ASSOC-008")
def test_a_message_cut_anywhere_holds_nothing_and_stores_nothing(node: NodeProcess) -> None:
    whole = pdu(DATA, pdv(3, WHOLE, store_rq(MRImageStorage, UID))) + pdu(DATA, pdv(3, LAST, b"\x08\0\x05\0CS\x04\0AAAA" * 9))
    before = node.kept("instances")

    def send(length: int) -> None:
        with raw_scu(node.port) as raw:
            raw.associate(ECHO, STORE)
            raw.send(whole[:length])
            raw.connection.shutdown(socket.SHUT_WR)
            _answers_or_ends(raw)

    with ThreadPoolExecutor(4) as callers:
        list(callers.map(send, range(1, len(whole), 11)))
    assert node.kept("instances") == before


# --- mutations of real files ---------------------------------------------------------------------------------------------


class Original:
    """A real file, of which the dataset is sent: its class, transfer syntax, and its bytes under a UID of our own."""

    def __init__(self, path: Path) -> None:
        ds = dcmread(path)
        self.sop_class, self.syntax = str(ds.SOPClassUID), str(ds.file_meta.TransferSyntaxUID)
        self.uid = str(ds.SOPInstanceUID)
        self.dataset = _dataset_of(path.read_bytes())
        assert self.uid.encode() in self.dataset

    def mutated(self, number: int, rng: random.Random) -> tuple[str, bytes]:
        """Return UID and dataset with one to eight wrong bytes, more of them in the header than in the pixels."""
        uid = f"{self.uid[:-6]}{number + 100_000}"
        data = bytearray(self.dataset.replace(self.uid.encode(), uid.encode(), 1))
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(min(len(data), 6000 if rng.random() < 0.8 else len(data)))] = rng.randrange(256)
        if rng.random() < 0.1:
            del data[rng.randrange(len(data)) :]
        return uid, bytes(data)


def _dataset_of(file: bytes) -> bytes:
    """Return what follows the file meta information, whose group length comes first (PS3.10 7.1), where there is one."""
    if file[128:132] != b"DICM":
        return file
    return file[132 + 12 + struct.unpack_from("<L", file, 132 + 8)[0] :]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.requirement("DICOM-ASSOC-009")
def test_a_thousand_mutations_of_real_files_are_each_answered_and_each_kept_where_the_answer_says(
    node: NodeProcess, data_folder: Callable[[str], Path], eventually: Callable[..., object]
) -> None:
    paths = [data_folder("dicom/mr_siemens_7_transfer_syntaxes") / f"{number}.dcm" for number in range(1, 10)]
    originals = [*map(Original, paths), Original(data_folder("dicom/mr_enhanced_multiframe") / "Philips" / "IM_0027_fMAP.dcm")]
    contexts = list(dict.fromkeys((original.sop_class, original.syntax) for original in originals))

    def send(association: int, count: int) -> list[tuple[int, str]]:
        rng = random.Random(association)
        answered = []
        with raw_scu(node.port, timeout_s=30) as raw:
            raw.associate(*contexts)
            for number in range(association * 1000, association * 1000 + count):
                original = originals[number % len(originals)]
                uid, dataset = original.mutated(number, rng)
                context_id = 2 * contexts.index((original.sop_class, original.syntax)) + 1
                status = raw.store(context_id, original.sop_class, uid, dataset, number % 60_000 + 1)
                assert status is not None, "the association ended"
                answered.append((status, _digest(dataset)))
            raw.send(pdu(RELEASE, bytes(4)))
        return answered

    with ThreadPoolExecutor(4) as senders:
        list(senders.map(lambda number: send(number, 100), range(4)))  # until pools and allocator have what they need
        before = _rested(node, eventually)
        answered = [one for some in senders.map(lambda number: send(number, 250), range(4, 8)) for one in some]
    after = _rested(node, eventually)

    held, refused = ({_digest(_dataset_of(path.read_bytes())) for path in node.kept(kind)} for kind in ("instances", "refused"))
    assert len(answered) == 1000
    assert {status for status, _ in answered} == {0x0000, 0xA900, 0xC000}
    assert {digest for status, digest in answered if status == 0x0000} <= held
    assert {digest for status, digest in answered if status != 0x0000} <= refused
    assert after.resident_mib < before.resident_mib + 50, "250 MB went through"
    assert after.files <= before.files + _POOLED_FILES


@pytest.mark.requirement("DICOM-STORE-007")
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_bytes_that_are_no_dataset_are_refused_by_name_and_kept(node: NodeProcess, syntax: str) -> None:
    rng = random.Random(7)
    noise = [rng.randbytes(size) for size in (0, 1, 7, 500, 70_000)]
    with raw_scu(node.port) as raw:
        raw.associate((MRImageStorage, syntax))
        for number, data in enumerate(noise, start=1):
            assert raw.store(1, MRImageStorage, UID, data, number) == 0xC000
    refused = {_digest(_dataset_of(path.read_bytes())) for path in node.kept("refused")}
    assert {_digest(data) for data in noise} <= refused
