"""C2PA manifests (Content Credentials) in PNG previews: signed, and bound to the very bytes of the picture.

Made by c2pa-python, which is an extra (``veraicon[c2pa]``) and loaded only where a site has a certificate for it. No time-stamp
service is asked: nothing leaves the site, and a manifest is to be read while its certificate is valid.

References
----------
C2PA Technical Specification: actions assertion, created, digitalSourceType; X.509 certificates. IPTC NewsCodes: Digital Source
Type.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, SECP521R1, EllipticCurvePrivateKey

from domain.errors import AttestationError, ConfigurationError
from domain.marking import Depicted
from provenance.signatures.certificates import load_pair

ORIGIN_LABEL = "org.veraicon.provenance"
ORIGIN_VERSION = "veraicon-origin/1"
_TITLES = {
    Depicted.GENERATED: "Synthetic medical image",
    Depicted.BESIDE_SOURCE: "Medical image of a patient and a synthetic one, side by side",
}
# A thumbnail of a small picture would be many times as long as the picture.
_SETTINGS = {"builder": {"thumbnail": {"enabled": False}}}
_ALGORITHMS = {SECP256R1.name: "es256", SECP384R1.name: "es384", SECP521R1.name: "es512"}


@dataclass(frozen=True, slots=True)
class Origin:
    """Of what a picture is.

    Attributes
    ----------
    request_id : str
    provenance : str
        ``Provenance/<id>`` of the series.
    statement_digest : str
        ``sha256:`` digest of the statement's canonical JSON, which the Provenance names too; empty before there is one.
    """

    request_id: str
    provenance: str
    statement_digest: str = ""


@dataclass(frozen=True, slots=True)
class ContentCredentials:
    """A certificate chain and its key, as c2pa-python takes them.

    Attributes
    ----------
    chain, key : str
        PEM.
    algorithm : str
    valid_until : datetime
        When the first certificate of the chain runs out, aware.
    """

    chain: str
    key: str
    algorithm: str
    valid_until: datetime

    def __repr__(self) -> str:
        return f"ContentCredentials(algorithm={self.algorithm!r})"

    @classmethod
    def load(cls, certificate: Path, key: Path, *, now: datetime | None = None) -> ContentCredentials:
        """Return the credentials of two PEM files; the signer's certificate stands first in its chain.

        Raises
        ------
        ConfigurationError
            If one cannot be read, they do not belong together, the key is on another curve or open to others, the certificate
            is not valid now, or c2pa-python is not installed.
        """
        try:
            import c2pa  # noqa: F401
        except ImportError as error:
            raise ConfigurationError(
                found="c2pa_certificate, and c2pa-python is not installed",
                allowed="the extra that makes C2PA manifests",
                action="install veraicon[c2pa], or empty provenance.c2pa_certificate",
            ) from error
        pair = load_pair(certificate, key, unusable=_unusable, now=now)
        private = pair.private
        if not isinstance(private, EllipticCurvePrivateKey) or private.curve.name not in _ALGORITHMS:
            raise _unusable("a key on no curve that C2PA allows")
        return cls(pair.chain_pem, pair.key_pem, _ALGORITHMS[private.curve.name], pair.valid_until)

    def sign_png(self, png: bytes, origin: Origin, depicted: Depicted = Depicted.GENERATED) -> bytes:
        """Return the picture with a manifest in it; any change of a byte afterwards shows.

        Raises
        ------
        AttestationError
            If the manifest cannot be made.
        """
        from c2pa import Builder, C2paError, C2paSignerInfo, Context, Signer

        signed = BytesIO()
        try:
            with (
                Context.from_dict(_SETTINGS) as context,
                Signer.from_info(C2paSignerInfo(self.algorithm, self.chain.encode(), self.key.encode(), None)) as signer,
                Builder(_manifest(origin, depicted), context=context) as builder,
            ):
                builder.sign(signer, "image/png", BytesIO(png), signed)
        except C2paError as error:
            raise AttestationError(
                found=f"a C2PA manifest that could not be made ({type(error).__name__})",
                allowed="a PNG, and a certificate for C2PA claims",
                action="check provenance.c2pa_certificate against the C2PA certificate profile, or empty it",
            ) from error
        return signed.getvalue()


def _manifest(origin: Origin, depicted: Depicted) -> str:
    ours: dict[str, Any] = {
        "version": ORIGIN_VERSION,
        "requestId": origin.request_id,
        "provenance": origin.provenance,
        "statementDigest": origin.statement_digest or None,
    }
    created = {
        "action": "c2pa.created",
        "digitalSourceType": depicted.source_type,
        "softwareAgent": {"name": "Veraicon"},
    }
    return json.dumps(
        {
            "claim_generator_info": [{"name": "Veraicon"}],
            "format": "image/png",
            "title": _TITLES[depicted],
            "assertions": [
                {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
                {"label": ORIGIN_LABEL, "data": ours},
            ],
        }
    )


def _unusable(found: str) -> ConfigurationError:
    return ConfigurationError(
        found=f"{found}, for C2PA manifests",
        allowed="a valid certificate chain and its key on P-256, P-384 or P-521, PEM, not encrypted, mode 0600",
        action="correct provenance.c2pa_certificate and provenance.c2pa_key, or empty both",
    )
