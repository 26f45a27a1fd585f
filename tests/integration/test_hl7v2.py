"""HL7 v2 over real sockets: the `hl7` library's client sends, its server receives, and a whole site stands between."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pydicom
import pytest

from tests.builders_hl7v2 import adt, orm
from tests.builders_tls import Authority
from tests.peers.hl7v2 import Engine, answered, engine, said, send
from tests.peers.veraicon_site import VeraiconSite, veraicon_site
from veraicon.commands import making

_SAMPLE = Path(making.__file__).parents[1] / "sample"
_QUIET = '[generation]\non_receive = false\nsampler_steps = 4\n[pairing]\nissuers = { HOSP = "http://hospital.example/mrn" }\n'


def _instance() -> pydicom.Dataset:
    return pydicom.dcmread(next((_SAMPLE / "series").rglob("*.dcm")), stop_before_pixels=True)


class Wired:
    """A site between an engine that sends and one that receives."""

    def __init__(self, site: VeraiconSite, port: int, receiver: Engine) -> None:
        self.site, self.port, self.receiver = site, port, receiver

    def messages(self) -> list[dict[str, object]]:
        """What `veraicon hl7v2 list --json` says."""
        return list(json.loads(self.site.run("hl7v2", "list", "--json").stdout))

    def orders(self) -> list[dict[str, object]]:
        """What `veraicon order list --json` says."""
        return list(json.loads(self.site.run("order", "list", "--json").stdout))


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
    (job,) = wired.site.jobs()
    assert job["state"] == "attested", job
    assert studies != [str(source.StudyInstanceUID)]


@pytest.mark.requirement("HL7-KEEP-002")
def test_a_repeat_is_acknowledged_again_and_done_once(wired: Wired) -> None:
    content = orm("TWICE", placer="2002^RIS", study="1.2.3.2002")
    repeated = content.replace(b"20260102030405", b"20260102030500")
    answers = send(wired.port, content, content, repeated, orm("TWICE", placer="2003^RIS", study="1.2.3.2003"))
    assert [said(one) for one in answers] == [("AA", "TWICE")] * 4
    kept = [one for one in wired.messages() if one["control_id"] == "TWICE"]
    assert sorted(int(str(one["repeats"])) for one in kept) == [0, 2], "another order under the same number is not lost"
    send(wired.port, orm("BACK", placer="2002^RIS", control="CA"))
    told = {one["order"]: one["state"] for one in wired.orders()}
    cancelled = next(one for one in wired.messages() if one["control_id"] == "BACK")
    assert [told[one] for one in cancelled["orders"]] == ["revoked"]  # type: ignore[attr-defined]


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


def test_a_message_that_is_too_long_ends_its_connection_only(wired: Wired) -> None:
    assert _answers(wired.port, [b"\x0bMSH|^~\\&|" + b"x" * (2 << 20)], 1) == []
    assert [said(one)[0] for one in send(wired.port, orm("AFTER", placer="5001", study="1.2.3.5001"))] == ["AA"]


@pytest.mark.requirement("HL7-KEEP-001")
def test_what_cannot_be_read_is_kept_and_answered_in_error(wired: Wired) -> None:
    answers = send(
        wired.port, b"nonsense", orm("WRONG", placer="6001", patient="P1^^^NOWHERE^MR"), adt("A37", "P2", "P1", "UNDO")
    )
    assert [said(one) for one in answers] == [("AE", ""), ("AE", "WRONG"), ("AR", "UNDO")]
    assert str(answers[1]["ERR"][0][3]).startswith("204")
    kept = {one["control_id"]: one for one in wired.messages() if one["state"] == "refused"}
    assert {"", "WRONG", "UNDO"} <= set(kept)
    shown = wired.site.run("hl7v2", "show", str(kept["WRONG"]["message_id"]), "--raw")
    assert "P1^^^NOWHERE^MR" in shown.stdout
    assert wired.site.run("hl7v2", "retry", str(kept["WRONG"]["message_id"])).returncode != 0
    assert "NOBODY" not in wired.site.log()


@pytest.mark.requirement("HL7-KEEP-001")
def test_a_message_that_was_kept_when_the_process_died_is_done_once(
    tmp_path: Path, free_port: Callable[[], int], eventually: Callable[..., object]
) -> None:
    port = free_port()
    with veraicon_site(tmp_path, free_port, f"{_QUIET}[hl7v2]\nport = {port}\n") as site:
        dying = site.start("serve", environment={"VERAICON_FAULT": "hl7v2:kept"})
        eventually(lambda: _listens(port), deadline_s=60)
        content = orm("KILL", placer="7001", study="1.2.3.7001")
        assert _answers(port, [b"\x0b" + content + b"\x1c\r"], 1) == []
        assert dying.wait(timeout=30) != 0
        site.serve()
        assert [said(one) for one in send(port, content)] == [("AA", "KILL")]
        kept = json.loads(site.run("hl7v2", "list", "--json").stdout)
        assert [(one["state"], len(one["orders"])) for one in kept] == [("done", 1)]
        assert len(json.loads(site.run("order", "list", "--json").stdout)) == 1


@pytest.mark.requirement("HL7-TLS-001")
def test_over_tls_only_senders_with_a_certificate_of_ours_speak(
    tmp_path: Path, free_port: Callable[[], int], eventually: Callable[..., object]
) -> None:
    ours, others = Authority(tmp_path / "pki", "site"), Authority(tmp_path / "pki", "other")
    server, client, stranger = ours.issue("server"), ours.issue("engine"), others.issue("stranger")
    port, back = free_port(), free_port()
    extra = (
        f'{_QUIET}[hl7v2]\ntls_port = {port}\ntls_certificate = "{server.certificate}"\ntls_key = "{server.key}"\n'
        f'tls_client_ca = "{ours.certificate}"\n[[hl7v2_destinations]]\nname = "engine"\nhost = "127.0.0.1"\nport = {back}\n'
        f'tls = true\ntls_ca = "{ours.certificate}"\n'
    )
    receiving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    receiving.load_cert_chain(client.certificate, client.key)
    receiving.load_verify_locations(ours.certificate)
    receiving.verify_mode = ssl.CERT_REQUIRED
    with engine(back, tls=receiving) as receiver, veraicon_site(tmp_path / "site", free_port, extra) as site:
        site.serve()
        eventually(lambda: _listens(port), deadline_s=30)
        sent = b"\x0b" + orm("TLS", placer="8001", study="1.2.3.8001") + b"\x1c\r"
        assert _answers(port, [sent], 1, tls=_client_context(ours, client.certificate, client.key)) == ["AA"]
        assert _answers(port, [sent], 1, tls=_client_context(ours, stranger.certificate, stranger.key)) == []
        assert _answers(port, [sent], 1) == []
        message = tmp_path / "message.hl7"
        message.write_bytes(orm("WIRING").replace(b"\r", b"\n"))
        told = site.run("hl7v2", "send", str(message), "--to", "engine")
        assert told.returncode == 0, told.stderr
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
