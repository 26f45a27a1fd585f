"""What is replayed: the verified claims of one request, what was published of it, and the pixels that are at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydicom import Dataset, dcmread

from domain.errors import JobNotFound, RequestInvalid, VerificationFailed
from domain.generation import GenerationRequest, Guidance
from domain.identifiers import SeriesUid
from domain.series import GeneratedInstance
from provenance.as_dicom import extract
from provenance.attest import SIDECAR_NAME, parse_sidecar, verified_attestation
from provenance.signing import STATEMENT_KIND
from provenance.signing import verify as verify_jws
from provenance.statement import SignedClaims, from_claims
from provenance.verification import verify_instance
from veraicon.files import dicom_files, read_json
from veraicon.settings import Settings
from veraicon.verifying.targets import verify

Json = Mapping[str, Any]

_GUIDANCE: TypeAdapter[Guidance] = TypeAdapter(Guidance)


@dataclass(frozen=True)
class Subject:
    """One attested request.

    Attributes
    ----------
    signed : SignedClaims
        Verified.
    instances : mapping
        Attested digests by SOP Instance UID, as far as sidecar or instances tell them.
    published : mapping
        Paths of published instances by SOP Instance UID, each verified.
    """

    signed: SignedClaims
    instances: Mapping[str, GeneratedInstance]
    published: Mapping[str, Path]

    @property
    def claims(self) -> Json:
        """The whole statement as JSON."""
        return self.signed.claims

    def claim(self, *names: str) -> Any:
        """Return one claim by the names that lead to it.

        Raises
        ------
        VerificationFailed
            If a signed statement does not make this claim.
        """
        value: Any = self.claims
        for name in names:
            if not isinstance(value, Mapping) or name not in value:
                raise _no_claim(".".join(names))
            value = value[name]
        return value

    def moment(self, name: str) -> datetime:
        """Return a claimed time."""
        try:
            return datetime.fromisoformat(str(self.claim(name)))
        except ValueError as error:
            raise _no_claim(name) from error

    def request(self, model: str, *, seed: int | None, asked: GenerationRequest | None) -> GenerationRequest:
        """Return the request as the statement tells it.

        Parameters
        ----------
        model : str
            Name or folder of the bundle that is used.
        seed : int or None
            Another one than the attested.
        asked : GenerationRequest or None
            Request that holds the values that were asked for: a statement holds only their salted digest.
        """
        try:
            return GenerationRequest(
                request_id=self.signed.request_id,
                series_uid=SeriesUid(str(self.claim("source", "seriesUid"))),
                series_digest=str(self.claim("source", "digest")),
                model=model,
                seed=int(self.claim("generation", "seed")) if seed is None else seed,
                guidance=_GUIDANCE.validate_python(self.claim("generation", "guidance")),
                sampler_steps=int(self.claim("generation", "steps")),
                requested_at=self.moment("requestedAt"),
                requested_by=str(self.claim("requestedBy")),
                asked=() if asked is None else asked.asked,
            )
        except (TypeError, ValueError) as error:
            raise _no_claim("generation") from error


def subject_of(
    target: str, settings: Settings, keys: Json, *, key_file: Path | None = None, published: Path | None = None
) -> Subject:
    """Return what a sidecar, a DICOM file or folder, or a request id names, once it has verified.

    Parameters
    ----------
    target : str
        Path, or the id of a request whose job this site keeps.
    keys : mapping
        JWK Set of the trusted keys; `key_file` is where the caller has it from, None: the site's own.
    published : Path or None
        Folder with the published instances, where they lie elsewhere.

    Raises
    ------
    VerificationFailed
        If a claim is false: what does not verify is not replayed.
    RequestInvalid, JobNotFound
        If the target names nothing that can be replayed.
    """
    path = Path(target)
    if not path.exists():
        path = job_folder(settings, target) / SIDECAR_NAME
    if not path.is_file() and not path.is_dir():
        raise JobNotFound(
            found="a target that is no file or folder, and no job of this site that was attested",
            allowed="a sidecar, a DICOM file, a folder, or the whole id of an attested job",
            action="name one of these; for a job of another site, name its sidecar",
        )
    _require_true(path, settings, key_file)
    files = dicom_files(path)
    signed, instances = _from_instance(files[0], keys) if files else _from_sidecar(path, keys)
    beside = path if files else path.parent / "series"
    folders = [published, beside, job_folder(settings, signed.request_id) / "series"]
    at_hand = _published([folder for folder in folders if folder is not None and folder.exists()], signed, keys)
    proven = {uid: _proven(dcmread(file, stop_before_pixels=True)) for uid, file in at_hand.items()}
    return Subject(signed, {**{uid: one for uid, one in proven.items() if one is not None}, **instances}, at_hand)


def job_folder(settings: Settings, request_id: str) -> Path:
    """Return where this site keeps a job's results, whether it is there or not."""
    return settings.storage.folder / "jobs" / Path(request_id).name


def _require_true(path: Path, settings: Settings, key_file: Path | None) -> None:
    report = verify(path, settings=lambda: settings, keys=key_file, offline=True)
    if report.verdict:
        return
    false = ", ".join(f"{claim.name}: {claim.why}" for claim in report.false) or "the signature could not be checked"
    raise VerificationFailed(
        found=f"an attestation that does not verify ({false})",
        allowed="an attestation whose claims are all true",
        action="run `veraicon verify` on it; what does not verify is not replayed",
    )


def _from_sidecar(path: Path, keys: Json) -> tuple[SignedClaims, dict[str, GeneratedInstance]]:
    content = read_json(path)
    if "jws" not in content:
        raise RequestInvalid(
            found=f"{path.name}, which names no generation", allowed="a sidecar or DICOM instances", action="name one of these"
        )
    attestation = parse_sidecar(content, keys)
    signed = from_claims(verified_attestation(content, keys)["statement"])
    return signed, {str(one.sop_instance_uid): one for one in attestation.instances}


def _from_instance(path: Path, keys: Json) -> tuple[SignedClaims, dict[str, GeneratedInstance]]:
    embedded = extract(dcmread(path, stop_before_pixels=True))
    if embedded is None:  # verified above: it carries one
        raise _no_claim("statement")
    return from_claims(verify_jws(embedded.jws, keys, kind=STATEMENT_KIND)), {}


def _published(folders: list[Path], signed: SignedClaims, keys: Json) -> dict[str, Path]:
    """Return the instances of these series that lie in the folders and verify; one that was tampered with proves nothing."""
    ours = {series.series_uid for series in signed.all_series}
    found: dict[str, Path] = {}
    for path in (file for folder in folders for file in dicom_files(folder)):
        ds = dcmread(path)
        if ds.get("SeriesInstanceUID") in ours and str(ds.SOPInstanceUID) not in found and verify_instance(ds, keys).verdict:
            found[str(ds.SOPInstanceUID)] = path
    return found


def _proven(ds: Dataset) -> GeneratedInstance | None:
    embedded = extract(ds)
    return None if embedded is None else embedded.proof.instance


def from_archive(read: Callable[[str], list[Dataset]], subject: Subject, keys: Json) -> dict[str, Dataset]:
    """Return the published instances that an archive holds, each verified, by SOP Instance UID."""
    held = (ds for series in subject.signed.all_series for ds in read(series.series_uid))
    return {str(ds.SOPInstanceUID): ds for ds in held if verify_instance(ds, keys).verdict}


def _no_claim(name: str) -> VerificationFailed:
    return VerificationFailed(
        found=f"a statement that makes no claim of {name!r}, or one of another form",
        allowed="a statement as this version writes it",
        action="replay it with the version of Veraicon that the statement names",
    )
