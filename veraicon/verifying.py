"""`veraicon verify`: finds what belongs to a file, folder, Provenance or sidecar, and lets `provenance.verification` judge it.

What is looked for beside the object: the sidecar and the Provenance in the same folder or the one above, then the Provenance on
the FHIR server or in the store that the settings name. Keys: those given, else the site's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from domain.errors import RequestInvalid, VeraiconError, VerificationFailed
from provenance.as_dicom import extract
from provenance.report import VerificationReport
from provenance.signing import SigningKey
from provenance.verification import verify_instance, verify_provenance, verify_series, verify_sidecar
from veraicon.files import dicom_files, read_json
from veraicon.publishing import SIDECAR_NAME
from veraicon.settings import Settings
from veraicon.wiring import open_fhir

Json = Mapping[str, Any]
PROVENANCE_NAME = "provenance.json"


def verify(
    target: Path,
    *,
    settings: Callable[[], Settings],
    provenance: Path | None = None,
    keys: Path | None = None,
    offline: bool = False,
) -> VerificationReport:
    """Verify a DICOM file, a folder with series of one request, a Provenance or a sidecar.

    Parameters
    ----------
    target : Path
    settings : callable
        Gives the site's settings; called only where keys or Provenance are not given.
    provenance : Path or None
        Provenance resource to check against.
    keys : Path or None
        JWK Set of the public keys to trust.
    offline : bool
        Ask no FHIR server.

    Raises
    ------
    RequestInvalid
        If the target is none of these, or there is no key to trust. A broken object is no error: its claims are false.
    """
    trusted = _trusted_keys(keys, settings)
    files = dicom_files(target)
    if files:
        instances = [dcmread(path) for path in files]
        found = _provenance_for(target, instances[0], provenance, settings, offline)
        if target.is_file():
            return verify_instance(instances[0], trusted, found, _sidecar_for(target))
        return verify_series(instances, trusted, found, _sidecar_for(target))
    content = read_json(target)
    if content.get("resourceType") == "Provenance":
        return verify_provenance(content, trusted, _sidecar_for(target))
    if "jws" in content:
        return verify_sidecar(content, trusted)
    raise RequestInvalid(
        found=f"{target.name}, which is no DICOM file, Provenance or sidecar",
        allowed="a DICOM file, a folder with one series, a Provenance resource, an attestation sidecar",
        action="name one of these",
    )


def _trusted_keys(keys: Path | None, settings: Callable[[], Settings]) -> Json:
    """Return the keys that the caller trusts: never those that lie beside the object."""
    if keys is not None:
        return read_json(keys)
    site = settings()
    path = Path(site.provenance.key_file or site.storage.folder / "keys" / "signing.jwk")
    if not path.exists():
        raise RequestInvalid(
            found="no key to trust",
            allowed="--keys JWKS.json, or settings of the site that signed",
            action="get the site's keys from its /.well-known/jwks.json, or name its settings with --config",
        )
    return SigningKey.load_or_create(path).public_jwks()


def _provenance_for(
    target: Path, ds: Dataset, given: Path | None, settings: Callable[[], Settings], offline: bool
) -> Json | None:
    """Return the Provenance resource: the one given, one beside the object, or the site's."""
    if given is not None:
        return read_json(given)
    beside = _beside(target, PROVENANCE_NAME)
    if beside is not None:
        return read_json(beside)
    return None if offline else _provenance_of_site(ds, settings())


def _provenance_of_site(ds: Dataset, settings: Settings) -> Json | None:
    """Ask the site's FHIR server or store; None where there is none to ask or it does not hold it."""
    try:
        embedded = extract(ds)
    except VerificationFailed:
        return None
    if embedded is None or not (settings.fhir.base_url or settings.storage.folder.exists()):
        return None
    try:
        with open_fhir(settings) as fhir:
            return fhir.read(embedded.provenance_reference).body
    except VeraiconError:  # not checkable then, and the report says that none was given
        return None


def _sidecar_for(target: Path) -> Json | None:
    path = _beside(target, SIDECAR_NAME)
    return read_json(path) if path is not None else None


def _beside(target: Path, name: str) -> Path | None:
    here = target if target.is_dir() else target.parent
    return next((folder / name for folder in (here, here.parent) if (folder / name).exists()), None)
