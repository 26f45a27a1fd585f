"""Certificates for a site that has none: its own authority, and below it one for DICOM signatures and one for C2PA manifests.

And how a certificate and its key, whoever made them, are taken from their files.

Nobody else knows that authority. Whoever checks has to be given its certificate; programs that follow the C2PA trust list call
such a manifest valid and its signer unknown. A site with certificates of a known authority uses those.

References
----------
RFC 5280; RFC 9336 (extended key usage for document signing); C2PA Technical Specification, X.509 certificates; DICOM PS3.15
C.1.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID, ObjectIdentifier

from domain.errors import ConfigurationError, RequestInvalid

MIN_RSA_BITS = 3072
# RFC 5280 A.1, ub-organization-name: longer ones are refused by programs that keep to it.
_MAX_ORGANIZATION = 64
_DOCUMENT_SIGNING = ObjectIdentifier("1.3.6.1.5.5.7.3.36")
# C2PA's own, and the one that its library takes without being told of others: id-kp-emailProtection.
_C2PA_SIGNING = (ObjectIdentifier("1.3.6.1.5.5.7.3.4"), ObjectIdentifier("1.3.6.1.4.1.62558.2.1"))
_AUTHORITY_YEARS, _SIGNER_YEARS = 10, 2
_YEAR = timedelta(days=365)

Key = EllipticCurvePrivateKey | RSAPrivateKey


@dataclass(frozen=True, slots=True)
class SiteCertificates:
    """The files of `make_certificates`."""

    authority: Path
    dicom_certificate: Path
    dicom_key: Path
    c2pa_certificate: Path
    c2pa_key: Path


@dataclass(frozen=True, slots=True)
class CertifiedKey:
    """A certificate chain and the key of its first certificate, from two PEM files."""

    first: x509.Certificate
    private: object
    chain_pem: str
    key_pem: str

    def __repr__(self) -> str:
        return f"CertifiedKey(serial={self.first.serial_number})"

    @property
    def valid_until(self) -> datetime:
        """When the first certificate runs out, aware."""
        return self.first.not_valid_after_utc


def load_pair(
    certificate: Path, key: Path, *, unusable: Callable[[str], ConfigurationError], now: datetime | None = None
) -> CertifiedKey:
    """Return the certificate chain and the private key of two PEM files; the key may be of any kind.

    Parameters
    ----------
    unusable : callable
        Makes the error from what was found: what is allowed, its caller knows.
    now : datetime or None
        Aware; None: the clock's.

    Raises
    ------
    ConfigurationError
        If one cannot be read, the key is open to others, they do not belong together, or the certificate is not valid now.
    """
    try:
        chain_pem, key_pem = certificate.read_text(encoding="ascii"), key.read_text(encoding="ascii")
        first = x509.load_pem_x509_certificates(chain_pem.encode("ascii"))[0]
        private = load_pem_private_key(key_pem.encode("ascii"), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The cause may hold a piece of the key: it is named by its type only.
        raise unusable(f"a certificate or key that cannot be read ({type(error).__name__})") from None
    if key.stat().st_mode & 0o027:
        raise unusable("a key file that others may read, or its group may write")
    if first.public_key() != private.public_key():
        raise unusable("a certificate of another key")
    if not first.not_valid_before_utc <= (now or datetime.now(UTC)) <= first.not_valid_after_utc:
        raise unusable("a certificate that is not valid now")
    return CertifiedKey(first, private, chain_pem, key_pem)


def make_certificates(organization: str, folder: Path, *, now: datetime) -> SiteCertificates:
    """Write an authority's certificate and two signers' certificates with their keys; the authority's key is not kept.

    Parameters
    ----------
    organization : str
        Named in each of them; 1 to 64 characters.
    folder : Path
        Made where it is missing; keys are readable by their owner only.
    now : datetime
        Aware; from when they are valid.

    Raises
    ------
    RequestInvalid
        If one of the files exists: nothing is replaced; or no certificate can carry the organization's name.
    """
    if not 1 <= len(organization.strip()) <= _MAX_ORGANIZATION or not organization.isprintable():
        raise RequestInvalid(
            found=f"an organization's name of {len(organization.strip())} characters",
            allowed=f"1 to {_MAX_ORGANIZATION} printable characters (RFC 5280)",
            action="shorten it, or name it",
        )
    files = SiteCertificates(
        folder / "authority.pem",
        folder / "dicom-certificate.pem",
        folder / "dicom-key.pem",
        folder / "c2pa-chain.pem",
        folder / "c2pa-key.pem",
    )
    there = [path.name for path in _paths(files) if path.exists()]
    if there:
        raise RequestInvalid(
            found=f"a folder with {', '.join(there)} in it", allowed="a folder without these files", action="name another --out"
        )
    authority_key = generate_private_key(SECP384R1())
    authority = _certificate(organization, "authority", authority_key, None, (), now=now)
    dicom_key = generate_rsa_key(65537, MIN_RSA_BITS)
    dicom = _certificate(organization, "DICOM signatures", dicom_key, (authority, authority_key), (_DOCUMENT_SIGNING,), now=now)
    c2pa_key = generate_private_key(SECP384R1())
    c2pa = _certificate(organization, "content credentials", c2pa_key, (authority, authority_key), _C2PA_SIGNING, now=now)
    folder.mkdir(parents=True, exist_ok=True)
    _write(files.authority, _pem(authority))
    _write(files.dicom_certificate, _pem(dicom) + _pem(authority))
    _write(files.dicom_key, _private(dicom_key), mode=0o600)
    _write(files.c2pa_certificate, _pem(c2pa) + _pem(authority))
    _write(files.c2pa_key, _private(c2pa_key), mode=0o600)
    return files


def _certificate(
    organization: str,
    use: str,
    key: Key,
    issuer: tuple[x509.Certificate, EllipticCurvePrivateKey] | None,
    purposes: tuple[ObjectIdentifier, ...],
    *,
    now: datetime,
) -> x509.Certificate:
    """Return a certificate signed by `issuer`, or by itself where there is none."""
    names = ((NameOID.ORGANIZATION_NAME, organization), (NameOID.COMMON_NAME, f"Veraicon {use}"))
    subject = x509.Name([x509.NameAttribute(kind, value) for kind, value in names])
    public, (parent, signing_key) = key.public_key(), issuer or (None, key)
    years = _SIGNER_YEARS if issuer else _AUTHORITY_YEARS
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent.subject if parent else subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + years * _YEAR)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=0 if issuer is None else None), critical=True)
        .add_extension(_usage(authority=issuer is None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    if issuer is not None:
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer[1].public_key())
        builder = builder.add_extension(authority, critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    return builder.sign(signing_key, SHA384())


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _private(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a new file that has its mode from the beginning."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)


def _paths(files: SiteCertificates) -> tuple[Path, ...]:
    return files.authority, files.dicom_certificate, files.dicom_key, files.c2pa_certificate, files.c2pa_key
