"""`veraicon doctor`: is this installation able to work, and if not, what is wrong."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import packages_distributions
from pathlib import Path

import sqlalchemy as sa

from dicom_node.scu import Peer, echo
from domain.errors import ConfigurationError, VeraiconError, WeightsRejected
from fhir_adapter.client import FhirClient
from generators.cards import WEIGHTS_NAME, bundle_folder, read_card
from veraicon.settings import Settings
from veraicon.wiring import Site, open_site, peer_of

PACKAGES = ("domain", "fhir_adapter", "dicom_node", "multimodal", "generators", "provenance", "quality", "veraicon")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


def examine(settings: Settings) -> list[Check]:
    """Look at everything that the site needs, the rest also where one thing is wrong."""
    checks = [_run("packages", _packages)]
    checks.append(_run("weights", lambda: _weights(settings)))
    try:
        with open_site(settings) as site:
            checks.append(Check("database", True, f"{site.engine.dialect.name}, migrated"))
            checks.extend(_look_at(site))
    except VeraiconError as error:
        checks.append(Check("site", False, str(error)))
    return checks


def require_single_owner() -> None:
    """Stop where another installed distribution brings a package of one of our names: it would overwrite ours silently.

    Raises
    ------
    ConfigurationError
        Naming the package and the distributions.
    """
    owners = packages_distributions()
    for package in PACKAGES:
        names = sorted(set(owners.get(package, [])))
        if len(names) > 1:
            raise ConfigurationError(
                found=f"package {package} of the distributions {', '.join(names)}",
                allowed="veraicon alone, in an environment of its own",
                action="make a fresh virtual environment and install veraicon there",
            )


def _look_at(site: Site) -> Iterator[Check]:
    yield _run("signing key", lambda: f"ES384, key id {site.key.kid}")
    yield _run("FHIR", lambda: _fhir(site))
    for destination in site.settings.destinations:
        peer = peer_of(destination, site.settings.node.ae_title)
        yield _run(f"destination {destination.name}", partial(_echo, peer))
    yield Check("storage", True, _room(site.settings.storage.folder))


def _packages() -> str:
    require_single_owner()
    return "each of ours has one owner"


def _echo(peer: Peer) -> str:
    echo(peer)
    return "answers C-ECHO"


def _weights(settings: Settings) -> str:
    folder = bundle_folder(settings.generation.model)
    card = read_card(folder)
    with (folder / WEIGHTS_NAME).open("rb") as stream:
        digest = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
    if digest != card.weights_digest:
        raise WeightsRejected(
            found=f"weights of {card.name} whose digest is not the one on the card",
            allowed=card.weights_digest,
            action="install the bundle again",
        )
    return f"{card.name} {card.version}, digest as on the card, licence {card.licence}"


def _fhir(site: Site) -> str:
    if isinstance(site.fhir, FhirClient):
        next(iter(site.fhir.search("Patient", {"_count": "1"})), None)
        return f"{site.settings.fhir.base_url} answers"
    with site.engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
    return "our own store"


def _room(folder: Path) -> str:

    return f"{shutil.disk_usage(folder).free >> 30} GiB free"


def _run(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except VeraiconError as error:
        return Check(name, False, str(error))
