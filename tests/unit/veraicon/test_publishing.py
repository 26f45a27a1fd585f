"""The last step of a job after its signing key was replaced."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from provenance.attest import PROV_NAME, SIDECAR_NAME
from provenance.signatures.keyring import Keyring, RetiredKey
from provenance.signing import SigningKey
from tests.builders_provenance import NOW, publish
from veraicon.artifacts import ArtifactFolder
from veraicon.publishing import PREPARED, PreparedAttestation, Publisher

OLD, NEW = SigningKey.generate(), SigningKey.generate()


@pytest.mark.requirement("PROV-KEY-002")
def test_what_was_signed_before_a_rotation_is_published_after_it(tmp_path: Path) -> None:
    published = publish(OLD)
    folder = ArtifactFolder(tmp_path / "job")
    bundle = json.dumps({"resourceType": "Bundle", "entry": []})
    folder.once("prepared-attestation", PREPARED, lambda: PreparedAttestation(published.attestation, bundle))
    ring = Keyring(NEW, (RetiredKey(OLD.public_jwks()["keys"][0], NOW),))
    sent: list[Any] = []
    nothing = {one.name: None for one in fields(Publisher)}
    outputs = SimpleNamespace(
        attested=lambda _: None, require_not_recalled=lambda _: None, require_not_recalled_meanwhile=lambda _: None
    )
    given = {"key": NEW, "keys": ring.public_jwks, "outputs": outputs, "folder_of": lambda _: folder}
    publisher = Publisher(**{**nothing, **given, "fhir": SimpleNamespace(transact=sent.append)})  # type: ignore[arg-type]
    request = SimpleNamespace(request_id=published.attestation.request_id)
    assert publisher.attest(request, published.publication) == published.attestation  # type: ignore[arg-type]
    assert len(sent) == 1
    assert {path.name for path in folder.folder.iterdir()} >= {SIDECAR_NAME, PROV_NAME}
