"""HL7 v2: framing, characters, orders and merges as pure functions."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import BodyUnsupported, PatientMismatch, RequestInvalid, VeraiconError
from domain.identifiers import PatientIdentifier
from fhir_adapter.hl7v2.identities import Issuers
from fhir_adapter.hl7v2.merging import Merge, merges_of
from fhir_adapter.hl7v2.message import read_message
from fhir_adapter.hl7v2.mllp import Framer, Overlong, framed
from fhir_adapter.hl7v2.orders import Action, AskedOrder, OrderReading, orders_of
from fhir_adapter.hl7v2.texts import Delimiters, decode, escape, unescape
from tests.builders_hl7v2 import STUDY, adt, msh, orm

_ISSUERS = Issuers({"HOSP": "http://hospital.example/mrn"}, "http://default.example")
_NOW = datetime(2026, 1, 2, tzinfo=UTC)


def _orders(content: bytes, *fields: str) -> list[AskedOrder]:
    reading = OrderReading(_ISSUERS, fields or ("IPC-1", "OBR-18"))
    return orders_of(read_message(content), reading, _NOW)


_bodies = st.lists(st.binary(max_size=20).map(lambda one: one.replace(b"\x0b", b"").replace(b"\x1c", b"")), max_size=5)


@pytest.mark.requirement("HL7-MLLP-001")
@given(_bodies, st.lists(st.integers(0, 200)), st.sampled_from([b"", b"\r", b"noise"]))
def test_any_split_of_the_stream_gives_the_same_messages(bodies: list[bytes], cuts: list[int], between: bytes) -> None:
    stream = b"".join(between + framed(body) for body in bodies)
    framer, found, begin = Framer(1000), [], 0
    for cut in [*sorted(min(one, len(stream)) for one in cuts), len(stream)]:
        found += framer.feed(stream[begin:cut])
        begin = max(begin, cut)
    assert found == bodies


def test_a_block_that_another_one_cuts_off_is_not_taken() -> None:
    assert Framer(100).feed(b"\x0bMSH half\x0bMSH whole\x1c\r") == [b"MSH whole"]


def test_a_block_without_its_last_carriage_return_is_taken() -> None:
    assert Framer(100).feed(b"\x0bone\x1c\x0btwo\x1c") == [b"one", b"two"]


@pytest.mark.requirement("HL7-MLLP-001")
@given(st.lists(st.integers(0, 6100)))
def test_a_block_that_is_too_long_costs_none_of_its_neighbours_in_any_split(cuts: list[int]) -> None:
    long = b"MSH|" + b"x" * 6000
    stream = framed(b"before") + framed(long) + framed(b"after")
    framer, found, begin = Framer(5000), [], 0
    for cut in [*sorted(min(one, len(stream)) for one in cuts), len(stream)]:
        found += framer.feed(stream[begin:cut])
        begin = max(begin, cut)
    assert found == [b"before", Overlong(long[:4096]), b"after"]


def test_an_endless_block_is_known_as_one_and_not_held() -> None:
    framer = Framer(10)
    for _ in range(3):
        assert framer.feed(b"\x0b" + b"x" * 12) == []
        assert (framer.inside, framer.overflown) == (True, True)


_texts = st.text(st.characters(exclude_categories=["Cs"]))
_delimiters = st.sampled_from([Delimiters(), Delimiters("#", "@", "!", "$", "%")])


@given(_texts, _delimiters)
def test_any_text_survives_escaping_in_utf_8(text: str, delimiters: Delimiters) -> None:
    sent = escape(text, delimiters)
    assert not set(sent) & {
        delimiters.field,
        delimiters.component,
        delimiters.repetition,
        delimiters.subcomponent,
        "\r",
        "\n",
        "\x0b",
    }
    assert unescape(decode(sent.encode("utf-8"), "UNICODE UTF-8"), delimiters) == text


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("8859/1", "latin-1"),
        ("8859-1", "latin-1"),
        ("ISO IR100", "latin-1"),
        ("UNICODE UTF-8", "utf-8"),
        ("utf8", "utf-8"),
        ("8859/15", "iso8859-15"),
    ],
)
def test_characters_are_read_by_msh_18(name: str, codec: str) -> None:
    content = orm(rest=f"||||||{name}").replace(b"TEST", "M\u00fcller".encode(codec))
    pid = read_message(content).first("PID")
    assert pid is not None
    assert pid.text(5, 2) == "M\u00fcller"


def test_a_site_says_what_an_empty_msh_18_means() -> None:
    content = orm().replace(b"TEST", "M\u00fcller".encode("latin-1"))
    with pytest.raises(RequestInvalid):
        read_message(content)
    message = read_message(content, "8859/1")
    pid = message.first("PID")
    assert pid is not None
    assert pid.text(5, 2) == "M\u00fcller"
    assert message.header.character_set == "8859/1"


def test_an_explicit_null_says_nothing_wherever_it_stands() -> None:
    (one,) = _orders(orm(placer='""^RIS').replace(b"||generate", b"|F1|generate"))
    assert one.order.reference == "filler F1"
    with pytest.raises(PatientMismatch):
        _orders(orm(patient='""^^^HOSP^MR'))
    (of_nobody,) = _orders(orm(patient='P1^^^""^MR'))
    assert of_nobody.order.patient == PatientIdentifier("P1", "http://default.example")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"GET / HTTP/1.1\r\n", RequestInvalid),
        (b"", RequestInvalid),
        (b"MSH|^~\\&|A\rPID|1\r", RequestInvalid),
        (b"FHS|^~\\&|A\r" + orm(), BodyUnsupported),
        (orm(rest="||||||ISO IR87"), BodyUnsupported),
        (orm(patient="P\u00e91^^^HOSP"), RequestInvalid),
        (orm() + orm(), RequestInvalid),
        (orm() + b"not a segment\r", RequestInvalid),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(content: bytes, kind: type[VeraiconError]) -> None:
    with pytest.raises(kind) as refused:
        read_message(content)
    assert "P\u00e91" not in str(refused.value)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_fail_in_another_way(content: bytes) -> None:
    for sent in (content, b"MSH|^~\\&|" + content, orm() + content):
        with contextlib.suppress(VeraiconError):
            read_message(sent)


@pytest.mark.requirement("HL7-ORDER-001")
@pytest.mark.parametrize("line_end", [b"\r", b"\r\n", b"\n"])
def test_an_order_message_says_patient_images_code_and_values(line_end: bytes) -> None:
    more = ("OBX|1|NM|hippocampus-volume^^99VERAICON||3.1|cm3", "OBX|2|NM|samples^^99VERAICON||2")
    content = orm(patient="X9^^^OTHER^MR~P1^^^HOSP^MR", accession="A77", more=more).replace(b"\r", line_end)
    (one,) = _orders(content)
    order = one.order
    assert one.action is Action.ASK
    assert order.patient == PatientIdentifier("P1", "http://hospital.example/mrn")
    assert (order.sender, order.reference, order.kind) == ("RIS|NORTH", "placer 4711^RIS", "ORM^O01")
    assert (order.accession, order.study_uid, order.names_us, order.samples) == ("A77", STUDY, True, 2)
    assert [(fact.text, fact.value, fact.unit) for fact in order.asked] == [("hippocampus-volume", 3.1, "cm3")]


@pytest.mark.requirement("HL7-ORDER-001")
def test_an_imaging_order_names_its_images_in_ipc() -> None:
    segments = [
        msh("OMI^O23^OMI_O23"),
        "PID|1||P1^^^HOSP^MR",
        "ORC|NW|1^RIS",
        "OBR|1|1^RIS||24558-9^US^LN",
        "IPC|ACC1^RIS|RP1|1.2.3|SPS1|US",
        "ORC|NW|2^RIS",
        "OBR|2|2^RIS||generate^^99VERAICON",
        "IPC|ACC2|RP2|1.2.4|SPS2|MR",
    ]
    first, second = (one.order for one in _orders(("\r".join(segments) + "\r").encode()))
    assert (first.accession, first.study_uid, first.modality, first.names_us) == ("ACC1", "1.2.3", "US", False)
    assert first.codes[0].system == "http://loinc.org"
    assert (second.accession, second.study_uid, second.reference) == ("ACC2", "1.2.4", "placer 2^RIS")


def _steps(*steps: tuple[str, str, str]) -> bytes:
    """Return an ORM with an ORC of the same number for each code, accession and ORC-1."""
    segments = [msh("ORM^O01"), "PID|1||P1^^^HOSP^MR"]
    for code, accession, control in steps:
        segments += [f"ORC|{control}|88^RIS", "|".join(["OBR", "1", "88^RIS", "", code, *[""] * 13, accession])]
    return ("\r".join([*segments, f"ZDS|{STUDY}"]) + "\r").encode()


@pytest.mark.requirement("HL7-ORDER-001")
def test_the_steps_of_one_procedure_are_one_order_and_other_images_under_its_number_are_refused() -> None:
    (one,) = _orders(_steps(("70551^MRI^C4", "A1", "NW"), ("generate^^99VERAICON", "A1", "NW")))
    assert ([code.code for code in one.order.codes], one.order.names_us) == (["70551", "generate"], True)
    for other in (("70551^MRI^C4", "A2", "NW"), ("70551^MRI^C4", "A1", "CA")):
        with pytest.raises(RequestInvalid, match="one order number"):
            _orders(_steps(("70551^MRI^C4", "A1", "NW"), other))
    with pytest.raises(RequestInvalid, match="two IPC"):
        _orders(orm(study="", more=("IPC|A|R|1.2.3", "IPC|A|R|1.2.4")))


def test_a_type_of_identifier_that_is_not_taken_is_named() -> None:
    (one,) = _orders(orm(patient="P1^^^HOSP^MRN"))
    assert one.order.patient == PatientIdentifier("P1", "http://hospital.example/mrn")
    with pytest.raises(PatientMismatch, match=r"of types AN, XX \(CX-5\)"):
        _orders(orm(patient="P1^^^HOSP^XX~P2^^^HOSP^AN"))
    reading = OrderReading(Issuers({"HOSP": "h"}, types=("XX",)))
    assert orders_of(read_message(orm(patient="P1^^^HOSP^XX")), reading, _NOW)[0].order.patient == PatientIdentifier("P1", "h")


@pytest.mark.requirement("HL7-ORDER-002")
def test_a_cancellation_names_the_order_that_it_takes_back() -> None:
    (asked,), (back,) = _orders(orm("1")), _orders(orm("2", control="CA", study=""))
    assert back.action is Action.REVOKE
    assert back.order.order_id == asked.order.order_id


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (orm(patient="P1^^^ELSEWHERE^MR"), PatientMismatch),
        (orm(patient="P1^^^HOSP^MR~P2^^^HOSP^MR"), PatientMismatch),
        (orm(patient=""), PatientMismatch),
        (orm(placer=""), RequestInvalid),
        (orm(study="1.2.x"), RequestInvalid),
        (orm(more=("IPC|A|B|1.2.3",)), RequestInvalid),
        (orm(control="RP"), BodyUnsupported),
        (orm(more=("OBX|1|NM|samples^^99VERAICON||many",)), RequestInvalid),
        (orm(more=("OBX|1|NM|hippocampus-volume^^99VERAICON||3~4|cm3",)), RequestInvalid),
        (orm(more=("OBX|1|NM|hippocampus-volume^^99VERAICON||3|cm3|||||W",)), RequestInvalid),
        (orm(more=("PID|2||P9^^^HOSP",)), RequestInvalid),
    ],
)
def test_an_order_that_could_mean_another_patient_or_study_is_refused(content: bytes, kind: type[VeraiconError]) -> None:
    with pytest.raises(kind):
        _orders(content)


@pytest.mark.requirement("HL7-ADT-001")
@pytest.mark.parametrize("event", ["A40", "A30"])
def test_a_merge_retires_mrg_for_the_identifier_of_the_same_authority(event: str) -> None:
    found = merges_of(read_message(adt(event, "P2^^^HOSP^MR~9^^^X^SS", "P1^^^HOSP^MR")), _ISSUERS)
    system = "http://hospital.example/mrn"
    assert found == [Merge(PatientIdentifier("P1", system), PatientIdentifier("P2", system))]


@pytest.mark.requirement("HL7-ADT-001")
def test_what_is_no_merge_is_refused_or_not_needed() -> None:
    for event in ("A37", "A44", "A45"):
        with pytest.raises(BodyUnsupported):
            merges_of(read_message(adt(event, "P2^^^HOSP", "P1^^^HOSP")), _ISSUERS)
    with pytest.raises(PatientMismatch):
        merges_of(read_message(adt("A40", "P2", "P1^^^HOSP")), _ISSUERS)
    assert merges_of(read_message(adt("A41", "P2^^^HOSP", "P1^^^HOSP")), _ISSUERS) == []
    assert merges_of(read_message(adt("A08", "P2^^^HOSP", "")), _ISSUERS) == []
