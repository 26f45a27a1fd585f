"""Signatures: one algorithm, known keys, one kind each; and the file that the key lives in."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws as jose
from joserfc.jwk import ECKey, OctKey

from domain.errors import ConfigurationError, VerificationFailed
from provenance.canonical import canonical_json, to_base64url
from provenance.signing import ALGORITHM, SigningKey, key_id_of, verify, verify_detached

KEY = SigningKey.generate()
KEYS = KEY.public_jwks()
PAYLOAD = {"b": [1, 2.5, None], "a": "ä"}


def _forged(header: dict[str, object], payload: bytes = canonical_json(PAYLOAD), signature: str | None = None) -> str:
    real = KEY.sign(PAYLOAD, kind="test").split(".")[2]
    return f"{to_base64url(json.dumps(header).encode())}.{to_base64url(payload)}.{real if signature is None else signature}"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e15, 1e15) | st.text("aäλ\u2028\n"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(max_size=5), _JSON, max_size=4))
def test_what_is_signed_comes_back(payload: dict[str, object]) -> None:
    assert verify(KEY.sign(payload, kind="test"), KEYS, kind="test") == payload


def test_signing_twice_gives_the_same_bytes() -> None:
    assert KEY.sign(PAYLOAD, kind="test") == KEY.sign(dict(reversed(PAYLOAD.items())), kind="test")


@pytest.mark.requirement("PROV-SIGN-001")
def test_another_implementation_verifies_our_signature() -> None:
    public = ECKey.import_key(KEYS["keys"][0])
    assert jose.deserialize_compact(KEY.sign(PAYLOAD, kind="test"), public, algorithms=[ALGORITHM]).payload == canonical_json(
        PAYLOAD
    )


def test_a_payload_beyond_the_usual_limit_of_the_library_is_signed_and_verified() -> None:
    payload = {"instances": ["x" * 300] * 2000}
    assert verify(KEY.sign(payload, kind="test"), KEYS, kind="test") == payload


@pytest.mark.requirement("PROV-SIGN-001")
@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "kid": KEY.kid, "typ": "test"},
        {"alg": "HS384", "kid": KEY.kid, "typ": "test"},
        {"alg": "ES256", "kid": KEY.kid, "typ": "test"},
        {"alg": "ES384", "kid": "unknown", "typ": "test"},
        {"alg": "ES384", "typ": "test"},
        {"alg": "ES384", "kid": KEY.kid, "typ": "test", "b64": False, "crit": ["b64"]},
        {"alg": "ES384", "kid": KEY.kid, "typ": "test", "jwk": KEYS["keys"][0]},
        {"alg": ["ES384"], "kid": KEY.kid, "typ": "test"},
    ],
    ids=lambda header: json.dumps(header)[:40],
)
def test_refuses_headers_that_are_not_ours(header: dict[str, object]) -> None:
    with pytest.raises(VerificationFailed):
        verify(_forged(header), KEYS, kind="test")


@pytest.mark.requirement("PROV-SIGN-001")
def test_refuses_alg_none_without_a_signature() -> None:
    with pytest.raises(VerificationFailed, match="none"):
        verify(_forged({"alg": "none", "kid": KEY.kid, "typ": "test"}, signature=""), KEYS, kind="test")


@pytest.mark.requirement("PROV-SIGN-001")
def test_refuses_the_public_key_used_as_an_hmac_secret() -> None:
    secret = OctKey.import_key(json.dumps(KEYS["keys"][0]))
    header = {"alg": "HS256", "kid": KEY.kid, "typ": "test"}
    forged = jose.serialize_compact(header, canonical_json(PAYLOAD), secret, algorithms=["HS256"])
    with pytest.raises(VerificationFailed, match="HS256"):
        verify(forged, KEYS, kind="test")


def test_refuses_the_signature_of_a_key_that_is_not_trusted() -> None:
    with pytest.raises(VerificationFailed, match="not among the trusted keys"):
        verify(SigningKey.generate().sign(PAYLOAD, kind="test"), KEYS, kind="test")


def test_a_key_set_cannot_give_a_key_the_name_of_another() -> None:
    other = SigningKey.generate()
    mislabelled = {"keys": [other.public_jwks()["keys"][0] | {"kid": KEY.kid}]}
    forged = other.sign(PAYLOAD, kind="test").split(".")
    header = to_base64url(canonical_json({"alg": ALGORITHM, "kid": KEY.kid, "typ": "test"}))
    with pytest.raises(VerificationFailed):
        verify(f"{header}.{forged[1]}.{forged[2]}", mislabelled, kind="test")


def test_refuses_a_signature_of_another_kind() -> None:
    with pytest.raises(VerificationFailed, match="kind"):
        verify(KEY.sign(PAYLOAD, kind="attestation"), KEYS, kind="statement")


def test_refuses_a_signed_payload_that_is_not_canonical() -> None:
    for payload in (b'{"a": 1}', b'{"a":1,"a":2}', b"[1]", b"\xff"):
        with pytest.raises(VerificationFailed):
            verify(KEY.sign(payload, kind="test"), KEYS, kind="test")


@pytest.mark.requirement("PROV-SIGN-001")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_refuses_a_jws_that_is_cut_or_changed_anywhere(data: st.DataObject) -> None:
    jws = KEY.sign(PAYLOAD, kind="test")
    place = data.draw(st.integers(0, len(jws) - 2))
    letter = data.draw(st.sampled_from("AzQ3-_.é{"))
    changed = data.draw(
        st.sampled_from([jws[:place], jws[:place] + letter + jws[place + 1 :], jws[: place + 1] + letter + jws[place + 1 :]])
    )
    if changed == jws:
        return
    with pytest.raises(VerificationFailed):
        verify(changed, KEYS, kind="test")


def test_a_detached_signature_holds_for_its_payload_only() -> None:
    detached = KEY.sign_detached(PAYLOAD, kind="test")
    verify_detached(detached, PAYLOAD, KEYS, kind="test")
    with pytest.raises(VerificationFailed):
        verify_detached(detached, PAYLOAD | {"c": 1}, KEYS, kind="test")
    with pytest.raises(VerificationFailed, match="detached"):
        verify_detached(KEY.sign(PAYLOAD, kind="test"), PAYLOAD, KEYS, kind="test")


def test_the_key_id_is_read_from_the_header_and_empty_where_there_is_none() -> None:
    assert key_id_of(KEY.sign(PAYLOAD, kind="test")) == KEY.kid
    assert key_id_of("no.jws") == ""


def test_the_key_file_is_made_once_and_kept_from_others(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "signing.json"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: SigningKey.load_or_create(path).kid, range(8)))
    assert len(set(made)) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["signing.json"]


def test_a_key_given_as_pem_is_the_same_key(tmp_path: Path) -> None:
    key = ECKey.generate_key("P-384", private=True)
    path = tmp_path / "signing.pem"
    path.write_bytes(key.as_pem(private=True))
    path.chmod(0o400)
    assert SigningKey.load_or_create(path).kid == key.thumbprint()


def test_only_the_public_half_is_published() -> None:
    assert set(KEYS["keys"][0]) == {"kty", "crv", "x", "y", "kid", "use", "alg"}
    assert KEYS["keys"][0]["kid"] == KEY.kid


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "{not json",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
        json.dumps(KEYS["keys"][0]),
        ECKey.generate_key("P-256", private=True).as_pem(private=True).decode(),
        json.dumps({"kty": "oct", "k": "AAAA"}),
    ],
    ids=["empty", "empty object", "no json", "broken pem", "public only", "other curve", "symmetric"],
)
def test_refuses_a_key_file_that_holds_no_key_of_ours_and_does_not_repeat_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "signing"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError) as caught:
        SigningKey.load_or_create(path)
    assert not text or text not in str(caught.value)


def test_refuses_a_key_file_that_others_may_read(tmp_path: Path) -> None:
    path = tmp_path / "signing.json"
    SigningKey.load_or_create(path)
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        SigningKey.load_or_create(path)


def test_refuses_a_folder_that_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError):
        SigningKey.load_or_create(tmp_path / "file" / "signing.json")


def test_the_private_key_is_in_no_repr() -> None:
    assert os.fsencode(KEY.kid).decode() in repr(KEY)
    assert json.loads(KEY._private_text())["d"] not in repr(KEY)
