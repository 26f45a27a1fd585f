"""Who gets in: the site's token, or a JWT of the trusted issuer that covers what is asked."""

from __future__ import annotations

import hmac
import json
import time
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from domain.errors import CallerUnknown, PeerUnreachable, ScopeMissing
from veraicon.api import issuer_keys
from veraicon.api.app import create_app
from veraicon.api.issuer_keys import IssuerKeys
from veraicon.api.security import TrustedIssuer, require_scope
from veraicon.sections import HttpSettings
from veraicon.settings import load_settings
from veraicon.wiring import open_site

KEY = ECKey.generate_key("P-384", {"kid": "one"})
RSA = RSAKey.generate_key(2048, {"kid": "two"})
SMALL = ECKey.generate_key("P-256", {"kid": "three"})
ISSUER, AUDIENCE = "https://auth.example", "https://veraicon.example/fhir"


def jwks(*keys) -> bytes:
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]}).encode()


@pytest.fixture
def http(tmp_path: Path) -> HttpSettings:
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(KEY, RSA, SMALL))
    return HttpSettings(issuer=ISSUER, audience=AUDIENCE, jwks_file=str(file))


def token(key=KEY, alg="ES384", kid="one", **claims) -> str:
    now = int(time.time())
    full = {"iss": ISSUER, "aud": AUDIENCE, "exp": now + 300, "scope": "system/*.rs", **claims}
    return jwt.encode({"alg": alg, "kid": kid}, {k: v for k, v in full.items() if v is not None}, key, algorithms=[alg])


@pytest.mark.requirement("FHIR-AUTH-003")
@pytest.mark.parametrize(
    "given",
    [
        token(iss="https://other.example"),
        token(iss=None),
        token(aud="https://other.example"),
        token(aud=None),
        token(exp=1),
        token(exp=None),
        token(exp="soon"),
        token(nbf=int(time.time()) + 3600),
        token(ECKey.generate_key("P-384")),
        token(kid="nobody"),
        token(SMALL, "ES256", "three"),
        token()[:-8] + "AAAAAAAA",
        "no.jwt.atall",
        "ümlaut",
        "x" * 20_000,
    ],
    ids=lambda given: given[-6:],
)
def test_a_token_that_does_not_hold_is_refused_and_not_repeated(http, given):
    with pytest.raises(CallerUnknown) as caught:
        TrustedIssuer(http).scopes(given)
    assert given not in str(caught.value)


def _by_hmac(payload: str, secret: bytes) -> str:
    """Sign by hand: joserfc itself refuses a public key as a secret."""
    header = urlsafe_b64encode(b'{"alg":"HS256","kid":"two"}').decode().rstrip("=")
    digest = hmac.new(secret, f"{header}.{payload}".encode(), "sha256").digest()
    return f"{header}.{payload}.{urlsafe_b64encode(digest).decode().rstrip('=')}"


@pytest.mark.requirement("FHIR-AUTH-003")
def test_a_public_key_is_never_taken_for_a_secret_and_no_signature_is_no_token(http):
    claims = {"iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 300, "scope": "system/*.cruds"}
    secrets = [RSA.as_pem(private=False), json.dumps(RSA.as_dict(private=False)).encode()]
    forged = [_by_hmac(token(**claims).split(".")[1], secret) for secret in secrets]
    unsigned = ["eyJhbGciOiJub25lIiwia2lkIjoidHdvIn0." + token(**claims).split(".")[1] + "."]
    for given in forged + unsigned:
        with pytest.raises(CallerUnknown, match=r"algorithm|no JWT"):
            TrustedIssuer(http).scopes(given)
    assert TrustedIssuer(http).scopes(token(RSA, "RS384", "two")) == {"system/*.rs"}


@pytest.mark.requirement("FHIR-AUTH-004")
@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/fhir/Patient/a", "system/Patient.r"),
        ("GET", "/fhir/Patient", "system/Patient.s"),
        ("POST", "/fhir/Patient/_search", "system/Patient.s"),
        ("PUT", "/fhir/Provenance/a", "system/Provenance.u"),
        ("POST", "/fhir/Task", "system/Task.c"),
        ("POST", "/fhir/$generate", "system/Task.c"),
        ("POST", "/fhir", "system/*.cruds"),
        ("GET", "/api/jobs", "veraicon/read"),
        ("POST", "/api/jobs", "veraicon/write"),
    ],
)
def test_each_request_needs_its_own_scope(method, path, scope):
    require_scope(method, path, {scope})
    with pytest.raises(ScopeMissing) as caught:
        require_scope(method, path, {"system/Observation.cruds", "patient/*.cruds", "system/Patient.r?x=y"})
    assert caught.value.allowed == scope


@pytest.mark.requirement("FHIR-AUTH-004")
def test_refusals_are_told_in_the_form_of_each_face(http, tmp_path):
    settings = load_settings(storage={"folder": str(tmp_path / "data")}, http=http.model_dump())
    with open_site(settings) as site, TestClient(create_app(site)) as client:
        nobody = client.get("/fhir/Patient")
        assert (nobody.status_code, nobody.headers["WWW-Authenticate"]) == (401, 'Bearer realm="veraicon"')
        headers = {"Authorization": f"Bearer {token(exp=1)}"}
        expired = client.get("/fhir/Patient", headers=headers)
        assert (expired.status_code, 'error="invalid_token"' in expired.headers["WWW-Authenticate"]) == (401, True)
        headers = {"Authorization": f"Bearer {token(scope='system/Patient.rs')}"}
        assert client.get("/fhir/Patient", headers=headers).status_code == 200
        refused = client.get("/fhir/Observation", headers=headers)
        assert (refused.status_code, refused.json()["resourceType"]) == (403, "OperationOutcome")
        assert 'error="insufficient_scope", scope="system/Observation.s"' in refused.headers["WWW-Authenticate"]
        other = client.get("/dicom-web/studies", headers=headers)
        assert (other.status_code, other.headers["content-type"]) == (403, "application/problem+json")
        assert client.get("/.well-known/jwks.json").status_code == 200


@pytest.mark.requirement("FHIR-AUTH-005")
def test_keys_are_asked_for_at_most_once_a_minute_and_stay_while_their_host_is_down(monkeypatch):
    now, asked, answers = [0.0], [], [jwks(KEY), jwks(KEY, RSA), PeerUnreachable("x", allowed="y", action="z")]
    keys = IssuerKeys(url="https://auth.example/jwks", monotonic=lambda: now[0])

    def fetched(_self):
        asked.append(now[0])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(issuer_keys.IssuerKeys, "_fetched", fetched)
    assert keys.find("one") is not None
    assert [keys.find("two") for _ in range(50)] == [None] * 50
    now[0] = 61.0
    assert keys.find("two") is not None
    now[0] = 1_000.0
    assert keys.find("two") is not None
    assert keys.find("made-up") is None
    assert asked == [0.0, 61.0, 1_000.0]


@pytest.mark.requirement("FHIR-AUTH-005")
def test_a_key_of_an_unknown_kind_does_not_take_the_others_with_it(tmp_path):
    odd = [
        {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA", "kid": "odd"},
        {"kty": "RSA", "kid": "none"},
        {"kty": "EC", "crv": 5},
    ]
    file = tmp_path / "jwks.json"
    file.write_bytes(json.dumps({"keys": [*odd, KEY.as_dict(private=False)]}).encode())
    keys = IssuerKeys(file=str(file))
    assert keys.find("one") is not None
    assert keys.find("odd") is None


@pytest.mark.requirement("FHIR-AUTH-005")
def test_keys_end_when_their_host_cannot_be_asked_for_an_hour(monkeypatch):
    now, answers = [0.0], [jwks(KEY), PeerUnreachable("x", allowed="y", action="z")]
    keys = IssuerKeys(url="https://auth.example/jwks", monotonic=lambda: now[0])

    def fetched(_self):
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(issuer_keys.IssuerKeys, "_fetched", fetched)
    for now[0] in (0.0, 1_000.0, 3_500.0):
        assert keys.find("one") is not None
    now[0] = 3_700.0
    with pytest.raises(PeerUnreachable):
        keys.find("one")
    answers[:] = [jwks(KEY)]
    now[0] = 3_800.0
    assert keys.find("one") is not None
