"""The signed statement as a private block of each instance, so that the claim travels wherever the pixels go.

The block stands right before Pixel Data and holds text only. A receiver that knows nothing of it keeps it as it is
(PS3.5 section 7.8); one that re-encodes it through Implicit VR turns its elements into UN, which `extract` reads as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from domain.errors import AttestationError, VerificationFailed
from domain.series import GeneratedSeries
from provenance.digesting.series_tree import InstanceProof, SeriesTree, parse_proof
from provenance.signing import key_id_of

# PS3.5 section 7.8.1: odd, none of 0001, 0003, 0005, 0007 and FFFF. The last odd group below Pixel Data (7FE0).
PRIVATE_GROUP = 0x7FDF
PRIVATE_CREATOR = "VERAICON PROVENANCE"
BLOCK_VERSION = "veraicon-block/2"

_VERSION, _STATEMENT, _PROVENANCE, _KEY_ID, _PROOF = 0x01, 0x02, 0x03, 0x04, 0x05
_ELEMENTS = {_VERSION: "LO", _STATEMENT: "UT", _PROVENANCE: "UR", _KEY_ID: "LO", _PROOF: "UT"}


@dataclass(frozen=True, slots=True)
class EmbeddedStatement:
    """What the private block of an instance says.

    Attributes
    ----------
    version : str
        Layout of the block.
    jws : str
        Compact JWS of the `ProvenanceStatement`.
    provenance_reference : str
        Where the FHIR Provenance resource of the series is found.
    key_id : str
        RFC 7638 thumbprint of the key that signed.
    proof : InstanceProof
        What was published of this instance, and its way to the root of its series that the statement holds.
    """

    version: str
    jws: str
    provenance_reference: str
    key_id: str
    proof: InstanceProof


def embed_series(datasets: Sequence[Dataset], series: GeneratedSeries, jws: str, provenance_reference: str) -> list[Dataset]:
    """Put the signed statement into each instance of a series, beside its own proof; return the instances.

    Parameters
    ----------
    datasets : sequence of Dataset
        The instances of `series`, in its order; changed in place.
    series : GeneratedSeries
        As the statement names it.
    jws, provenance_reference : str
        As in `embed`.

    Raises
    ------
    AttestationError
        As `embed`, or if the instances are not those of the series.
    """
    stated = [str(one.sop_instance_uid) for one in series.instances]
    if [str(ds.SOPInstanceUID) for ds in datasets] != stated:
        raise AttestationError(
            found="instances that are not those of the series",
            allowed="every instance of the series, in its order",
            action="state the series that was written, then embed the statement",
        )
    proofs = SeriesTree(series.instances).proofs()
    return [embed(ds, jws, provenance_reference, proof) for ds, proof in zip(datasets, proofs, strict=True)]


def embed(ds: Dataset, jws: str, provenance_reference: str, proof: InstanceProof) -> Dataset:
    """Put the signed statement into `ds` and return `ds`; a block of ours that was there is replaced.

    Parameters
    ----------
    ds : Dataset
        An instance of ours; changed in place. `provenance.digests.dataset_digest` does not see the block.
    jws : str
        Compact JWS of the statement.
    provenance_reference : str
        ``Provenance/<id>``.
    proof : InstanceProof
        Of this instance, in the tree whose root the statement holds.

    Raises
    ------
    AttestationError
        If `jws` is no JWS with a key id.

    References
    ----------
    DICOM PS3.5 section 7.8.1: private data element tags.
    """
    key_id = key_id_of(jws)
    if not key_id or not jws.isascii():
        raise AttestationError(
            found="a statement that is no compact JWS with a key id",
            allowed="the text that `statement.sign_statement` returns",
            action="sign the statement, then embed it",
        )
    for tag in block_tags(ds):
        del ds[tag]
    block = ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    values = {_VERSION: BLOCK_VERSION, _STATEMENT: jws, _PROVENANCE: provenance_reference, _KEY_ID: key_id}
    values[_PROOF] = proof.to_text()
    for element, vr in _ELEMENTS.items():
        block.add_new(element, vr, values[element])
    return ds


def extract(ds: Dataset) -> EmbeddedStatement | None:
    """Return what our block in `ds` says, or None where there is no block.

    Raises
    ------
    VerificationFailed
        If the block is doubled, incomplete, of an unknown version or holds anything that we never write: `dataset_digest`
        does not see the block, so nothing else may hide in it.

    Notes
    -----
    Nothing is verified here but the form; `provenance.verification` follows the proof to the signed root.
    """
    tags = block_tags(ds)
    if not tags:
        return None
    creators = [tag for tag in tags if tag.element < 0x100]
    if len(creators) != 1:
        raise _broken(f"{len(creators)} blocks of {PRIVATE_CREATOR}", "one block")
    start = creators[0].element << 8
    found = {tag.element - start: tag for tag in tags if tag not in creators}
    if set(found) != set(_ELEMENTS):
        raise _broken(f"a block with {len(found)} elements", f"exactly the {len(_ELEMENTS)} elements of {BLOCK_VERSION}")
    texts = {element: _text(ds[tag].value) for element, tag in found.items()}
    if texts[_VERSION] != BLOCK_VERSION:
        raise _broken("a block of another version", BLOCK_VERSION)
    proof = parse_proof(texts[_PROOF])
    return EmbeddedStatement(texts[_VERSION], texts[_STATEMENT], texts[_PROVENANCE], texts[_KEY_ID], proof)


def block_vrs(ds: Dataset) -> dict[BaseTag, str]:
    """Return the value representation of each element of our block: a reader without our dictionary makes them unknown."""
    return {tag: _ELEMENTS.get(tag.element & 0xFF, "UN") if tag.element > 0xFF else "LO" for tag in block_tags(ds)}


def block_tags(ds: Dataset) -> tuple[BaseTag, ...]:
    """Return the tags of our block at the top level of `ds`, the private creator included; empty where there is none."""
    in_group = [tag for tag in ds.keys() if tag >> 16 == PRIVATE_GROUP]  # noqa: SIM118 (iterating ds would parse all of it)
    blocks = {tag.element for tag in in_group if 0x10 <= tag.element <= 0xFF and _text(ds[tag].value) == PRIVATE_CREATOR}
    return tuple(Tag(tag) for tag in sorted(in_group) if tag.element in blocks or tag.element >> 8 in blocks)


def _text(value: object) -> str:
    """Text of an element, also where a receiver made it UN: our values are ASCII."""
    if isinstance(value, bytes):
        value = value.decode("ascii", errors="replace")
    return str(value or "").strip(" \0")


def _broken(found: str, allowed: str) -> VerificationFailed:
    return VerificationFailed(
        found=found, allowed=allowed, action="do not trust the instance; ask the sender for the instance as it was published"
    )
