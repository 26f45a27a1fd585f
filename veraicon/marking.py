"""Marks as the settings ask for them: in the pixels, as signatures of DICOM, and on the pictures that people look at."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from dicom_node.marking.pixel_marks import PixelMarks, VisibleMark
from domain.errors import ReplayImpossible, RequestInvalid
from domain.marking import Depicted, Marks
from provenance.signatures.dicom_signature import DicomSigner
from veraicon.artifacts import BYTES, ArtifactFolder
from veraicon.sections import ProvenanceSettings, PublicationSettings

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from provenance.signatures.content_credentials import ContentCredentials, Origin

_SECRET_BYTES = 32
_log = structlog.get_logger(__name__)


def pixel_marks(publication: PublicationSettings, folder: Path) -> PixelMarks:
    """Return what a site wants in or over the pixels; the secret of its watermark is made once, in its storage folder."""
    secret = watermark_secret(folder, create=True) if publication.watermark else None
    return PixelMarks(VisibleMark(publication.visible_mark), secret)


def stated_marks(claims: Mapping[str, Any], folder: Path) -> PixelMarks:
    """Return the marks that a statement tells, to write the same pixels again.

    Raises
    ------
    ReplayImpossible
        If the voxels carry a watermark and its secret is not here.
    """
    stated = claims.get("marks") or {}
    secret = None
    if stated.get("watermark"):
        try:
            secret = watermark_secret(folder)
        except RequestInvalid as error:
            raise ReplayImpossible(found=error.found, allowed=error.allowed, action=error.action) from error
    return PixelMarks(VisibleMark(stated.get("visible", VisibleMark.NONE.value)), secret)


def claimed_marks(marks: PixelMarks, signer: DicomSigner | None) -> Marks:
    """Return the marks as a statement tells them."""
    return Marks(marks.visible.value, marks.watermark_secret is not None, signer.digest if signer else "")


def watermark_secret(folder: Path, *, create: bool = False) -> bytes:
    """Return the secret of a site's watermark.

    Raises
    ------
    RequestInvalid
        If there is none, and none is to be made.
    """
    path = _secret_path(folder)
    if not path.exists():
        if not create:
            raise RequestInvalid(
                found="no watermark secret in the storage folder",
                allowed="the secret of the site that put the watermark in (keys/watermark-secret)",
                action="name the settings of that site with --config",
            )
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return ArtifactFolder(path.parent).once(path.name, BYTES, lambda: secrets.token_bytes(_SECRET_BYTES))


def lend_watermark_secret(folder: Path, other: Path) -> None:
    """Have a site in another folder use the watermark secret of the one in `folder`; made where there was none."""
    secret = watermark_secret(folder, create=True)
    path = _secret_path(other)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    ArtifactFolder(path.parent).once(path.name, BYTES, lambda: secret)


def dicom_signer(provenance: ProvenanceSettings) -> DicomSigner | None:
    """Return the certificate and key for DICOM Digital Signatures; None where the site wants none.

    Raises
    ------
    ConfigurationError
        If they cannot be used.
    """
    if not provenance.dicom_signature_certificate:
        return None
    return DicomSigner.load(Path(provenance.dicom_signature_certificate), Path(provenance.dicom_signature_key))


def content_credentials(provenance: ProvenanceSettings) -> ContentCredentials | None:
    """Return the certificate and key for C2PA manifests; None where the site wants none.

    Raises
    ------
    ConfigurationError
        If they cannot be used, or c2pa-python is not installed.
    """
    if not provenance.c2pa_certificate:
        return None
    from provenance.signatures.content_credentials import ContentCredentials

    return ContentCredentials.load(Path(provenance.c2pa_certificate), Path(provenance.c2pa_key))


@dataclass
class PictureSigner:
    """Signs the pictures that a server gives, with credentials that were loaded once, at its start.

    A certificate that runs out while it serves stops no picture: they go on with XMP and text alone, and the log says so.
    """

    credentials: ContentCredentials
    _told: bool = field(default=False, init=False)

    def sign(self, png: bytes, origin: Origin) -> bytes:
        """Return the picture with a C2PA manifest, or as it is where the certificate has run out."""
        if datetime.now(UTC) <= self.credentials.valid_until:
            return self.credentials.sign_png(png, origin)
        if not self._told:  # once, and not for each picture
            _log.warning(
                "c2pa certificate has run out: pictures carry no manifest",
                valid_until=self.credentials.valid_until.isoformat(),
                action="renew provenance.c2pa_certificate and start again",
            )
            self._told = True
        return png


def picture_signer(provenance: ProvenanceSettings) -> PictureSigner | None:
    """Return what signs the pictures of a server; None where the site wants no C2PA manifests.

    Raises
    ------
    ConfigurationError
        As `content_credentials`: one that has run out already refuses the start.
    """
    credentials = content_credentials(provenance)
    return None if credentials is None else PictureSigner(credentials)


def mark_preview(png: bytes, origin: Origin, credentials: ContentCredentials | None, depicted: Depicted) -> bytes:
    """Return a picture with every mark that says what of it was generated: XMP, text, and a C2PA manifest where asked for.

    Parameters
    ----------
    png : bytes
    origin : Origin
        Of which request it is, and where its lineage is found.
    credentials : ContentCredentials or None
        None: no manifest.
    depicted : Depicted
        The generated volume alone, or beside its source.
    """
    from dicom_node.marking.pictures import mark_png

    marked = mark_png(png, depicted)
    return marked if credentials is None else credentials.sign_png(marked, origin, depicted)


def origin_of_instance(ds: Dataset, keys: Mapping[str, Any]) -> Origin | None:
    """Return where an instance comes from, if it is one of ours as we published it; None for anything else."""
    from provenance.as_dicom import extract
    from provenance.canonical import json_digest
    from provenance.checks import names
    from provenance.checks.instance import Statements, examine
    from provenance.report import Truth
    from provenance.signatures.content_credentials import Origin

    statements = Statements(keys)
    found = examine(ds, statements)
    proven = {claim.name for claim in found.claims if claim.truth is Truth.TRUE}
    if not proven >= {names.SIGNED, names.IN_SERIES, names.NAMED, names.PIXELS, names.ATTRIBUTES}:
        return None
    signed, embedded = statements.read(found.jws), extract(ds)
    reference = embedded.provenance_reference if embedded else ""
    return Origin(signed.request_id, reference, json_digest(signed.claims))


def _secret_path(folder: Path) -> Path:
    return folder / "keys" / "watermark-secret"
