"""Merkle trees against the published vectors of RFC 6962's reference and against the definition itself."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import VerificationFailed
from provenance.digesting.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_path,
    inclusion_path,
    leaf_hash,
    nodes_of,
    require_consistent,
    root_of_inclusion,
    tree_root,
)

# The eight entries that the reference implementation of Certificate Transparency tests with, and the roots it states.
ENTRIES = [bytes.fromhex(one) for one in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")] + [
    bytes.fromhex("606162636465666768696a6b6c6d6e6f")
]
ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
LEAVES = [leaf_hash(str(number).encode()) for number in range(70)]


def defined_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + defined_root(leaves[:k]) + defined_root(leaves[k:])).digest()


@pytest.mark.parametrize(("size", "root"), ROOTS.items())
def test_roots_are_those_of_the_reference(size: int, root: str) -> None:
    leaves = [leaf_hash(entry) for entry in ENTRIES[:size]]
    assert tree_root(size, nodes_of(leaves)).hex() == root


def test_an_empty_tree_has_the_hash_of_nothing() -> None:
    assert tree_root(0, nodes_of([])) == EMPTY_ROOT == defined_root([])


@given(st.data())
def test_every_leaf_of_every_tree_is_shown_to_be_in_it_and_no_other_is(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(LEAVES)))
    index = data.draw(st.integers(0, size - 1))
    node = nodes_of(LEAVES)
    path = inclusion_path(index, size, node)
    root = defined_root(LEAVES[:size])
    assert root_of_inclusion(LEAVES[index], index, size, path) == root
    other = data.draw(st.integers(0, size - 1).filter(lambda one: one != index)) if size > 1 else None
    if other is not None:
        with contextlib.suppress(VerificationFailed):  # where the path has not even the right length
            assert root_of_inclusion(LEAVES[index], other, size, path) != root


@given(st.data())
def test_a_later_tree_is_shown_to_go_on_from_an_earlier_one_and_a_rewritten_one_is_not(data: st.DataObject) -> None:
    second = data.draw(st.integers(1, len(LEAVES)))
    first = data.draw(st.integers(0, second))
    path = consistency_path(first, second, nodes_of(LEAVES))
    early, late = defined_root(LEAVES[:first]), defined_root(LEAVES[:second])
    require_consistent(first, early, second, late, path)
    if first:
        changed = list(LEAVES)
        changed[data.draw(st.integers(0, first - 1))] = leaf_hash(b"rewritten")
        with pytest.raises(VerificationFailed):
            require_consistent(
                first, early, second, defined_root(changed[:second]), consistency_path(first, second, nodes_of(changed))
            )


@given(st.integers(2, 70), st.data())
def test_a_proof_that_is_cut_longer_or_changed_shows_nothing(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    path = list(inclusion_path(index, size, nodes_of(LEAVES)))
    root = defined_root(LEAVES[:size])
    place = data.draw(st.integers(0, len(path) - 1))
    broken = data.draw(st.sampled_from(["cut", "longer", "changed", "short hash"]))
    if broken == "cut":
        del path[place]
    elif broken == "longer":
        path.insert(place, LEAVES[0])
    elif broken == "changed":
        path[place] = leaf_hash(path[place])
    else:
        path[place] = path[place][:-1]
    try:
        found = root_of_inclusion(LEAVES[index], index, size, path)
    except VerificationFailed:
        return
    assert found != root


@pytest.mark.parametrize(("index", "size"), [(-1, 4), (4, 4), (0, 0)])
def test_a_leaf_outside_its_tree_is_refused(index: int, size: int) -> None:
    with pytest.raises(VerificationFailed, match="outside its tree"):
        root_of_inclusion(LEAVES[0], index, size, ())


def test_a_log_that_shrank_or_has_two_roots_of_one_size_is_refused() -> None:
    one, two = defined_root(LEAVES[:3]), defined_root(LEAVES[1:4])
    with pytest.raises(VerificationFailed, match="smaller"):
        require_consistent(4, defined_root(LEAVES[:4]), 3, one, ())
    with pytest.raises(VerificationFailed, match="two roots"):
        require_consistent(3, one, 3, two, ())


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 7, 8, 13, 16])
def test_a_tree_goes_on_from_its_last_leaf_alone(size: int) -> None:
    leaves = [leaf_hash(bytes([place])) for place in range(20)]
    node = nodes_of(leaves)
    frontier = Frontier.after(leaves[size - 1], size, inclusion_path(size - 1, size, node))
    assert frontier.root == tree_root(size, node)
    for place in range(size, 20):
        frontier.add(leaves[place])
        assert frontier.root == tree_root(place + 1, node)
    with pytest.raises(VerificationFailed, match="last leaf"):
        Frontier.after(leaves[size - 1], size, [bytes(32)] * 9)
