"""A version of a data set as the JSON that is signed, and the file that carries it with its signature and its log proof.

The signed manifest names each series by the number of its instances and the root of the tree over them
(`provenance.digesting.series_tree`); the file lists the instances beside it, and the roots bind them to the signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from domain.dataset import DatasetManifest, ListedSeries, Member, MemberKind, Origin, Split, leaks
from domain.errors import AttestationError, VerificationFailed
from domain.generation import ModelIdentity
from domain.identifiers import SeriesUid, StudyUid
from domain.series import GeneratedInstance
from provenance.canonical import canonical_json, instant, json_digest, require_digest, sha256_digest, to_base64url
from provenance.digesting.series_tree import SeriesTree, instance_entry, instances_from
from provenance.log_proof import DATASET_ENTRY, LogProof, proof_to_json, require_logged
from provenance.signatures.keyring import require_valid_at
from provenance.signing import DATASET_KIND, SigningKey, key_id_of, verify_detached

MANIFEST_VERSION = "veraicon-dataset/1"
FILE_VERSION = "veraicon-dataset-file/1"
SPLIT_RULE = "first 8 bytes of sha256 of canonical JSON [seed, subject], over 2**64, against the cumulated fractions"

_FILE_NAMES = {"version", "manifest", "instances", "signature", "log"}


@dataclass(frozen=True, slots=True)
class VerifiedDataset:
    """A data set version whose signature, log proof, instances and split were checked."""

    manifest: DatasetManifest
    digest: str
    kid: str
    proof: LogProof


def manifest_to_json(manifest: DatasetManifest) -> dict[str, Any]:
    """Return the manifest as JSON; its canonical form is what is digested and signed.

    Raises
    ------
    AttestationError
        If a digest has another form, or a time has no zone.
    """
    split = manifest.split
    return {
        "version": MANIFEST_VERSION,
        "name": manifest.name,
        "number": manifest.number,
        "createdAt": instant(manifest.created_at),
        "softwareVersion": manifest.software_version,
        "split": split and {"rule": SPLIT_RULE, "seed": split.seed, "fractions": [list(one) for one in split.fractions]},
        "members": [_member_to_json(member) for member in manifest.members],
    }


def manifest_digest(manifest: DatasetManifest) -> str:
    """Return the identity of a version: ``sha256:`` over the canonical manifest."""
    return json_digest(manifest_to_json(manifest))


def content_digest(manifest: DatasetManifest) -> str:
    """Return the digest of what is in a version, whatever its number and time: the same members and split give the same."""
    content = manifest_to_json(manifest)
    return json_digest({name: content[name] for name in ("name", "split", "members")})


def dataset_file(manifest: DatasetManifest, jws: str, proof: LogProof | None) -> dict[str, Any]:
    """Return the content of the file of a version.

    Parameters
    ----------
    jws : str
        Compact JWS of `sign_manifest`; the file holds it without its payload, which stands beside it for people to read.
    proof : LogProof or None
        That the JWS is in the transparency log; None: it is not yet, and such a file does not verify.
    """
    header, _, signature = jws.split(".")
    return {
        "version": FILE_VERSION,
        "manifest": manifest_to_json(manifest),
        "instances": {one.series_uid: [instance_entry(i) for i in one.instances] for m in manifest.members for one in m.series},
        "signature": f"{header}..{signature}",
        "log": proof_to_json(proof) if proof else None,
    }


def sign_manifest(manifest: DatasetManifest, key: SigningKey) -> str:
    """Return the compact JWS of a manifest.

    Raises
    ------
    AttestationError
        If a person's images could be in two parts: such a version is never signed.
    """
    found = leaks(manifest)
    if found:
        raise AttestationError(
            found=f"a split that leaks: {found[0]}", allowed="each subject in one part", action="create the version again"
        )
    return key.sign(manifest_to_json(manifest), kind=DATASET_KIND)


def jws_of(content: Mapping[str, Any]) -> str:
    """Return the compact JWS of a file, whole again; not verified."""
    head, _, tail = str(content["signature"]).split(".")
    return f"{head}.{to_base64url(canonical_json(content['manifest']))}.{tail}"


def read_dataset_file(content: object, keys: Mapping[str, Any]) -> VerifiedDataset:
    """Return the version in a file, if everything that can be checked without its images holds.

    Raises
    ------
    VerificationFailed
        If the signature, the key at its time, the log proof, the list of instances or the split does not hold.
    """
    if not isinstance(content, Mapping) or set(content) != _FILE_NAMES or content["version"] != FILE_VERSION:
        raise _untrue("no data set file of this version")
    manifest, signature = content["manifest"], content["signature"]
    if not isinstance(manifest, Mapping) or not isinstance(signature, str):
        raise _untrue("a data set file without manifest or signature")
    verify_detached(signature, manifest, keys, kind=DATASET_KIND)
    jws = jws_of(content)
    proof = require_logged(content["log"], sha256_digest(jws.encode("ascii")), DATASET_ENTRY, keys)
    require_valid_at(key_id_of(jws), keys, proof.logged_at)
    parsed = manifest_from_json(manifest, content["instances"])
    found = leaks(parsed)
    if found:
        raise _untrue(f"a split that leaks: {found[0]}")
    return VerifiedDataset(parsed, json_digest(manifest), key_id_of(jws), proof)


def manifest_from_json(manifest: Mapping[str, Any], instances: object) -> DatasetManifest:
    """Return the manifest with its instances.

    Parameters
    ----------
    manifest : mapping
        JSON of `manifest_to_json`.
    instances : object
        Entries of each series by its UID; they have to lead to the roots in the manifest.

    Raises
    ------
    VerificationFailed
        If it is no manifest of this version, or an instance is missing, added or changed.
    """
    try:
        if manifest["version"] != MANIFEST_VERSION or not isinstance(instances, Mapping):
            raise ValueError("version")
        split = manifest["split"]
        parsed = DatasetManifest(
            name=str(manifest["name"]),
            number=int(manifest["number"]),
            created_at=datetime.fromisoformat(manifest["createdAt"]),
            software_version=str(manifest["softwareVersion"]),
            split=split and Split(int(split["seed"]), tuple((str(name), float(share)) for name, share in split["fractions"])),
            members=tuple(_member_from_json(one, instances) for one in manifest["members"]),
        )
        whole = canonical_json(manifest_to_json(parsed)) == canonical_json(manifest)
    except (KeyError, TypeError, ValueError, AttributeError, AttestationError) as error:
        raise _untrue("a manifest of another form") from error
    if not whole or set(instances) != {one.series_uid for member in parsed.members for one in member.series}:
        raise _untrue("a manifest that says more or less than this version knows, or instances of other series")
    return parsed


def _member_to_json(member: Member) -> dict[str, Any]:
    origin = member.origin
    return {
        "kind": member.kind.value,
        "subject": require_digest(member.subject),
        "part": member.part,
        "licence": member.licence,
        "series": [
            {
                "studyUid": one.study_uid,
                "seriesUid": one.series_uid,
                "modality": one.modality,
                "instances": {"count": len(one.instances), "root": SeriesTree(one.instances).root},
            }
            for one in member.series
        ],
        "origin": origin and _origin_to_json(origin),
    }


def _origin_to_json(origin: Origin) -> dict[str, Any]:
    model = origin.model
    return {
        "requestId": origin.request_id,
        "source": {"studyUid": origin.source_study_uid, "seriesUid": origin.source_series_uid},
        "model": {
            "name": model.name,
            "version": model.version,
            "weightsDigest": require_digest(model.weights_digest),
            "cardDigest": require_digest(model.card_digest),
            "licence": model.licence,
        },
        "conditioning": {"targets": list(origin.targets), "used": list(origin.used), "missing": list(origin.missing)},
        "attestation": require_digest(origin.attestation),
    }


def _member_from_json(content: Mapping[str, Any], instances: Mapping[str, Any]) -> Member:
    origin = content["origin"]
    return Member(
        kind=MemberKind(content["kind"]),
        subject=str(content["subject"]),
        part=str(content["part"]),
        licence=str(content["licence"]),
        series=tuple(_series_from_json(one, instances) for one in content["series"]),
        origin=origin and _origin_from_json(origin),
    )


def _series_from_json(content: Mapping[str, Any], instances: Mapping[str, Any]) -> ListedSeries:
    uid = str(content["seriesUid"])
    listed: tuple[GeneratedInstance, ...] = instances_from(instances[uid])
    tree = SeriesTree(listed)
    if not listed or {"count": tree.count, "root": tree.root} != dict(content["instances"]):
        raise _untrue(f"a list of instances of series {uid} that is not the signed one")
    return ListedSeries(StudyUid(str(content["studyUid"])), SeriesUid(uid), str(content["modality"]), listed)


def _origin_from_json(content: Mapping[str, Any]) -> Origin:
    model, conditioning = content["model"], content["conditioning"]
    names = ("name", "version", "weightsDigest", "cardDigest", "licence")
    return Origin(
        request_id=str(content["requestId"]),
        source_study_uid=StudyUid(str(content["source"]["studyUid"])),
        source_series_uid=SeriesUid(str(content["source"]["seriesUid"])),
        model=ModelIdentity(*(str(model[name]) for name in names)),
        targets=tuple(map(str, conditioning["targets"])),
        used=tuple(map(str, conditioning["used"])),
        missing=tuple(map(str, conditioning["missing"])),
        attestation=str(content["attestation"]),
    )


def _untrue(found: str) -> VerificationFailed:
    return VerificationFailed(
        found=found,
        allowed=f"a {FILE_VERSION} object as it was signed",
        action="ask for the file of the version as it was created, and check that the trusted keys are its maker's",
    )
