"""The private key by which we identify ourselves to an authorization server, and its public half for registration."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from domain.errors import ConfigurationError

_SMALLEST_RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A key for private_key_jwt.

    Attributes
    ----------
    algorithm : str
        ``ES384`` or ``RS384``, as the key is.
    kid : str
        Key id under which it is registered.

    References
    ----------
    SMART App Launch 2.2, "Client Authentication: Asymmetric".
    """

    key: ECKey | RSAKey = field(repr=False)
    algorithm: str
    kid: str

    @classmethod
    def load(cls, file: Path, kid: str = "") -> ClientKey:
        """Read a private key, PEM (not encrypted) or JWK.

        Parameters
        ----------
        file : Path
            The key.
        kid : str
            Its key id; empty: that of the JWK, else the RFC 7638 thumbprint.

        Raises
        ------
        ConfigurationError
            If it cannot be read, or is neither P-384 nor RSA of 2048 bits or more.
        """
        try:
            text = file.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise _unusable(f"a client key file that cannot be read ({type(error).__name__})") from error
        key = _imported(text)
        if not key.is_private:
            raise _unusable("a client key file with a public key only")
        return cls(key, _algorithm(key), kid or str(key.as_dict().get("kid", "")) or key.thumbprint())

    def assertion(self, claims: dict[str, Any]) -> str:
        """Return `claims` as a signed JWT."""
        header = {"alg": self.algorithm, "kid": self.kid, "typ": "JWT"}
        return jwt.encode(header, claims, self.key, algorithms=[self.algorithm])

    def public_jwks(self) -> dict[str, Any]:
        """Return the key set to register with the authorization server (RFC 7517)."""
        public = self.key.as_dict(private=False)
        return {"keys": [{**public, "kid": self.kid, "alg": self.algorithm, "use": "sig", "key_ops": ["verify"]}]}


def _imported(text: str) -> ECKey | RSAKey:
    kinds: tuple[type[ECKey | RSAKey], ...] = (ECKey, RSAKey)
    value: Any = text
    if text.lstrip().startswith("{"):
        try:
            value = json.loads(text)
        except ValueError as error:
            raise _unusable("a client key file with broken JSON") from error
    for kind in kinds:
        try:
            return kind.import_key(value)
        except (JoseError, ValueError, TypeError, KeyError):
            continue
    raise _unusable("a client key file that holds no EC or RSA key")


def _algorithm(key: ECKey | RSAKey) -> str:
    if isinstance(key, ECKey):
        if key.curve_name == "P-384":
            return "ES384"
        raise _unusable(f"a client key on curve {key.curve_name}")
    bits = key.raw_value.key_size
    if bits < _SMALLEST_RSA_BITS:
        raise _unusable(f"an RSA client key of {bits} bits")
    return "RS384"


def _unusable(found: str) -> ConfigurationError:
    return ConfigurationError(
        found=found,
        allowed=f"a private key on P-384 (ES384) or RSA of {_SMALLEST_RSA_BITS} bits or more (RS384), PEM or JWK, unencrypted",
        action="make one, such as by `openssl ecparam -name secp384r1 -genkey -noout -out client.pem`, and name it in [fhir]",
    )
