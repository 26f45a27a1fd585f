"""The instances of a series as a Merkle tree: the statement holds its root, each instance its own way to it.

So a statement stays small however long the series is, and one instance shows by itself that it belongs to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domain.errors import AttestationError, VerificationFailed
from domain.identifiers import InstanceUid
from domain.series import GeneratedInstance
from provenance.canonical import canonical_json, require_digest
from provenance.digesting.merkle import HASH_BYTES, Node, inclusion_path, leaf_hash, nodes_of, root_of_inclusion, tree_root

# Two hashes a level; no series has 2**32 instances.
_MAX_PATH = 64
_ENTRY_NAMES = {"sopClassUid", "sopInstanceUid", "pixelDigest", "datasetDigest"}


@dataclass(frozen=True, slots=True)
class InstanceProof:
    """That an instance stands in the tree of its series.

    Attributes
    ----------
    instance : GeneratedInstance
        What its leaf holds.
    leaf : int
        Number of the leaf, counted from 0.
    path : tuple of bytes
        Audit path to the root, nearest sibling first (RFC 6962 section 2.1.1).
    """

    instance: GeneratedInstance
    leaf: int
    path: tuple[bytes, ...]

    def to_text(self) -> str:
        """Return the proof as canonical JSON, ASCII."""
        content = {"entry": instance_entry(self.instance), "leaf": self.leaf, "path": [one.hex() for one in self.path]}
        return canonical_json(content).decode("ascii")


class SeriesTree:
    """The tree over the instances of one series, in their order.

    Parameters
    ----------
    instances : sequence of GeneratedInstance

    Raises
    ------
    AttestationError
        If a digest has another form.
    """

    def __init__(self, instances: Sequence[GeneratedInstance]) -> None:
        self._instances = tuple(instances)
        self._node: Node = nodes_of([leaf_hash(canonical_json(instance_entry(one))) for one in self._instances])

    @property
    def count(self) -> int:
        """Number of leaves."""
        return len(self._instances)

    @property
    def root(self) -> str:
        """``sha256:`` and the hex root."""
        return f"sha256:{tree_root(self.count, self._node).hex()}"

    def proofs(self) -> list[InstanceProof]:
        """Return the proof of every instance, in order."""
        return [
            InstanceProof(instance, leaf, inclusion_path(leaf, self.count, self._node))
            for leaf, instance in enumerate(self._instances)
        ]


def instance_entry(instance: GeneratedInstance) -> dict[str, str | None]:
    """Return the JSON of a leaf; its canonical form is what is hashed.

    Raises
    ------
    AttestationError
        If a digest has another form.
    """
    return {
        "sopClassUid": instance.sop_class_uid,
        "sopInstanceUid": instance.sop_instance_uid,
        "pixelDigest": None if instance.pixel_digest is None else require_digest(instance.pixel_digest),
        "datasetDigest": require_digest(instance.dataset_digest),
    }


def instances_from(entries: Iterable[Mapping[str, Any]]) -> tuple[GeneratedInstance, ...]:
    """Return the instances of a list of entries.

    Raises
    ------
    VerificationFailed
        If one of them is no entry of a leaf.
    """
    return tuple(_instance_from(one) for one in entries)


def parse_proof(text: str) -> InstanceProof:
    """Return the proof in a text of `InstanceProof.to_text`.

    Raises
    ------
    VerificationFailed
        If the text is anything but the canonical form of a proof: nothing else may stand there.
    """
    try:
        content = json.loads(text)
        proof = InstanceProof(_instance_from(content["entry"]), content["leaf"], tuple(map(bytes.fromhex, content["path"])))
        if type(proof.leaf) is not int or len(proof.path) > _MAX_PATH or any(len(one) != HASH_BYTES for one in proof.path):
            raise ValueError("leaf or path")
        whole = proof.to_text() == text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, AttestationError) as error:
        raise _no_proof("a proof of another form") from error
    if not whole:
        raise _no_proof("a proof that is not in canonical form, or says more than a proof")
    return proof


def require_in_tree(proof: InstanceProof, count: int, root: str) -> None:
    """Check that a proof leads to the root of a series.

    Raises
    ------
    VerificationFailed
        If it does not.
    """
    leaf = leaf_hash(canonical_json(instance_entry(proof.instance)))
    if f"sha256:{root_of_inclusion(leaf, proof.leaf, count, proof.path).hex()}" != root:
        raise _no_proof("an instance whose proof does not lead to the signed root of the series")


def _instance_from(entry: Mapping[str, Any]) -> GeneratedInstance:
    try:
        if set(entry) != _ENTRY_NAMES:
            raise ValueError("names")
        return GeneratedInstance(
            sop_class_uid=str(entry["sopClassUid"]),
            sop_instance_uid=InstanceUid(str(entry["sopInstanceUid"])),
            pixel_digest=None if entry["pixelDigest"] is None else require_digest(entry["pixelDigest"]),
            dataset_digest=require_digest(entry["datasetDigest"]),
        )
    except (ValueError, TypeError, AttestationError) as error:
        raise _no_proof("an entry that is not of four members, UIDs and digests") from error


def _no_proof(found: str) -> VerificationFailed:
    return VerificationFailed(
        found=found,
        allowed="the proof of this instance in the tree of its series",
        action="do not trust the instance; ask the sender for the instance as it was published",
    )
