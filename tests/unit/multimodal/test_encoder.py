from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from domain.clinical import ClinicalFact, Coding
from domain.errors import GenerationError, RequestInvalid, WeightsRejected
from multimodal.concepts import CONCEPTS as TABLE
from multimodal.concepts import MEASUREMENT_SYSTEM
from multimodal.conditioning import (
    MODALITIES,
    ConditioningTokens,
    load_conditioning,
    null_conditioning,
    save_conditioning,
    without_modalities,
)
from multimodal.encoder import PRIOR_IMAGE, EncoderConfig, MultimodalEncoder
from tests.builders_generators import CONCEPTS, card
from tests.unit.multimodal.fakes import FakeSentences, context, fact

_LATENT = (2, 5, 4, 4)
_REGIONS = 2
_NULLS = tuple(f"null:{modality}" for modality in MODALITIES)
_TEXTS = tuple(concept.display for concept in TABLE if concept.kind in CONCEPTS)


@pytest.fixture(scope="module")
def encoder() -> MultimodalEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = MultimodalEncoder(EncoderConfig(CONCEPTS, _LATENT, _TEXTS, other_facts=True, report=True, width=32))
    made.text_vectors.copy_(FakeSentences().embed(_TEXTS))
    made.fit_scale(torch.tensor([1700.0, 1600.0, 3300.0]), torch.tensor([300.0, 230.0, 430.0]))
    return made.eval().requires_grad_(False)


def _asked(value: float, kind: str = CONCEPTS[2], unit: str = "mm3") -> ClinicalFact:
    return ClinicalFact((Coding(MEASUREMENT_SYSTEM, kind),), kind, value, unit, None, "request")


def _encode(
    encoder: MultimodalEncoder, *asked: ClinicalFact, known: tuple[ClinicalFact, ...] = (), prior: torch.Tensor | None = None
) -> ConditioningTokens:
    return encoder.encode(context(*known), asked, prior, card(), sentences=FakeSentences())


def _present(tokens: ConditioningTokens) -> list[str]:
    return [kind for kind, there in zip(tokens.kinds, tokens.mask[0].tolist(), strict=True) if there]


def test_what_is_missing_is_masked_named_and_stood_in_for_by_its_modality(encoder: MultimodalEncoder) -> None:
    tokens = _encode(encoder, _asked(3.1, unit="cm3"))
    assert tokens.kinds == (*CONCEPTS, *(PRIOR_IMAGE,) * _REGIONS, *_NULLS)
    assert len(tokens.modalities) == len(tokens.kinds) == tokens.tokens.shape[1]
    assert _present(tokens) == ["hippocampus-volume", "null:demographics", "null:report", "null:prior-image"]
    assert tokens.record.used == ("hippocampus-volume",)
    assert tokens.record.targets == (("hippocampus-volume", pytest.approx(3100), "mm3"),)
    assert tokens.record.missing == (*CONCEPTS[:2], "other-facts", "report", PRIOR_IMAGE)


def test_a_modality_that_is_known_has_no_null_token(encoder: MultimodalEncoder) -> None:
    report = fact("Atrophy.", text="MR head", reference="DiagnosticReport/1")
    tokens = _encode(encoder, _asked(3100.0), known=(report,), prior=torch.zeros(_LATENT))
    assert _present(tokens) == ["hippocampus-volume", "report", PRIOR_IMAGE, PRIOR_IMAGE, "null:demographics"]
    assert _present(_encode(encoder)) == list(_NULLS)


def test_what_is_masked_does_not_reach_a_token_that_is_there(encoder: MultimodalEncoder) -> None:
    alone = _encode(encoder, _asked(3100.0))
    beside = _encode(encoder, _asked(3100.0), known=(fact(None, text="Diabetes mellitus"),), prior=torch.ones(_LATENT))
    torch.testing.assert_close(alone.tokens[0, 2], beside.tokens[0, 2], rtol=0, atol=1e-5)


def test_near_values_give_near_tokens_and_far_ones_do_not(encoder: MultimodalEncoder) -> None:
    def token(value: float) -> torch.Tensor:
        return _encode(encoder, _asked(value)).tokens[0, 2]

    near, far = (token(3300) - token(3350)).norm(), (token(3300) - token(4000)).norm()
    assert 0 < near < 0.35 * far


def test_other_facts_and_prior_images_tell_by_what_they_hold(encoder: MultimodalEncoder) -> None:
    one, same, other = (_encode(encoder, known=(fact(None, text=text),)).tokens[0, 3] for text in ("Gout", "Gout", "Epilepsy"))
    assert torch.equal(one, same)
    assert (one - other).norm() > 0.1
    denied = _encode(encoder, known=(fact(False, text="Gout", negated=True),)).tokens[0, 3]
    assert (one - denied).norm() > 0.1
    first, second = (_encode(encoder, prior=torch.full(_LATENT, value)).tokens[0, 3:5] for value in (0.0, 1.0))
    assert (first - second).norm(dim=1).min() > 0.1


def test_a_value_outside_the_trained_range_is_refused_without_repeating_it(encoder: MultimodalEncoder) -> None:
    with pytest.raises(RequestInvalid, match="outside the range") as refused:
        _encode(encoder, _asked(9100.25))
    assert "9100" not in str(refused.value), "an error may not repeat a patient's value"


def test_texts_that_come_with_the_weights_need_no_sentence_encoder(encoder: MultimodalEncoder) -> None:
    class Absent(FakeSentences):
        def _vector(self, text: str) -> torch.Tensor:
            return self._known[text]

    tokens = encoder.encode(context(), (_asked(3100.0),), None, card(), sentences=Absent())
    assert torch.equal(tokens.tokens, _encode(encoder, _asked(3100.0)).tokens)


def test_weights_and_sizes_give_the_same_encoder_and_those_of_another_are_refused(encoder: MultimodalEncoder) -> None:
    state, sizes = dict(encoder.state_dict()), json.loads(json.dumps(encoder.sizes))
    again = MultimodalEncoder.from_state(state, sizes, card())
    assert torch.equal(_encode(again, _asked(3100.0)).tokens, _encode(encoder, _asked(3100.0)).tokens)
    without = {name: tensor for name, tensor in state.items() if name != "null_tokens"}
    for broken in ({**state, "extra": torch.zeros(1)}, without):
        with pytest.raises(WeightsRejected):
            MultimodalEncoder.from_state(broken, sizes, card())
    for wrong in ({**sizes, "width": 16}, {**sizes, "more": 1}, {"width": 32}):
        with pytest.raises(WeightsRejected):
            MultimodalEncoder.from_state(state, wrong, card())
    with pytest.raises(WeightsRejected):
        MultimodalEncoder.from_state(state, sizes, card(concepts=card().concepts[:2]))


def test_dropping_a_modality_leaves_its_null_token_and_the_others_as_they_are(encoder: MultimodalEncoder) -> None:
    tokens = _encode(encoder, _asked(3100.0), prior=torch.zeros(_LATENT))
    dropped = without_modalities(tokens.mask, tokens.kinds, tokens.modalities, ["prior-image"])
    left = [kind for kind, there in zip(tokens.kinds, dropped[0].tolist(), strict=True) if there]
    assert left == ["hippocampus-volume", "null:demographics", "null:report", "null:prior-image"]
    nothing = null_conditioning(tokens)
    assert _present(nothing) == list(_NULLS)
    assert (nothing.record.targets, nothing.record.used) == ((), ())


def test_tokens_come_back_from_a_file_as_they_were(encoder: MultimodalEncoder, tmp_path: Path) -> None:
    tokens = _encode(encoder, _asked(3100.0), prior=torch.zeros(_LATENT))
    save_conditioning(tokens, tmp_path / "tokens")
    again = load_conditioning(tmp_path / "tokens")
    assert torch.equal(again.tokens, tokens.tokens)
    assert torch.equal(again.mask, tokens.mask)
    assert (again.kinds, again.modalities, again.record) == (tokens.kinds, tokens.modalities, tokens.record)


def test_a_broken_token_file_is_said_to_be_broken(tmp_path: Path) -> None:
    path = tmp_path / "tokens.safetensors"
    with pytest.raises(GenerationError):
        load_conditioning(path)
    path.write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(GenerationError):
        load_conditioning(path)
