"""A data set export as Croissant metadata: every file by its digest, and the table of volumes as records.

References
----------
MLCommons Croissant 1.0 (JSON-LD over schema.org) and its responsible-AI vocabulary (RAI 1.0).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from domain.dataset import DatasetManifest, MemberKind
from provenance.canonical import instant
from veraicon.datasets import layout

CONFORMS_TO = ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"]
# Terms of Croissant in the short form in which its files are written.
_TERMS = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet", "format", "includes",
    "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex", "repeated", "replace",
    "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
_MEDIA_TYPES = {
    ".dcm": "application/dicom",
    ".gz": "application/gzip",
    ".json": "application/json",
    ".md": "text/markdown",
    ".tsv": "text/tab-separated-values",
}
_OTHER = "application/octet-stream"


def to_croissant(manifest: DatasetManifest, digest: str, root: Path, *, dicom_folder: str = "") -> dict[str, Any]:
    """Return the metadata of an exported folder.

    Parameters
    ----------
    digest : str
        Identity of the version.
    root : Path
        Every file below it is listed; the metadata file itself, the signed list and hidden files are not.
    dicom_folder : str
        Folder whose files are all DICOM, whatever their names; empty for none.
    """
    files = {name: path for name, path in layout.listed_files(root).items() if _is_listed(name)}
    made = manifest.of_kind(MemberKind.GENERATED)
    return {
        "@context": _context(),
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": f"{manifest.name}-{manifest.number}",
        "description": f"{len(made)} synthetic volumes, made by a generator and of no person, not for clinical use; "
        f"{len(manifest.subjects)} subjects. Signed manifest: {layout.MANIFEST_NAME}, identity {digest}.",
        "license": list(layout.licences(manifest)),
        "version": f"{manifest.number}.0.0",
        "datePublished": instant(manifest.created_at)[:10],
        "isLiveDataset": False,
        "rai:dataCollection": "Drawn by generative models from single source series; each has a signed attestation.",
        "rai:dataLimitations": f"See {layout.DATASHEET_NAME}: what the models' cards measured, and where they fail.",
        "rai:dataUseCases": f"See {layout.DATASHEET_NAME}. Not for diagnosis or treatment.",
        "rai:personalSensitiveInformation": _personal(manifest),
        "distribution": [_file_object(name, path, dicom_folder) for name, path in files.items()],
        "recordSet": [_volumes()],
    }


def _personal(manifest: DatasetManifest) -> str:
    sources = manifest.of_kind(MemberKind.SOURCE)
    held = f"{len(sources)} members are images of real people; they are here only where the export was asked for them."
    none = "No image of a real person is a member."
    linkable = "the manifest names source series by UID, so whoever can search the PACS can find the person"
    return f"{held if sources else none} Subjects are salted tokens; {linkable}."


def _context() -> dict[str, Any]:
    return {
        "@language": "en",
        "@vocab": "https://schema.org/",
        "sc": "https://schema.org/",
        "cr": "http://mlcommons.org/croissant/",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "dct": "http://purl.org/dc/terms/",
        "conformsTo": "dct:conformsTo",
        "data": {"@id": "cr:data", "@type": "@json"},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        "examples": {"@id": "cr:examples", "@type": "@json"},
    } | {term: f"cr:{term}" for term in _TERMS}


def _is_listed(name: str) -> bool:
    return not name.startswith(".") and name not in {layout.CROISSANT_NAME, layout.EXPORT_NAME}


def _file_object(name: str, path: Path, dicom_folder: str) -> dict[str, Any]:
    is_dicom = bool(dicom_folder) and name.startswith(f"{dicom_folder}/")
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": "application/dicom" if is_dicom else _MEDIA_TYPES.get(path.suffix, _OTHER),
        "sha256": layout.file_digest(path).removeprefix("sha256:"),
    }


def _volumes() -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "volumes",
        "name": "volumes",
        "description": "One record a volume",
        "field": list(_fields(layout.VOLUME_COLUMNS)),
    }


def _fields(columns: Iterable[str]) -> Iterable[dict[str, Any]]:
    for column in columns:
        yield {
            "@type": "cr:Field",
            "@id": f"volumes/{column}",
            "name": column,
            "dataType": "sc:Text",
            "source": {"fileObject": {"@id": layout.VOLUMES_NAME}, "extract": {"column": column}},
        }
