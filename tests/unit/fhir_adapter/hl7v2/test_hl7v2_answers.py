"""HL7 v2: acknowledgements, and the messages that tell what became of an order."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import hl7
import pytest

from domain.errors import BodyUnsupported
from domain.ordering import JobNews, News, OrderState
from fhir_adapter.hl7v2.acknowledging import Identity, Verdict, acknowledgement, verdict_of, wanted
from fhir_adapter.hl7v2.identities import Issuers
from fhir_adapter.hl7v2.message import read_header, read_message
from fhir_adapter.hl7v2.orders import OrderReading, orders_of
from fhir_adapter.hl7v2.results import MDM, ORU, SYNTHETIC, Receiver, control_id_of, result_message
from tests.builders_hl7v2 import orm

_NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_US = Identity("VERAICON", "SITE")
_RECEIVER = Receiver("engine", "RIS", "NORTH")


@pytest.mark.requirement("HL7-ACK-001")
def test_an_acknowledgement_echoes_the_control_id_and_says_why_in_err() -> None:
    error = BodyUnsupported(found="A|B", allowed="C", action="do D")
    content = acknowledgement(
        read_header(orm("CTRL-7")), accept=False, verdict=verdict_of(error), error=error, now=_NOW, us=_US, control_id="X1"
    )
    ack = hl7.parse(content.decode("ascii"))
    assert (str(ack["MSA"][0][1]), str(ack["MSA"][0][2])) == ("AR", "CTRL-7")
    assert (str(ack["MSH"][0][5]), str(ack["MSH"][0][9])) == ("RIS", "ACK^O01^ACK")
    err = ack["ERR"][0]
    assert str(err[3]).startswith("200^")
    assert str(err[5]).startswith("VI-2012")
    assert str(err[7]) == r"A\F\B"


@pytest.mark.parametrize(("name", "codec"), [("UNICODE UTF-8", "utf-8"), ("8859/1", "latin-1")])
def test_an_acknowledgement_names_its_sender_as_it_was_written(name: str, codec: str) -> None:
    sent = orm(sender="K\u00d6LN|NORD", rest=f"||||||{name}").decode("utf-8").encode(codec)
    header = read_header(sent)
    assert header.sender == "K\u00d6LN|NORD"
    ack = acknowledgement(header, accept=False, verdict=Verdict.ACCEPT, error=None, now=_NOW, us=_US, control_id="X1")
    assert "|K\u00d6LN|NORD|" in ack.decode(codec)


@pytest.mark.requirement("HL7-ACK-002")
def test_table_0155_decides_who_is_answered() -> None:
    answers = {one: (wanted(one, Verdict.ACCEPT), wanted(one, Verdict.ERROR)) for one in ("AL", "NE", "ER", "SU", "")}
    assert answers == {
        "AL": (True, True),
        "NE": (False, False),
        "ER": (False, True),
        "SU": (True, False),
        "": (False, False),
    }


def _news(content: bytes, *, kind: str = "order.completed", jobs: tuple[JobNews, ...] = (), reason: str = "") -> News:
    order = orders_of(read_message(content), OrderReading(Issuers({"HOSP": "http://h.example"})), _NOW)[0].order
    return News("news-1", kind, _NOW, order, OrderState.REQUESTED, jobs, reason)


_MADE = JobNews("r1", "attested", "hippocampus-t1", _NOW, "1.2", "1.3", "2.25.1", "2.25.2", 32, "Provenance/p1")
_NOT_MADE = replace(_MADE, state="rejected", error=(("code", "VI-4001"), ("found", "a hole"), ("next", "look")))


@pytest.mark.requirement("HL7-RESULT-001")
def test_a_result_is_filed_by_the_order_and_says_first_that_it_is_synthetic() -> None:
    content = orm(accession="A77")
    news = _news(content, jobs=(_MADE, _NOT_MADE))
    told = result_message(
        news, read_message(content), ORU, us=_US, receiver=_RECEIVER, link_of=lambda job: f"http://v/{job.study_uid}"
    )
    message = hl7.parse(told.decode("utf-8"))
    assert str(message["PID"][0][3]) == "P1^^^HOSP^MR"
    assert str(message["PID"][0][5]) == "NOBODY^TEST"
    obr = message["OBR"][0]
    assert [str(obr[number]) for number in (2, 4, 18, 25)] == ["4711^RIS", "generate^Synthetic volume^99VERAICON", "", "F"]
    assert str(obr[3]).endswith("^VERAICON")
    values = [str(one[5]) for one in message["OBX"]]
    assert values[0] == SYNTHETIC
    assert {"2.25.1", "2.25.2", "32", "Provenance/p1", "http://v/2.25.1"} <= set(values)
    assert [str(one[11]) for one in message["OBX"]][-1] == "X"
    assert "VI-4001" in values[-1]
    assert all("99VERAICON" in str(one[3]) or "DCM" in str(one[3]) for one in message["OBX"]), "no code of an examination"


@pytest.mark.requirement("HL7-RESULT-001")
@pytest.mark.parametrize("jobs", [(_MADE,), ()])
@pytest.mark.parametrize("code", ["70551^MRI^C4", "70551^MRI^C4^generate^Synthetic volume^99VERAICON"])
def test_an_order_of_an_examination_is_neither_closed_nor_cancelled_by_what_a_rule_made_of_it(
    code: str, jobs: tuple[JobNews, ...]
) -> None:
    content = orm(code=code, accession="A77")
    news = _news(content, jobs=jobs)
    for kind in (ORU, MDM):
        told = result_message(news, read_message(content), kind, us=_US, receiver=_RECEIVER, link_of=lambda _job: "").decode()
        lines = {line[:3]: line for line in told.split("\r") if not line.startswith("OBX")}
        numbered = "".join(lines[name] for name in ("ORC", "OBR", "TXA") if name in lines)
        assert not [one for one in ("4711", "A77", "70551") if one in numbered]
        assert "placer 4711, placer field 1 A77" in told, "a person is told in words"
    orc, obr = (hl7.parse(result_message(news, read_message(content), ORU, us=_US, receiver=_RECEIVER, link_of=str).decode()))[
        2:4
    ]
    assert len(orc) < 6 or not str(orc[5])
    assert str(obr[4]) == "generate^Synthetic volume^99VERAICON"
    assert len(obr) < 26


def test_what_became_of_a_test_order_is_a_test() -> None:
    content = orm().replace(b"|1|P|2.5.1", b"|1|T|2.5.1")
    told = result_message(_news(content), read_message(content), ORU, us=_US, receiver=_RECEIVER, link_of=lambda _job: "")
    assert str(hl7.parse(told.decode())["MSH"][0][11]) == "T"


@pytest.mark.requirement("HL7-RESULT-001")
def test_a_refusal_says_that_nothing_will_come() -> None:
    content = orm()
    news = _news(content, kind="order.refused", reason="no model of that name")
    message = hl7.parse(
        result_message(news, read_message(content), ORU, us=_US, receiver=_RECEIVER, link_of=lambda _job: "").decode()
    )
    assert (str(message["ORC"][0][5]), str(message["OBR"][0][25])) == ("CA", "X")
    assert "no model of that name" in str(message["OBX"][1][5])


@pytest.mark.requirement("HL7-RESULT-002")
def test_a_document_has_a_unique_number_and_is_signed_by_nobody() -> None:
    content = orm()
    news = _news(content, jobs=(_MADE,))
    told = [
        result_message(news, read_message(content), MDM, us=_US, receiver=_RECEIVER, link_of=lambda _job: "") for _ in range(2)
    ]
    assert told[0] == told[1], "a repeat is the same message"
    message = hl7.parse(told[0].decode())
    assert [str(one[0]) for one in message][:5] == ["MSH", "EVN", "PID", "PV1", "TXA"]
    txa = message["TXA"][0]
    assert str(txa[12]).endswith("^VERAICON")
    assert (str(txa[17]), str(txa[14])) == ("DO", "4711^RIS")
    assert str(message["MSH"][0][10]) == control_id_of(news, MDM, _RECEIVER) != control_id_of(news, ORU, _RECEIVER)


@pytest.mark.requirement("HL7-RESULT-001")
def test_an_order_with_other_delimiters_is_echoed_in_ours() -> None:
    content = (
        orm().replace(b"MSH|^~\\&", b"MSH|@!\\%").replace(b"ORM^O01", b"ORM@O01").replace(b"^", b"@").replace(b"TEST", b"A^B")
    )
    news = _news(content)
    message = hl7.parse(
        result_message(news, read_message(content), ORU, us=_US, receiver=_RECEIVER, link_of=lambda _job: "").decode()
    )
    assert str(message["PID"][0][5]) == r"NOBODY^A\S\B"
