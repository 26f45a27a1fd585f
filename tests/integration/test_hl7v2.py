"""HL7 v2 over real sockets: the `hl7` library's client sends, its server receives, and a whole site stands between."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pydicom
import pytest
from typer.testing import CliRunner

from dicom_node.association.tls import server_context
from fhir_adapter.hl7v2.acknowledging import Identity, Verdict, acknowledgement
from fhir_adapter.hl7v2.listener import Limits, MllpListener
from fhir_adapter.hl7v2.message import read_header
from tests.builders_hl7v2 import adt, orm
from tests.builders_tls import Authority
from tests.peers.hl7v2 import Engine, answered, engine, said, send
from tests.peers.veraicon_site import VeraiconSite, veraicon_site
from veraicon.cli import app
from veraicon.commands import making
from veraicon.database import connect
from veraicon.engines import EngineService
from veraicon.hl7v2.book import MessageBook
from veraicon.hl7v2.tables import Hl7MessageRow
from veraicon.orders.book import OrderBook
from veraicon.settings import load_settings
from veraicon.wiring import open_site

_SAMPLE = Path(making.__file__).parents[1] / "sample"
_QUIET = '[generation]\non_receive = false\nsampler_steps = 4\n[pairing]\nissuers = { HOSP = "http://hospital.example/mrn" }\n'


def _instance() -> pydicom.Dataset:
    return pydicom.dcmread(next((_SAMPLE / "series").rglob("*.dcm")), stop_before_pixels=True)


class Wired:
    """A site between an engine that sends and one that receives."""

    def __init__(self, site: VeraiconSite, port: int, receiver: Engine) -> None:
        self.site, self.port, self.receiver = site, port, receiver

    def messages(self) -> list[Hl7MessageRow]:
        """What the site's book has, without starting a command for it."""
        with _books(self.site.config) as (messages, _orders):
            return messages.recent()

    def order_states(self) -> dict[str, str]:
        """States of orders by id."""
        with _books(self.site.config) as (_messages, orders):
            return {row.order_id: row.state for row in orders.recent()}


@contextmanager
def _books(config: Path) -> Iterator[tuple[MessageBook, OrderBook]]:
    opened = connect(load_settings(config))
    yield MessageBook(opened), OrderBook(opened)
    opened.dispose()


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Wired]:
    port, back = free_port(), free_port()
    extra = (
        f'{_QUIET}[hl7v2]\nport = {port}\nmaximum_message_mib = 1\n[[hl7v2_destinations]]\nname = "engine"\n'
        f'host = "127.0.0.1"\nport = {back}\nmessages = ["ORU^R01", "MDM^T02"]\n'
    )
    with (
        engine(back, codes=("AE", "AA")) as receiver,
        veraicon_site(tmp_path_factory.mktemp("hl7v2"), free_port, extra) as site,
    ):
        site.serve()
        bundle = json.loads((_SAMPLE / "patient.json").read_text(encoding="utf-8"))
        httpx.post(f"{site.url}/fhir", json=bundle, timeout=60).raise_for_status()
        yield Wired(site, port, receiver)


@pytest.mark.requirement("HL7-ORDER-001")
@pytest.mark.requirement("HL7-RESULT-001")
@pytest.mark.requirement("HL7-RESULT-002")
def test_an_order_message_is_answered_with_its_result(wired: Wired, eventually: Callable[..., object]) -> None:
    source = _instance()
    content = orm("ORDER-1", placer="1001^RIS", patient=str(source.PatientID), study=str(source.StudyInstanceUID))
    assert [said(one) for one in send(wired.port, content)] == [("AA", "ORDER-1")]
    wired.site.push(_SAMPLE / "series")
    eventually(lambda: len(wired.receiver.received) >= 3, deadline_s=120)  # one of them was answered AE, and came again
    told = {str(one["MSH"][0][9]): one for one in wired.receiver.received}
    assert set(told) == {"ORU^R01^ORU_R01", "MDM^T02^MDM_T02"}
    controls = [str(one["MSH"][0][10]) for one in wired.receiver.received]
    assert len(controls) == 3
    assert len(set(controls)) == 2, "a repeat is the same message"
    result = told["ORU^R01^ORU_R01"]
    assert str(result["PID"][0][3]) == str(source.PatientID)
    assert [str(result["OBR"][0][number]) for number in (2, 25)] == ["1001^RIS", "F"]
    assert str(result["OBX"][0][5]).startswith("SYNTHETIC")
    studies = [str(one[5]) for one in result["OBX"] if str(one[3]).startswith("110180")]
    # A volume that a check rejects is drawn again with another seed; the order is answered by the one that passed.
    states = [job["state"] for job in wired.site.jobs()]
    assert states.count("attested") == 1, states
    assert set(states) <= {"attested", "rejected"}
    assert studies != [str(source.StudyInstanceUID)]


@pytest.mark.requirement("HL7-KEEP-002")
def test_a_repeat_is_acknowledged_again_and_done_once(wired: Wired) -> None:
    content = orm("TWICE", placer="2002^RIS", study="1.2.3.2002")
    repeated = content.replace(b"20260102030405", b"20260102030500")
    answers = send(wired.port, content, content, repeated, orm("TWICE", placer="2003^RIS", study="1.2.3.2003"))
    assert [said(one) for one in answers] == [("AA", "TWICE")] * 4
    kept = [one for one in wired.messages() if one.control_id == "TWICE"]
    assert sorted(one.repeats for one in kept) == [0, 2], "another order under the same number is not lost"
    send(wired.port, orm("BACK", placer="2002^RIS", control="CA"))
    told = wired.order_states()
    cancelled = next(one for one in wired.messages() if one.control_id == "BACK")
    assert [told[one] for one in cancelled.orders] == ["revoked"]


@pytest.mark.requirement("HL7-ACK-002")
@pytest.mark.parametrize(
    ("condition", "content", "codes"),
    [
        ("AL|AL", orm("E1", placer="3001", study="1.2.3.3001"), ["CA", "AA"]),
        ("AL|NE", orm("E2", placer="3002", study="1.2.3.3002"), ["CA"]),
        ("NE|AL", orm("E3", placer="3003", study="1.2.3.3003"), ["AA"]),
        ("AL|ER", orm("E4", placer="", study="1.2.3.3004"), ["CA", "AE"]),
        ("ER|ER", orm("E5", rest="x").replace(b"2.5.1x", b"2.5.1||||||JIS X0208"), ["CR", "AR"]),
    ],
)
def test_enhanced_mode_answers_what_msh_15_and_16_ask_for(
    wired: Wired, condition: str, content: bytes, codes: list[str]
) -> None:
    head, *rest = content.split(b"\r")
    fields = head.split(b"|") + [b""] * 6
    fields[14], fields[15] = condition.encode().split(b"|")
    asked = b"\r".join([b"|".join(fields).rstrip(b"|"), *rest])
    assert _answers(wired.port, [b"\x0b" + asked + b"\x1c\r"], len(codes)) == codes


@pytest.mark.requirement("HL7-MLLP-001")
def test_packets_may_cut_messages_anywhere_and_hold_several(wired: Wired) -> None:
    two = b"".join(b"\x0b" + orm(f"P{one}", placer=f"40{one}", study=f"1.2.3.40{one}") + b"\x1c\r" for one in range(2))
    pieces = [b"noise\r", *(two[at : at + 50] for at in range(0, len(two), 50))]
    assert _answers(wired.port, pieces, 2) == ["AA", "AA"]
    assert _answers(wired.port, [two], 2) == ["AA", "AA"]


@pytest.mark.requirement("HL7-MLLP-001")
def test_a_message_that_is_too_long_is_rejected_and_those_around_it_are_taken(wired: Wired) -> None:
    long = orm("LONG", more=("NTE|1||" + "x" * (2 << 20),))
    around = [orm(name, placer=name, study="1.2.3.5001") for name in ("BEFORE", "AFTER")]
    stream = b"".join(b"\x0b" + one + b"\x1c\r" for one in (around[0], long, around[1]))
    assert _answers(wired.port, [stream], 3) == ["AA", "AR", "AA"]


@pytest.mark.requirement("HL7-KEEP-001")
def test_what_cannot_be_read_is_kept_and_answered_in_error(wired: Wired) -> None:
    answers = send(
        wired.port, b"nonsense", orm("WRONG", placer="6001", patient="P1^^^NOWHERE^MR"), adt("A37", "P2", "P1", "UNDO")
    )
    assert [said(one) for one in answers] == [("AE", ""), ("AE", "WRONG"), ("AR", "UNDO")]
    assert str(answers[1]["ERR"][0][3]).startswith("204")
    kept = {one.control_id: one for one in wired.messages() if one.state == "refused"}
    assert {"", "WRONG", "UNDO"} <= set(kept)
    ours = ["--config", str(wired.site.config), "hl7v2"]
    assert "P1^^^NOWHERE^MR" in CliRunner().invoke(app, [*ours, "show", kept["WRONG"].message_id, "--raw"]).stdout
    assert CliRunner().invoke(app, [*ours, "retry", kept["WRONG"].message_id]).exit_code != 0
    assert "NOBODY" not in wired.site.log()


# What `serve` runs for engines, without the rest of it.
_ENGINES = """
import sys, threading
from pathlib import Path
from veraicon.engines import EngineService
from veraicon.settings import load_settings
from veraicon.wiring import open_site

with open_site(load_settings(Path(sys.argv[1]))) as site:
    EngineService(site).start()
    threading.Event().wait()
"""


@pytest.mark.requirement("HL7-KEEP-001")
def test_a_message_that_was_kept_when_the_process_died_is_done_once(
    tmp_path: Path, free_port: Callable[[], int], eventually: Callable[..., object]
) -> None:
    port = free_port()
    with veraicon_site(tmp_path, free_port, f"{_QUIET}[hl7v2]\nport = {port}\n") as site:
        environment = {**os.environ, "VERAICON_FAULT": "hl7v2:kept"}
        content = orm("KILL", placer="7001", study="1.2.3.7001")
        dying = subprocess.Popen([sys.executable, "-c", _ENGINES, str(site.config)], env=environment)
        try:
            eventually(lambda: _listens(port), deadline_s=60)
            assert _answers(port, [b"\x0b" + content + b"\x1c\r"], 1) == []
            assert dying.wait(timeout=30) != 0
        finally:
            dying.kill()
        with open_site(load_settings(site.config)) as opened:
            service = EngineService(opened)
            service.start()
            eventually(lambda: [one.state for one in MessageBook(opened.engine).recent()] == ["done"], deadline_s=30)
            assert [said(one) for one in send(port, content)] == [("AA", "KILL")]
            service.stop()
            assert [len(one.orders) for one in MessageBook(opened.engine).recent()] == [1]
            assert len(opened.orders.recent()) == 1


@pytest.mark.requirement("HL7-TLS-001")
def test_over_tls_only_senders_with_a_certificate_of_ours_speak(tmp_path: Path, free_port: Callable[[], int]) -> None:
    ours, others = Authority(tmp_path / "pki", "site"), Authority(tmp_path / "pki", "other")
    server, client, stranger = ours.issue("server"), ours.issue("engine"), others.issue("stranger")
    context = server_context(certificate=server.certificate, key=server.key, client_ca=ours.certificate)
    port = free_port()
    listener = MllpListener(_accepted, _accepted, host="127.0.0.1", port=port, limits=Limits(), tls=context)
    listener.start()
    try:
        sent = b"\x0b" + orm("TLS") + b"\x1c\r"
        assert _answers(port, [sent], 1, tls=_client_context(ours, client.certificate, client.key)) == ["AA"]
        assert _answers(port, [sent], 1, tls=_client_context(ours, stranger.certificate, stranger.key)) == []
        assert _answers(port, [sent], 1) == []
    finally:
        listener.stop()


def _accepted(content: bytes, _host: str) -> list[bytes]:
    header, now = read_header(content), datetime.now(UTC)
    told = acknowledgement(
        header, accept=False, verdict=Verdict.ACCEPT, error=None, now=now, us=Identity(), control_id=header.control_id
    )
    return [told]


@pytest.mark.requirement("HL7-TLS-001")
def test_we_speak_over_tls_with_our_certificate(tmp_path: Path, free_port: Callable[[], int]) -> None:
    ours = Authority(tmp_path / "pki", "site")
    server, client = ours.issue("server"), ours.issue("engine")
    receiving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    receiving.load_cert_chain(client.certificate, client.key)
    receiving.load_verify_locations(ours.certificate)
    receiving.verify_mode = ssl.CERT_REQUIRED
    port, config, message = free_port(), tmp_path / "veraicon.toml", tmp_path / "message.hl7"
    config.write_text(
        f'[storage]\nfolder = "{tmp_path}"\n[hl7v2]\ntls_certificate = "{server.certificate}"\ntls_key = "{server.key}"\n'
        f'[[hl7v2_destinations]]\nname = "engine"\nhost = "127.0.0.1"\nport = {port}\ntls = true\n'
        f'tls_ca = "{ours.certificate}"\n',
        encoding="utf-8",
    )
    message.write_bytes(orm("WIRING").replace(b"\r", b"\n"))
    with engine(port, tls=receiving) as receiver:
        told = CliRunner().invoke(app, ["--config", str(config), "hl7v2", "send", str(message), "--to", "engine"])
        assert told.exit_code == 0, told.output
        assert "MSA|AA|WIRING" in told.stdout
        assert [str(one["MSH"][0][10]) for one in receiver.received] == ["WIRING"]


def _client_context(authority: Authority, certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(certificate, key)
    return context


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers(port: int, pieces: list[bytes], count: int, *, tls: ssl.SSLContext | None = None) -> list[str]:
    """Send pieces as packets of their own; return MSA-1 of the answers, fewer where the connection ends."""
    got = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            speaking = tls.wrap_socket(plain, server_hostname="127.0.0.1") if tls else plain
            with speaking:
                for piece in pieces:
                    speaking.sendall(piece)
                while got.count(b"\x1c\r") < count and (received := speaking.recv(65536)):
                    got += received
    except OSError:  # the site ended the connection
        pass
    return [said(answered(block + b"\x1c\r"))[0] for block in got.split(b"\x1c\r")[:-1]]
