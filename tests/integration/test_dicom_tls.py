"""DICOM over TLS against DCMTK, Orthanc and OpenSSL, each way, with certificates that are right and wrong."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import structlog
from pynetdicom import AE
from structlog.testing import capture_logs

from dicom_node.archive import Archive
from dicom_node.association.listening import BoundedServer
from dicom_node.association.tls import ClientTls, server_context
from dicom_node.calling.sending import store
from dicom_node.holding.files import to_part10
from dicom_node.presentation import verification_contexts
from dicom_node.scp import StorageNode
from dicom_node.scu import Peer, echo
from domain.errors import PeerRefused, PeerUnreachable
from tests.builders_dicom import new_archive, series_datasets, slice_dataset
from tests.builders_tls import Authority, Identity
from tests.peers.dcmtk import run_dcmtk, running_storescp
from tests.peers.orthanc import running_orthanc
from tests.peers.raw_scu import COMMAND, DATA, ECHO, LAST, RawScu, echo_rq, pdu, pdv, status_of
from tests.peers.veraicon_site import veraicon_site


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "hospital")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(scope="module")
def ours(authority: Authority) -> Identity:
    return authority.issue("veraicon")


@pytest.fixture(scope="module")
def theirs(authority: Authority) -> Identity:
    return authority.issue("scanner")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return new_archive(tmp_path / "node")


@pytest.fixture
def node(archive: Archive, authority: Authority, ours: Identity) -> Iterator[StorageNode]:
    context = server_context(certificate=ours.certificate, key=ours.key, client_ca=authority.certificate)
    running = StorageNode(
        archive,
        ae_title="VERAICON",
        host="127.0.0.1",
        port=None,
        tls=context,
        tls_port=0,
        acse_timeout_s=4.0,
        pdu_timeout_s=1.0,
    )
    structlog.reset_defaults()
    running.start()
    yield running
    running.stop()


def _by_dcmtk(node: StorageNode, identity: Identity, trusted: Authority) -> int:
    with_tls = ["+tls", identity.key, identity.certificate, "+cf", trusted.certificate]
    return run_dcmtk("echoscu", *with_tls, "-aec", "VERAICON", "127.0.0.1", str(node.tls_port)).returncode


def _ends(lines: list[dict[str, object]]) -> list[dict[str, object]]:
    return [dict(line) for line in lines if line.get("action") == "association"]


@pytest.mark.requirement("DICOM-TLS-002")
def test_dcmtk_stores_over_tls_and_the_audit_line_names_its_certificate(
    node: StorageNode,
    archive: Archive,
    authority: Authority,
    theirs: Identity,
    tmp_path: Path,
    eventually: Callable[..., object],
) -> None:
    datasets = [slice_dataset(number, np.full((512, 512), number, np.uint16)) for number in (1, 2, 3)]
    files = [tmp_path / f"{number}.dcm" for number in range(3)]
    for path, ds in zip(files, datasets, strict=True):
        path.write_bytes(to_part10(ds))
    with_tls = ["+tls", theirs.key, theirs.certificate, "+cf", authority.certificate]
    with capture_logs() as lines:
        sent = run_dcmtk("storescu", *with_tls, "-aec", "VERAICON", "127.0.0.1", str(node.tls_port), *files)
        assert sent.returncode == 0, sent.stderr
        eventually(lambda: _ends(lines))
    (line,) = _ends(lines)
    assert (line["outcome"], line["stored"], line["tls_subject"]) == ("released", 3, "O=Test,CN=scanner")
    assert len(archive.references({"SeriesInstanceUID": [str(datasets[0].SeriesInstanceUID)]})) == 3
    assert node.port == 0, "there is no plain listener"


@pytest.mark.requirement("DICOM-TLS-002")
@pytest.mark.parametrize("fault", ["no certificate", "another authority", "expired", "no TLS"])
def test_callers_without_a_good_certificate_stay_outside_and_the_audit_line_says_why(
    node: StorageNode, authority: Authority, stranger: Authority, fault: str, eventually: Callable[..., object]
) -> None:
    called = ["-aec", "VERAICON", "127.0.0.1", str(node.tls_port)]
    with capture_logs() as lines:
        if fault == "no TLS":
            refused = run_dcmtk("echoscu", *called).returncode
        elif fault == "no certificate":
            refused = run_dcmtk("echoscu", "+tla", "+cf", authority.certificate, *called).returncode
        elif fault == "expired":
            refused = _by_dcmtk(node, authority.issue("late", days=-1), authority)
        else:
            refused = _by_dcmtk(node, stranger.issue("somebody"), authority)
        assert refused != 0
        eventually(lambda: _ends(lines))
    (line,) = _ends(lines)
    assert line["outcome"] == "closed without association"
    expected = {
        "no certificate": "peer did not return",
        "another authority": "issuer",
        "expired": "expired",
        "no TLS": "no TLS",
    }
    assert expected[fault] in str(line["reason"]), line
    assert _by_dcmtk(node, authority.issue("good"), authority) == 0


def test_dcmtk_does_not_talk_to_a_node_whose_certificate_it_does_not_trust(
    node: StorageNode, stranger: Authority, theirs: Identity
) -> None:
    assert _by_dcmtk(node, theirs, stranger) != 0


@pytest.mark.requirement("DICOM-TLS-001")
@pytest.mark.parametrize(
    ("offer", "taken"),
    [
        (["-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"], False),
        (["-tls1_2"], True),
        (["-tls1_3"], True),
        (["-tls1_2", "-cipher", "AES128-GCM-SHA256"], False),
        (["-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA256"], False),
        (["-tls1_2", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"], True),
    ],
    ids=["TLS 1.1", "TLS 1.2", "TLS 1.3", "no forward secrecy", "no authenticated encryption", "a suite of the profile"],
)
def test_only_versions_and_cipher_suites_of_the_profile_are_spoken(
    node: StorageNode, theirs: Identity, offer: list[str], taken: bool
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("TLS peer not here: openssl (Debian package openssl)")
    address = f"127.0.0.1:{node.tls_port}"
    command = ["openssl", "s_client", "-connect", address, "-cert", theirs.certificate, "-key", theirs.key, *offer]
    told = subprocess.run(command, input="", capture_output=True, text=True, timeout=30).stdout
    assert ("Cipher is (NONE)" not in told) is taken, told


@pytest.mark.requirement("DICOM-TLS-003")
@pytest.mark.parametrize("mended", [False, True])
def test_a_silent_client_blocks_each_other_handshake_only_without_the_mend(
    node: StorageNode, authority: Authority, ours: Identity, theirs: Identity, mended: bool
) -> None:
    if mended:
        port, server = node.tls_port, None
    else:
        plain = AE("VERAICON")
        plain.supported_contexts = verification_contexts()
        context = server_context(certificate=ours.certificate, key=ours.key, client_ca=authority.certificate)
        server = plain.start_server(("127.0.0.1", 0), block=False, ssl_context=context)
        port = server.server_address[1]
    tls = ClientTls(authority.certificate, theirs.certificate, theirs.key)
    silent = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(3)]
    try:
        peer = Peer("node", "VERAICON", "127.0.0.1", port, "TEST", timeout_s=2.0, tls=tls)
        if mended:
            echo(peer)
        else:
            with pytest.raises(Exception, match="node"):
                echo(peer)
    finally:
        for connection in silent:
            connection.close()
        if server is not None:
            server.shutdown()


@pytest.mark.requirement("DICOM-TLS-003")
def test_a_handshake_that_is_never_finished_ends_in_time(node: StorageNode, eventually: Callable[..., object]) -> None:
    server: BoundedServer = node._servers["tls"]
    server.handshake_timeout_s = 0.5
    with socket.create_connection(("127.0.0.1", node.tls_port), timeout=10) as silent:
        silent.sendall(b"\x16\x03\x01")
        eventually(lambda: len(server.active_associations) == 1)
        eventually(lambda: not server.active_associations, deadline_s=5)
        assert silent.recv(100) == b"", "the node hung up"


def test_a_message_that_comes_in_pieces_is_waited_for(node: StorageNode, authority: Authority, theirs: Identity) -> None:
    context = ClientTls(authority.certificate, theirs.certificate, theirs.key).context()
    with (
        socket.create_connection(("127.0.0.1", node.tls_port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        raw = RawScu(connection)
        raw.associate(ECHO)
        message = pdu(DATA, pdv(1, COMMAND | LAST, echo_rq()))
        for start in range(0, len(message), 25):
            raw.send(message[start : start + 25])
            time.sleep(0.1)
        answer = raw.read()
        assert answer is not None
        assert status_of(answer[1]) == 0x0000


def _served_by_dcmtk(port: int, identity: Identity, client_ca: Authority) -> list[str | Path]:
    return ["+tls", identity.key, identity.certificate, "+cf", client_ca.certificate]


@pytest.mark.requirement("DICOM-TLS-004")
def test_we_send_over_tls_to_dcmtk_and_refuse_a_peer_that_is_not_shown_to_be_the_one(
    authority: Authority, stranger: Authority, ours: Identity, theirs: Identity, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    good = Peer(
        "pacs", "ANY", "127.0.0.1", port, timeout_s=10.0, tls=ClientTls(authority.certificate, ours.certificate, ours.key)
    )
    options = [str(option) for option in _served_by_dcmtk(port, theirs, authority)]
    with running_storescp(tmp_path, port, *options) as received:
        assert store(good, series_datasets(2)) == 2
        assert len(list(received.iterdir())) == 2
        for wrong, why in (
            (ClientTls(stranger.certificate, ours.certificate, ours.key), "certificate not accepted"),
            (ClientTls(authority.certificate), "certificate required|handshake failure"),
        ):
            with pytest.raises(PeerRefused, match=why):
                echo(replace(good, tls=wrong))
    elsewhere = authority.issue("elsewhere", host="192.0.2.9")
    (tmp_path / "other").mkdir()
    port = free_port()
    options = [str(option) for option in _served_by_dcmtk(port, elsewhere, authority)]
    with running_storescp(tmp_path / "other", port, *options):
        with pytest.raises(PeerRefused, match="IP address mismatch"):
            echo(replace(good, port=port))
        echo(replace(good, port=port, tls=replace(good.tls, check_host=False)))
    (tmp_path / "late").mkdir()
    port = free_port()
    options = [str(option) for option in _served_by_dcmtk(port, authority.issue("late", days=-1), authority)]
    with running_storescp(tmp_path / "late", port, *options), pytest.raises(PeerRefused, match="expired"):
        echo(replace(good, port=port))


@pytest.mark.requirement("DICOM-TLS-004")
def test_orthanc_and_we_exchange_instances_over_mutual_tls_both_ways(
    node: StorageNode,
    archive: Archive,
    authority: Authority,
    ours: Identity,
    theirs: Identity,
    tmp_path: Path,
    free_port: Callable[[], int],
) -> None:
    folder = tmp_path / "orthanc"
    folder.mkdir()
    more = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(theirs.certificate),
        "DicomTlsPrivateKey": str(theirs.key),
        "DicomTlsTrustedCertificates": str(authority.certificate),
        "DicomTlsRemoteCertificateRequired": True,
    }
    modality = {"veraicon": {"AET": "VERAICON", "Host": "127.0.0.1", "Port": node.tls_port, "UseDicomTls": True}}
    tls = ClientTls(authority.certificate, ours.certificate, ours.key)
    ports = {"dicom_port": free_port(), "http_port": free_port(), "node_port": node.tls_port}
    with running_orthanc(folder, **ports, more={**more, "DicomModalities": modality}) as orthanc:
        datasets = series_datasets(3)
        assert store(replace(orthanc.peer, tls=tls), datasets) == 3
        for instance in orthanc.get("/instances"):
            orthanc.post("/modalities/veraicon/store", instance)
    held = archive.references({"SeriesInstanceUID": [str(datasets[0].SeriesInstanceUID)]})
    assert {archive.read(one).PixelData for one in held} == {ds.PixelData for ds in datasets}
    assert json.loads((folder / "orthanc.json").read_text())["DicomTlsEnabled"]


def test_a_served_site_listens_as_its_settings_say_and_its_own_commands_reach_it_over_tls(
    authority: Authority, ours: Identity, tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    node = {"PORT": 0, "TLS_PORT": port, "TLS_CLIENT_CA": authority.certificate}
    files = {"TLS_CERTIFICATE": ours.certificate, "TLS_KEY": ours.key}
    for key, value in (node | files).items():
        monkeypatch.setenv(f"VERAICON_NODE__{key}", str(value))
    us = 'name = "us"\nae_title = "VERAICON"\nhost = "127.0.0.1"\ntls = true\n'
    remote = f'port = {port}\ntls_ca = "{authority.certificate}"\n'
    settings = f"[worker]\nembedded = false\n[[sources]]\n{us}[[destinations]]\n{us}{remote}"
    with veraicon_site(tmp_path / "site", free_port, settings) as site:
        site.serve()
        assert site.run("peer", "echo", "us").returncode == 0
        examined = json.loads(site.run("doctor", "--json").stdout)
        (certificate,) = [check for check in examined if check["check"] == "DICOM certificate"]
        assert "30 days left" in certificate["detail"]
        with pytest.raises(PeerUnreachable):
            echo(Peer("us", "VERAICON", "127.0.0.1", port, timeout_s=2.0))
        assert "no TLS" in site.log()
