"""TLS for DICOM: contexts for the listener and for calls, and how long a certificate still lasts.

TLS 1.2 and 1.3 by the profile of BCP 195 (RFC 8996 and RFC 9325). Where a file of certificate authorities for clients is
given, each caller has to show a certificate that they signed.

References
----------
DICOM PS3.15 B.12 (BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile), which took the place of the retired B.1 to
B.3 and B.9 to B.11; RFC 9325 section 4.2 (cipher suites of TLS 1.2), RFC 8446 section 9.1 (those of TLS 1.3).
"""

from __future__ import annotations

import select
import ssl
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from domain.errors import ConfigurationError

# RFC 9325 4.2: forward secrecy and authenticated encryption only. TLS 1.3 has its own, all of which are allowed.
SUITES_OF_TLS_1_2 = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
)


class TellingContext(ssl.SSLContext):
    """A context that remembers why its last connection failed; pynetdicom only logs it.

    Attributes
    ----------
    failure : str
        In the words of TLS, empty while nothing failed.
    """

    failure: str = ""


class _TellingSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except ssl.SSLError as error:
            self._note(error)
            raise

    def read(self, *arguments: Any, **named: Any) -> Any:
        # In TLS 1.3 a server refuses a client's certificate after the client's handshake is over: it shows at the first read.
        try:
            return super().read(*arguments, **named)
        except ssl.SSLError as error:
            self._note(error)
            raise

    def _note(self, error: ssl.SSLError) -> None:
        if isinstance(self.context, TellingContext):
            self.context.failure = tls_failure(error)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How a peer is called over TLS.

    Attributes
    ----------
    ca : Path or None
        PEM file of the authorities that may have signed the peer's certificate; None: those that the system trusts.
    certificate, key : Path or None
        Ours, shown where the peer asks for one; PEM.
    check_host : bool
        Whether the peer's certificate must name the host that we call.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    check_host: bool = True

    def context(self) -> TellingContext:
        """Return a context for one call; files are read anew each time, so renewed certificates need no restart.

        Raises
        ------
        ConfigurationError
            If a file is missing, is no PEM, or key and certificate do not belong together.
        """
        context = TellingContext(ssl.PROTOCOL_TLS_CLIENT)
        context.sslsocket_class = _TellingSocket
        _restrict(context)
        context.check_hostname = self.check_host
        if self.ca is None:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            _load_authorities(context, self.ca)
        if self.certificate is not None:
            _load_identity(context, self.certificate, self.key)
        return context


def server_context(*, certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """Return the context of a listener.

    Parameters
    ----------
    certificate, key : Path
        Ours, PEM; the certificate's chain may follow it in its file. The key is not encrypted.
    client_ca : Path or None
        Authorities that may have signed a caller's certificate, which is then required; None: callers need none.

    Raises
    ------
    ConfigurationError
        If a file is missing, is no PEM, or key and certificate do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context)
    # A resumed session would skip the look at the caller's certificate, and a ticket's key outlives forward secrecy.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    _load_identity(context, certificate, key)
    if client_ca is not None:
        _load_authorities(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def days_left(certificate: Path, *, now: datetime) -> int:
    """Return for how many whole days a certificate file is still valid: the shortest of its chain, negative once expired.

    Raises
    ------
    ConfigurationError
        If the file is missing or holds no certificate.
    """
    try:
        chain = x509.load_pem_x509_certificates(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise _unusable("certificate file", certificate, error) from error
    return min((found.not_valid_after_utc - now).days for found in chain)


def shake_hands(connection: ssl.SSLSocket, *, timeout_s: float) -> None:
    """Do the handshake of an accepted connection, all of it within a time: a socket's own timeout starts anew with each read.

    Raises
    ------
    OSError
        If it fails or takes longer, see `tls_failure`.
    """
    before, end = connection.gettimeout(), time.monotonic() + timeout_s
    waiting = select.poll()
    connection.settimeout(0)
    while not _has_shaken_hands(connection, waiting):
        left_s = end - time.monotonic()
        if left_s <= 0 or not waiting.poll(left_s * 1000):
            raise TimeoutError("no TLS handshake in time")
    connection.settimeout(before)


def _has_shaken_hands(connection: ssl.SSLSocket, waiting: select.poll) -> bool:
    """Go on with a handshake as far as bytes are here; return whether it is over, else note what it waits for."""
    try:
        connection.do_handshake()
    except ssl.SSLWantReadError:
        waiting.register(connection, select.POLLIN)
        return False
    except ssl.SSLWantWriteError:
        waiting.register(connection, select.POLLOUT)
        return False
    return True


def subject_of(transport: object) -> str:
    """Return the subject of the certificate that the other end showed, as RFC 4514 writes it; empty where it showed none."""
    if not isinstance(transport, ssl.SSLSocket):
        return ""
    shown = transport.getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(shown).subject.rfc4514_string() if shown else ""


def tls_failure(error: OSError) -> str:
    """Return why a handshake or a read failed, in a few words without values."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return str(error.reason).lower().replace("_", " ")
    return "no TLS handshake in time" if isinstance(error, TimeoutError) else "the connection ended in the handshake"


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(":".join(SUITES_OF_TLS_1_2))


def _load_identity(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    try:
        # Without a password of ours OpenSSL would ask for one at the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise _unusable("certificate or key", certificate, error) from error


def _load_authorities(context: ssl.SSLContext, file: Path) -> None:
    try:
        context.load_verify_locations(cafile=file)
    except (OSError, ValueError) as error:
        raise _unusable("file of certificate authorities", file, error) from error


def _unusable(what: str, file: Path, error: Exception) -> ConfigurationError:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
    return ConfigurationError(
        found=f"a {what} that cannot be used ({file.name}: {str(reason).lower().replace('_', ' ')})",
        allowed="PEM files that this user may read; an unencrypted key that belongs to the certificate",
        action="correct tls_certificate, tls_key, tls_client_ca or tls_ca in the settings, or the files themselves",
    )
