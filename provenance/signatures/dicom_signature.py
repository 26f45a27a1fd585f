"""DICOM Digital Signatures: for readers who check with the tools of their PACS, beside the signed statement of ours.

The signature is the last thing that is written into an instance: it covers every attribute, the pixels and our private block.
It belongs to one encoding: it survives another explicit transfer syntax of uncompressed pixels; compression, and for most tools
the way through Implicit VR (which takes the type of private attributes away), break it without any change of a value. The
statement's digests have no such limit, and they do not cover the signature's two sequences: a signature covers our block, which
holds those digests.

References
----------
DICOM PS3.15 C.1 (Base RSA Digital Signature Profile), C.2 (Creator RSA Digital Signature Profile); PS3.3 C.12.1.1.3 (Digital
Signatures macro), C.12.1.1.3.1.1 and C.12.1.1.3.1.2 (what is signed, and in which form); PS3.16 CID 7007.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from pydicom.dataset import Dataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRLittleEndian

from domain.errors import AttestationError, ConfigurationError
from provenance.digests import SIGNATURE_TAGS
from provenance.report import Answer, no, unknown, yes
from provenance.signatures.certificates import MIN_RSA_BITS, load_pair
from provenance.signatures.dicom_mac import NOT_SIGNED, message_digest, signable, typed

_MAC_ID = 1
_MAC_ALGORITHM = "SHA384"
# MD5, SHA1 and RIPEMD160 are defined terms too, and no longer prove anything.
_ALGORITHMS: dict[str, HashAlgorithm] = {"SHA256": SHA256(), "SHA384": SHA384(), "SHA512": SHA512()}
_PURPOSE = ("1", "ASTM-sigpurpose", "Author's Signature")
_MAC_CONTENT = frozenset({0x04000005, 0x04000010, 0x04000015, 0x04000020})
_SIGNATURE_CONTENT = frozenset({0x04000005, 0x04000100, 0x04000105, 0x04000110, 0x04000401}) | NOT_SIGNED
# Code Sequence macro (PS3.3 section 8.8), in so far as ours and those of the known tools use it.
_CODE_CONTENT = frozenset({0x00080100, 0x00080102, 0x00080103, 0x00080104})
_SEQUENCES = (
    (0x4FFE0001, "MAC Parameters Sequence (4FFE,0001)", _MAC_CONTENT),
    (0xFFFAFFFA, "Digital Signatures Sequence (FFFA,FFFA)", _SIGNATURE_CONTENT),
)
_NO_FIT = "the Digital Signature does not fit the instance"


@dataclass(frozen=True, slots=True)
class DicomSigner:
    """A certificate and its key, as a site has them for DICOM Digital Signatures."""

    certificate: x509.Certificate
    key: RSAPrivateKey

    def __repr__(self) -> str:
        return f"DicomSigner(digest={self.digest!r})"

    @property
    def digest(self) -> str:
        """``sha256:`` digest of the certificate; the signed statement names it, so a reader needs no list of authorities."""
        return certificate_digest(self.certificate.public_bytes(Encoding.DER))

    @classmethod
    def load(cls, certificate: Path, key: Path, *, now: datetime | None = None) -> DicomSigner:
        """Return the signer of two PEM files; of a chain the first certificate is the signer's.

        Raises
        ------
        ConfigurationError
            If one cannot be read, they do not belong together, the key is no RSA key of at least 3072 bits or open to others,
            or the certificate is not valid now or not for signing.
        """
        pair = load_pair(certificate, key, unusable=_unusable, now=now)
        if not isinstance(pair.private, RSAPrivateKey) or pair.private.key_size < MIN_RSA_BITS:
            raise _unusable("a key that is no RSA key, or too short a one")
        if not _may_sign(pair.first):
            raise _unusable("a certificate whose key usage does not allow signatures")
        return cls(pair.first, pair.private)


def certificate_digest(der: bytes) -> str:
    """Return how a certificate is named in a statement."""
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def sign_dataset(ds: Dataset, signer: DicomSigner, *, signature_uid: str, at: datetime) -> Dataset:
    """Put a Digital Signature over the whole of `ds` into it and return `ds`; signatures that it had are replaced.

    The same arguments give the same bytes. Nothing may be changed afterwards.

    Parameters
    ----------
    ds : Dataset
        As it is written, Explicit VR Little Endian, with everything else in place.
    signature_uid : str
        Digital Signature UID.
    at : datetime
        Aware; a moment before the certificate was valid becomes the first one in which it is.

    Raises
    ------
    AttestationError
        If the certificate had run out by then.
    """
    if at > signer.certificate.not_valid_after_utc:
        raise AttestationError(
            found="a certificate for DICOM Digital Signatures that has run out",
            allowed="a certificate that is valid when the series is generated",
            action="renew provenance.dicom_signature_certificate",
        )
    for tag in SIGNATURE_TAGS & set(ds.keys()):
        del ds[tag]
    correct_ambiguous_vr(ds, True)
    # Not its very first second, which DCMTK counts as before it.
    moment = max(at, signer.certificate.not_valid_before_utc + timedelta(seconds=1)).astimezone(UTC)
    signed = [element.tag for element in ds if signable(element)]
    parameters = Dataset()
    parameters.MACIDNumber = _MAC_ID
    parameters.MACCalculationTransferSyntaxUID = ExplicitVRLittleEndian
    parameters.MACAlgorithm = _MAC_ALGORITHM
    parameters.DataElementsSigned = signed
    signature = _signature_item(signature_uid, moment)
    mac = message_digest(ds, signed, signature, _MAC_ALGORITHM)
    signature.CertificateOfSigner = _even(signer.certificate.public_bytes(Encoding.DER))
    signature.Signature = _even(signer.key.sign(mac, PKCS1v15(), Prehashed(SHA384())))
    ds.MACParametersSequence = Sequence([parameters])
    ds.DigitalSignaturesSequence = Sequence([signature])
    return ds


def check_signature(ds: Dataset, certificate: str) -> Answer:
    """Answer whether an instance carries the Digital Signature that its statement promises.

    Parameters
    ----------
    ds : Dataset
        As a PACS gave it back.
    certificate : str
        Digest of the certificate, from the signed statement; empty: the site signs none.
    """
    if not SIGNATURE_TAGS & set(ds.keys()):
        if certificate:
            return no("the Digital Signature that was published is gone")
        return yes("the statement promises no Digital Signature, and there is none")
    reason = _malformed(ds)
    if reason:
        return no(reason)
    if not certificate:
        return no("a Digital Signature that the statement does not promise: it was added after publication")
    return _check_ours(ds, [item for item in ds.DigitalSignaturesSequence if _certificate_of(item) == certificate])


def _check_ours(ds: Dataset, ours: list[Dataset]) -> Answer:
    if not ours:
        return no(_none_of_ours(ds))
    if len(ds.DigitalSignaturesSequence) > len(ours) or len(ds.MACParametersSequence) > len(ours):
        return no("Digital Signatures or MAC parameters stand beside those that the statement promises")
    reason = _encoded_anew(ds)
    if reason:
        return unknown(f"{reason}: a Digital Signature holds for the encoding in which it was made")
    reason = next((why for why in (_broken(ds, item) for item in ours) if why), "")
    if reason:
        return no(reason)
    return yes("the Digital Signature holds, by the certificate that the statement names")


def _broken(ds: Dataset, item: Dataset) -> str:
    """Why a Digital Signature of ours does not hold; empty where it does. Anything that it needs may be missing."""
    parameters = next((one for one in ds.MACParametersSequence if one.get("MACIDNumber") == item.get("MACIDNumber")), None)
    if parameters is None or "MACIDNumber" not in item:
        return "the Digital Signature has lost its MAC parameters: no item has its MAC ID Number (0400,0005)"
    algorithm = str(parameters.get("MACAlgorithm") or "")
    if algorithm not in _ALGORITHMS:
        found = f"of the MAC algorithm {algorithm[:16]!r}" if algorithm else "without a MAC algorithm (0400,0015)"
        return f"a Digital Signature {found}; {', '.join(_ALGORITHMS)} still prove something"
    signed = _tags(parameters.get("DataElementsSigned"))
    if not signed:
        return "the Digital Signature does not say which attributes it covers: Data Elements Signed (0400,0020) is missing"
    # What was added after signing is no less wrong than what was changed.
    present = {element.tag for element in ds if signable(typed(ds, element))}
    if set(signed) != present:
        added, gone = len(present - set(signed)), len(set(signed) - present)
        changes = f"{added} attributes were added and {gone} taken away"
        return f"after signing {changes}: the Digital Signature is not over this instance"
    if not item.get("Signature"):
        return "the Digital Signature holds no signature: (0400,0120) is missing"
    return "" if _fits(message_digest(ds, signed, item, algorithm), item, algorithm) else _NO_FIT


def _fits(mac: bytes, item: Dataset, algorithm: str) -> bool:
    public = x509.load_der_x509_certificate(_exact_der(item.CertificateOfSigner)).public_key()
    if not isinstance(public, RSAPublicKey):
        return False
    try:
        public.verify(bytes(item.Signature)[: public.key_size // 8], mac, PKCS1v15(), Prehashed(_ALGORITHMS[algorithm]))
    except InvalidSignature:
        return False
    return True


def _tags(value: Any) -> list[BaseTag]:
    """Attribute tags: none, one, or several, as pydicom gives them."""
    if value is None:
        return []
    return [Tag(tag) for tag in ([value] if isinstance(value, int) else value)]


def _signature_item(uid: str, moment: datetime) -> Dataset:
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = _PURPOSE
    item = Dataset()
    item.MACIDNumber = _MAC_ID
    item.DigitalSignatureUID = uid
    item.DigitalSignatureDateTime = moment.strftime("%Y%m%d%H%M%S.%f%z")
    item.CertificateType = "X509_1993_SIG"
    item.DigitalSignaturePurposeCodeSequence = Sequence([purpose])
    return item


def _malformed(ds: Dataset) -> str:
    """What the two sequences are that no Digital Signature is; the statement's digest is blind to them, so nothing may hide."""
    for tag, what, content in _SEQUENCES:
        if tag not in ds:
            return f"{what} is gone: a Digital Signature needs it"
        if not isinstance(ds[tag].value, Sequence):
            return f"{what} holds no items"
        if not all(set(item.keys()) <= content and _only_codes(item) for item in ds[tag].value):
            return f"something stands among the Digital Signatures that is none: {what} holds more than it may"
    return ""


def _only_codes(item: Dataset) -> bool:
    """Whether the purpose of a signature is coded and nothing else: an item in an item is a place to hide in, too."""
    return all(set(code.keys()) <= _CODE_CONTENT for code in item.get("DigitalSignaturePurposeCodeSequence") or [])


def _none_of_ours(ds: Dataset) -> str:
    """Why none of the signatures is by the certificate that the statement names."""
    if not ds.DigitalSignaturesSequence:
        return "Digital Signatures Sequence (FFFA,FFFA) is empty"
    for item in ds.DigitalSignaturesSequence:
        der = _exact_der(item.get("CertificateOfSigner"))
        if not der:
            return "a Digital Signature without the certificate of its signer: (0400,0115) is missing"
        try:
            x509.load_der_x509_certificate(der)
        except ValueError:
            return "a Digital Signature with a certificate that cannot be read: (0400,0115) is no X.509 certificate in DER"
    return "no Digital Signature by the certificate that the statement names"


def _encoded_anew(ds: Dataset) -> str:
    """Why the bytes of an honest copy cannot be those that were signed; empty where they have to be."""
    syntax = getattr(getattr(ds, "file_meta", None), "TransferSyntaxUID", None) or ExplicitVRLittleEndian
    if syntax.is_encapsulated:
        return "the pixels were compressed after signing"
    return "" if syntax.is_little_endian else "the bytes were turned round after signing"


def _certificate_of(item: Dataset) -> str:
    return certificate_digest(_exact_der(item.get("CertificateOfSigner")))


def _exact_der(value: Any) -> bytes:
    """A certificate without the byte that makes its length even: DER tells its own length (X.690 8.1.3)."""
    data = bytes(value or b"")
    if len(data) < 4 or data[1] != 0x82:
        return data
    return data[: 4 + int.from_bytes(data[2:4], "big")]


def _even(value: bytes) -> bytes:
    return value + b"\0" * (len(value) % 2)


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return bool(usage.digital_signature or usage.content_commitment)


def _unusable(found: str) -> ConfigurationError:
    return ConfigurationError(
        found=f"{found}, for DICOM Digital Signatures",
        allowed=f"a valid X.509 certificate and its RSA key of at least {MIN_RSA_BITS} bits, PEM, not encrypted, mode 0600",
        action="correct provenance.dicom_signature_certificate and provenance.dicom_signature_key, or empty both",
    )
