from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from domain.errors import AttestationError, VerificationFailed
from provenance.as_dicom import PRIVATE_CREATOR, PRIVATE_GROUP, embed, embed_series, extract
from provenance.digesting.series_tree import SeriesTree
from provenance.signing import SigningKey
from tests.builders_provenance import make_instance, make_series, through_file

KEY = SigningKey.generate()
JWS = KEY.sign({"a": "x" * 70_000}, kind="test")  # longer than the 16-bit lengths of short VRs
PROOF = SeriesTree(make_series([make_instance("request-1", number) for number in (1, 2)]).instances).proofs()[0]


@pytest.fixture
def signed() -> Dataset:
    return embed(make_instance("request-1", 1), JWS, "Provenance/1", PROOF)


@pytest.mark.requirement("PROV-DICOM-001")
def test_what_was_embedded_is_read_back_also_where_its_vrs_were_lost(signed: Dataset) -> None:
    for ds in (signed, through_file(copy.deepcopy(signed)), through_file(copy.deepcopy(signed), ImplicitVRLittleEndian)):
        found = extract(ds)
        assert found is not None
        assert (found.jws, found.provenance_reference, found.key_id) == (JWS, "Provenance/1", KEY.kid)
        assert found.proof == PROOF


def test_embedding_again_replaces_the_block(signed: Dataset) -> None:
    other = KEY.sign({"a": 2}, kind="test")
    found = extract(embed(signed, other, "Provenance/2", PROOF))
    assert found is not None
    assert found.jws == other


def test_embedding_into_a_copy_leaves_the_original_alone(signed: Dataset) -> None:
    """pydicom's copy keeps a cached block that writes into the original."""
    embed(copy.deepcopy(signed), KEY.sign({"a": 2}, kind="test"), "Provenance/2", PROOF)
    found = extract(signed)
    assert found is not None
    assert (found.jws, found.provenance_reference) == (JWS, "Provenance/1")


@pytest.mark.requirement("PROV-DICOM-001")
def test_the_block_stands_beside_the_block_of_somebody_else() -> None:
    ds = make_instance("request-1", 1)
    ds.private_block(PRIVATE_GROUP, "SOMEBODY ELSE", create=True).add_new(0x02, "LO", "theirs")
    found = extract(through_file(embed(ds, JWS, "Provenance/1", PROOF)))
    assert found is not None
    assert found.jws == JWS
    assert ds.private_block(PRIVATE_GROUP, "SOMEBODY ELSE")[0x02].value == "theirs"


def test_an_instance_without_our_block_says_so() -> None:
    assert extract(make_instance("request-1", 1)) is None


def test_refuses_what_is_no_jws() -> None:
    with pytest.raises(AttestationError):
        embed(make_instance("request-1", 1), "not a jws", "Provenance/1", PROOF)


@pytest.mark.requirement("PROV-DICOM-001")
def test_nothing_can_hide_in_the_block(signed: Dataset) -> None:
    """The attributes' digest does not see the block, so it may hold nothing that we do not write."""
    signed.private_block(PRIVATE_GROUP, PRIVATE_CREATOR).add_new(0x06, "LT", "hidden")
    with pytest.raises(VerificationFailed):
        extract(signed)


def test_a_second_block_of_ours_is_refused(signed: Dataset) -> None:
    signed.add_new((PRIVATE_GROUP, 0x0011), "LO", PRIVATE_CREATOR)
    with pytest.raises(VerificationFailed):
        extract(signed)


def test_an_incomplete_block_and_one_of_another_version_are_refused(signed: Dataset) -> None:
    other = copy.deepcopy(signed)
    other[PRIVATE_GROUP, 0x1001].value = "veraicon-block/9"
    del signed[PRIVATE_GROUP, 0x1003]
    for ds in (signed, other):
        with pytest.raises(VerificationFailed):
            extract(ds)


@pytest.mark.requirement("PROV-DICOM-001")
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(":", ": "),
        lambda text: text.replace('"leaf":0', '"hidden":"x","leaf":0'),
        lambda text: text.replace('"leaf":0', '"leaf":true'),
        lambda text: text[:-1],
        lambda text: text.replace('"path":[', '"path":["00",'),
    ],
)
def test_nothing_can_hide_in_the_proof(signed: Dataset, change: Callable[[str], str]) -> None:
    signed[PRIVATE_GROUP, 0x1005].value = change(PROOF.to_text())
    with pytest.raises(VerificationFailed):
        extract(signed)


@pytest.mark.requirement("PROV-DICOM-001")
def test_a_statement_is_embedded_only_into_the_instances_of_its_series() -> None:
    datasets = [make_instance("request-1", number) for number in (1, 2)]
    series = make_series(datasets)
    with pytest.raises(AttestationError):
        embed_series(datasets[::-1], series, JWS, "Provenance/1")
