"""ES384 signatures (JWS, RFC 7515) over canonical JSON (RFC 8785), and the key that makes them.

One algorithm is allowed. The key id is the RFC 7638 thumbprint of the public key, so it cannot be given to another key.
Signatures are deterministic (RFC 6979): signing again after a restart gives the same bytes.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from joserfc import jws as jose
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from domain.errors import ConfigurationError, VerificationFailed
from provenance.canonical import canonical_json, from_base64url, to_base64url

ALGORITHM = "ES384"
CURVE = "P-384"
_COORDINATE_BYTES = 48

# The kind of a signed thing stands in the protected header (`typ`): a signature of one kind is never taken for another.
STATEMENT_KIND = "veraicon-statement+json"
ATTESTATION_KIND = "veraicon-attestation+json"
PROVENANCE_KIND = "fhir+json"
TREE_HEAD_KIND = "veraicon-tree-head+json"
KEY_KIND = "veraicon-key+json"
RECALL_KIND = "veraicon-recall+json"
DATASET_KIND = "veraicon-dataset+json"
EXPORT_KIND = "veraicon-export+json"

_HEADER_NAMES = {"alg", "kid", "typ"}
_MAX_HEADER_BYTES = 512
# A statement lists each instance with two digests, about 300 bytes: room for 50,000 instances.
_MAX_PAYLOAD_BYTES = 20_000_000


class _Registry(jose.JWSRegistry):
    """joserfc's registry with room for long series."""

    max_header_length = _MAX_HEADER_BYTES
    max_payload_length = _MAX_PAYLOAD_BYTES


class SigningKey:
    """The private key of an installation.

    Parameters
    ----------
    key : ECKey
        Private key on P-384.

    Attributes
    ----------
    made_at : datetime or None
        When the key was made, where it says so.

    Raises
    ------
    ConfigurationError
        If the key is public only or on another curve.
    """

    def __init__(self, key: ECKey) -> None:
        if not key.is_private or key.curve_name != CURVE:
            raise _bad_key("a key that is public only or on another curve")
        self._key = key
        self._kid = key.thumbprint()
        made_at = key.as_dict(private=True).get("iat")
        # A key of another program's making may not say when it was made.
        self.made_at = datetime.fromtimestamp(made_at, UTC) if isinstance(made_at, int) else None

    def __repr__(self) -> str:
        return f"SigningKey(kid={self.kid!r})"

    @property
    def kid(self) -> str:
        """Key id: the thumbprint (RFC 7638) of the public key."""
        return self._kid

    @classmethod
    def generate(cls) -> SigningKey:
        """Return a new random key."""
        parameters: Any = {"iat": int(time.time())}
        return cls(ECKey.generate_key(CURVE, parameters, private=True))

    @classmethod
    def from_text(cls, text: str) -> SigningKey:
        """Return the key in a PEM (PKCS #8 or SEC 1, not encrypted) or private JWK text.

        Raises
        ------
        ConfigurationError
            If the text is no such key; the text is never repeated.
        """
        try:
            content = json.loads(text) if text.lstrip().startswith("{") else text.strip()
            return cls(ECKey.import_key(content))
        except (JoseError, ValueError, TypeError, KeyError, UnsupportedAlgorithm) as error:
            # The cause may hold a piece of the key: it is named by its type only.
            raise _bad_key(f"no key that can be read ({type(error).__name__})") from None

    @classmethod
    def load_or_create(cls, path: Path) -> SigningKey:
        """Return the key kept at `path`; the first caller creates it, readable by its owner only.

        Of several processes that start at once, one creates the key and all of them get that one.

        Raises
        ------
        ConfigurationError
            If the file cannot be read or written, is open to others, or holds no P-384 private key.
        """
        try:
            if not path.exists():
                _create_once(path, cls.generate()._private_text())
            if path.stat().st_mode & 0o027:
                raise ConfigurationError(
                    found="a signing key file that others may read, or its group may write",
                    allowed="a file for its owner, at most readable by its group (0600, 0400 or 0440)",
                    action="run chmod 600 on the key file; if others may have read the key, replace it",
                )
            text = path.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise _bad_key(f"a key file that cannot be used ({type(error).__name__})") from error
        return cls.from_text(text)

    def public_jwks(self) -> dict[str, Any]:
        """Return the public half as a JWK Set (RFC 7517), for whoever verifies."""
        public = self._key.as_dict(private=False)
        names = ("kty", "crv", "x", "y")
        return {"keys": [{name: public[name] for name in names} | {"kid": self.kid, "use": "sig", "alg": ALGORITHM}]}

    def sign(self, payload: Mapping[str, Any] | bytes, *, kind: str) -> str:
        """Return the compact JWS over `payload`; a mapping is signed as its canonical JSON.

        Parameters
        ----------
        payload : mapping or bytes
            What is signed.
        kind : str
            One of the kinds of this module; it becomes the header's ``typ``.
        """
        content = payload if isinstance(payload, bytes) else canonical_json(payload)
        header = canonical_json({"alg": ALGORITHM, "kid": self.kid, "typ": kind})
        signed = f"{to_base64url(header)}.{to_base64url(content)}"
        # joserfc signs with a random nonce; RFC 6979 makes a repeated step repeat its bytes.
        der = self._key.get_op_key("sign").sign(signed.encode("ascii"), ECDSA(SHA384(), deterministic_signing=True))
        r, s = decode_dss_signature(der)
        raw = r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big")  # RFC 7518 section 3.4
        return f"{signed}.{to_base64url(raw)}"

    def sign_detached(self, payload: Mapping[str, Any] | bytes, *, kind: str) -> str:
        """Return the JWS with its payload left out (RFC 7515 appendix F): ``header..signature``."""
        header, _, signature = self.sign(payload, kind=kind).split(".")
        return f"{header}..{signature}"

    def _private_text(self) -> str:
        return json.dumps(self._key.as_dict(private=True) | {"kid": self.kid, "alg": ALGORITHM})


def verify(jws: str, keys: Mapping[str, Any], *, kind: str) -> dict[str, Any]:
    """Return the payload of `jws` if one of `keys` signed it as this kind.

    Parameters
    ----------
    jws : str
        Compact JWS.
    keys : mapping
        JWK Set of the keys that the verifier trusts.
    kind : str
        What the signature has to be for.

    Raises
    ------
    VerificationFailed
        If the algorithm is not ES384, the key is not known, the signature does not hold, or the payload is no canonical
        JSON object.

    References
    ----------
    RFC 7515 section 5.2; RFC 8725 sections 3.1 and 3.11.
    """
    header = _header(jws)
    _require_allowed(header, kind)
    key = _public_key(find_key(str(header["kid"]), keys)[0])
    try:
        content = jose.deserialize_compact(jws, key, registry=_Registry(algorithms=[ALGORITHM])).payload
    except (JoseError, ValueError, TypeError) as error:
        raise _not_true(f"a signature that does not hold ({type(error).__name__})") from error
    return _canonical_object(content)


def verify_detached(jws: str, payload: Mapping[str, Any], keys: Mapping[str, Any], *, kind: str) -> None:
    """Check a JWS whose payload stands elsewhere.

    Raises
    ------
    VerificationFailed
        As `verify`; also if the JWS carries a payload of its own.
    """
    parts = jws.split(".") if isinstance(jws, str) else []
    if len(parts) != 3 or parts[1]:
        raise _not_true("a signature that is no detached JWS")
    verify(f"{parts[0]}.{to_base64url(canonical_json(payload))}.{parts[2]}", keys, kind=kind)


def key_id_of(jws: str) -> str:
    """Return the key id that the header of `jws` names, not verified; empty where it names none."""
    try:
        return str(_header(jws).get("kid", ""))
    except VerificationFailed:
        return ""


def _header(jws: str) -> dict[str, Any]:
    if not isinstance(jws, str) or not jws.isascii() or jws.count(".") != 2:
        raise _not_true("no compact JWS of three parts")
    segment = jws.split(".", 1)[0]
    if len(segment) > _MAX_HEADER_BYTES:
        raise _not_true(f"a JWS header of {len(segment)} characters")
    try:
        header = json.loads(from_base64url(segment))
    except (ValueError, RecursionError) as error:
        raise _not_true("a JWS header that is no JSON") from error
    if not isinstance(header, dict):
        raise _not_true("a JWS header that is no JSON object")
    return header


def _require_allowed(header: Mapping[str, Any], kind: str) -> None:
    if header.get("alg") != ALGORITHM:
        raise _not_true(f"the algorithm {str(header.get('alg'))[:20]!r}")
    # `crit` and `b64` change what is signed, `jwk` and `jku` bring their own key: none of them is ours.
    if set(header) != _HEADER_NAMES:
        raise _not_true("a JWS header with other members than alg, kid and typ")
    if header["typ"] != kind:
        raise _not_true(f"a signature of the kind {str(header['typ'])[:40]!r} where {kind!r} is needed")


def find_key(kid: str, keys: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the members of a JWK Set whose own thumbprint (RFC 7638) is `kid`; the label that the set gives is not believed.

    Raises
    ------
    VerificationFailed
        If there is none.
    """
    members = keys.get("keys") if isinstance(keys, Mapping) else None
    found = [one for one in members if _is_key(one, kid)] if isinstance(members, list) else []
    if not found:
        raise _not_true("a signature by a key that is not among the trusted keys")
    return found


def _is_key(member: object, kid: str) -> bool:
    if not isinstance(member, dict) or member.get("kty") != "EC" or member.get("crv") != CURVE:
        return False
    try:
        return _public_key(member).thumbprint() == kid
    except (JoseError, ValueError, TypeError, KeyError):
        return False


def _public_key(member: Mapping[str, Any]) -> ECKey:
    return ECKey.import_key({name: str(member[name]) for name in ("kty", "crv", "x", "y")})


def _canonical_object(content: bytes) -> dict[str, Any]:
    """The JSON object, if its bytes are its canonical form: so no name is doubled and every reader sees the same."""
    try:
        parsed = json.loads(content)
        canonical = canonical_json(parsed)
    except (ValueError, RecursionError) as error:
        raise _not_true("a signed payload that is no JSON") from error
    if not isinstance(parsed, dict) or canonical != content:
        raise _not_true("a signed payload that is not in canonical form (RFC 8785)")
    return parsed


def _create_once(path: Path, text: str) -> None:
    """Write a whole file and give it its name only if no file has it: a reader never sees half a key."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(prefix=".key-", dir=path.parent)  # mkstemp creates it with mode 0600
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process was first: its key is the key
    finally:
        os.unlink(temporary)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # a key that signed something has to be there after a loss of power
    finally:
        os.close(folder)


def _bad_key(found: str) -> ConfigurationError:
    return ConfigurationError(
        found=found,
        allowed="an ECDSA P-384 private key as PEM or JWK, in a file that its owner can read",
        action="give the key again; only where it is lost, move the file away to have a new key made. Published series keep "
        "naming the old one, and witnesses of the log have to be given the new one by hand",
    )


def _not_true(found: str) -> VerificationFailed:
    return VerificationFailed(
        found=found,
        allowed=f"an {ALGORITHM} signature by a trusted key over canonical JSON",
        action="do not trust the object; check that the trusted keys are those of the installation that published it",
    )
