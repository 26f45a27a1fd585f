"""What the jobs of a site keep of the log: the attestation of each, and the proof that came with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from domain.attestation import Attestation
from domain.errors import RequestInvalid
from provenance.canonical import sha256_digest
from veraicon.pipeline import JobState
from veraicon.publishing import ATTESTATION
from veraicon.transparency.check import KeptProof

_ATTESTED = f"{JobState.ATTESTED.value}{ATTESTATION.suffix}"


def attestations(jobs: Path) -> Iterator[tuple[str, Attestation]]:
    """Yield request id and attestation of each attested job, from the job folders: they are not in the database."""
    for path in sorted(jobs.glob(f"*/{_ATTESTED}")):
        yield path.parent.name, _read(path)


def kept_proofs(jobs: Path) -> Iterator[KeptProof]:
    """Yield what each attested job keeps of the log."""
    for request_id, attestation in attestations(jobs):
        log = attestation.log
        yield KeptProof(f"job {request_id}", digest_of(attestation), int(log.get("index", -1)), str(log.get("head", "")))


def attestation_digest(jobs: Path, request_id: str) -> str:
    """Return the digest under which a job's attestation is logged.

    Raises
    ------
    RequestInvalid
        If the job is not attested.
    """
    path = jobs / request_id / _ATTESTED
    if not path.exists():
        raise RequestInvalid(
            found="a job that is not attested", allowed="an attested job, or a sha256: digest", action="see `veraicon job list`"
        )
    return digest_of(_read(path))


def digest_of(attestation: Attestation) -> str:
    """Return the digest under which an attestation is logged."""
    return sha256_digest(attestation.jws.encode("ascii"))


def _read(path: Path) -> Attestation:
    try:
        return ATTESTATION.read(path)
    except ValueError as error:
        raise RequestInvalid(
            found=f"jobs/{path.parent.name}/{path.name}, which is no attestation of this version",
            allowed="a file as the job wrote it",
            action="restore it from a copy; one that an older version wrote has no entry in the log: move the folder away",
        ) from error
