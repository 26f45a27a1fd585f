"""Certificates and keys that cannot be used are told before anybody listens or calls."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from dicom_node.association.tls import ClientTls, days_left, server_context, tls_failure
from domain.errors import ConfigurationError
from tests.builders_tls import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "site")


@pytest.mark.requirement("DICOM-TLS-001")
def test_a_listener_speaks_only_the_suites_of_the_profile_and_asks_for_a_certificate(authority: Authority) -> None:
    ours = authority.issue("ours")
    context = server_context(certificate=ours.certificate, key=ours.key, client_ca=authority.certificate)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    for suite in context.get_ciphers():
        assert suite["protocol"] == "TLSv1.3" or (suite["name"].startswith("ECDHE-") and "GCM" in suite["name"])


def test_without_authorities_for_clients_nobody_is_asked(authority: Authority) -> None:
    ours = authority.issue("open")
    assert server_context(certificate=ours.certificate, key=ours.key, client_ca=None).verify_mode is ssl.CERT_NONE


@pytest.mark.requirement("DICOM-TLS-005")
@pytest.mark.parametrize("fault", ["no certificate", "no key", "another key", "no PEM", "encrypted key"])
def test_files_that_cannot_be_used_are_told_by_name_and_reason(authority: Authority, tmp_path: Path, fault: str) -> None:
    ours, other = authority.issue("one"), authority.issue("two")
    certificate, key = tmp_path / "one.pem", tmp_path / "one.key"
    certificate.write_bytes(ours.certificate.read_bytes())
    key.write_bytes(ours.key.read_bytes())
    if fault == "no certificate":
        certificate.unlink()
    elif fault == "no key":
        key.unlink()
    elif fault == "another key":
        key.write_bytes(other.key.read_bytes())
    elif fault == "no PEM":
        certificate.write_bytes(b"nothing of the kind")
    else:
        plain = serialization.load_pem_private_key(key.read_bytes(), None)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret"))
        key.write_bytes(plain.private_bytes(*form))
    with pytest.raises(ConfigurationError, match=r"one\.pem") as refused:
        server_context(certificate=certificate, key=key, client_ca=None)
    assert "tls_key" in refused.value.action


def test_authorities_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="authorities"):
        ClientTls(ca=tmp_path / "absent.pem").context()


@pytest.mark.requirement("DICOM-TLS-005")
def test_days_left_are_those_of_the_certificate_that_ends_first(authority: Authority, tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_bytes(authority.issue("short", days=9).certificate.read_bytes() + authority.certificate.read_bytes())
    now = datetime.now(UTC)
    assert days_left(chain, now=now) == 9
    assert days_left(chain, now=now + timedelta(days=12)) == -3
    with pytest.raises(ConfigurationError, match=r"absent\.pem"):
        days_left(tmp_path / "absent.pem", now=now)


def test_reasons_are_words() -> None:
    assert tls_failure(TimeoutError()) == "no TLS handshake in time"
    assert tls_failure(ConnectionResetError()) == "the connection ended in the handshake"
