from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from domain.clinical import ClinicalContext, ClinicalFact, Coding
from domain.errors import GenerationError, RequestInvalid, UnsupportedSeries, WeightsRejected
from domain.volume import Volume
from multimodal.concepts import MEASUREMENT_SYSTEM
from multimodal.conditioning import load_conditioning
from multimodal.encoder import PRIOR_IMAGE, EncoderConfig, MultimodalEncoder
from tests.builders_generators import CONCEPTS, GRID, card

_DAY = datetime(2026, 1, 1, tzinfo=UTC)
_NOBODY = ClinicalContext("", None, None, _DAY, (), "")


@pytest.fixture(scope="module")
def encoder() -> MultimodalEncoder:
    torch.manual_seed(1)
    made = MultimodalEncoder(EncoderConfig(CONCEPTS, GRID, 32))
    made.fit_values(torch.tensor([1700.0, 1600.0, 3300.0]), torch.tensor([300.0, 230.0, 430.0]))
    return made.eval()


def _asked(value: float, kind: str = CONCEPTS[2], unit: str = "mm3") -> ClinicalFact:
    return ClinicalFact((Coding(MEASUREMENT_SYSTEM, kind),), kind, value, unit, None, "request")


def _image(affine: np.ndarray | None = None) -> Volume:
    array = np.random.default_rng(0).random((10, 12, 9), np.float32)
    return Volume(array, np.eye(4)[[2, 1, 0, 3]] if affine is None else affine, "", "MR")


def test_what_is_missing_is_masked_and_named(encoder: MultimodalEncoder) -> None:
    tokens = encoder.encode(_NOBODY, (_asked(3.1, unit="cm3"),), None, card())
    present = [kind for kind, there in zip(tokens.kinds, tokens.mask[0].tolist(), strict=True) if there]
    assert present == ["hippocampus-volume"]
    assert tokens.record.used == ("hippocampus-volume",)
    assert tokens.record.targets == (("hippocampus-volume", pytest.approx(3100), "mm3"),)
    assert tokens.record.missing == (*CONCEPTS[:2], PRIOR_IMAGE)
    assert tokens.tokens.shape == (1, len(tokens.kinds), 32)


def test_an_image_gives_the_same_tokens_in_any_axes(encoder: MultimodalEncoder) -> None:
    image = _image()
    sagittal = Volume(np.flip(image.array.transpose(2, 0, 1), 1).copy(), image.affine_lps[:, [2, 0, 1, 3]].copy(), "", "MR")
    sagittal.affine_lps[:3, 3] = sagittal.affine_lps[:3, 1] * (sagittal.shape[1] - 1)
    sagittal.affine_lps[:3, 1] *= -1
    first, again = (encoder.encode(_NOBODY, (), one, card()) for one in (image, sagittal))
    assert torch.equal(first.tokens, again.tokens)
    assert first.record.used == (PRIOR_IMAGE,)


def test_intensity_scale_of_a_scanner_does_not_matter(encoder: MultimodalEncoder) -> None:
    image = _image()
    brighter = Volume(image.array * 700 + 40, image.affine_lps, "", "MR")
    first, again = (encoder.encode(_NOBODY, (), one, card()).tokens for one in (image, brighter))
    torch.testing.assert_close(first, again, rtol=0, atol=1e-4)


def test_near_values_give_near_tokens_and_far_ones_do_not(encoder: MultimodalEncoder) -> None:
    def token(value: float) -> torch.Tensor:
        return encoder.encode(_NOBODY, (_asked(value),), None, card()).tokens[0, 2]

    near, far = (token(3300) - token(3350)).norm(), (token(3300) - token(4000)).norm()
    assert 0 < near < 0.35 * far


def test_values_and_images_that_the_model_was_not_trained_on_are_refused(encoder: MultimodalEncoder) -> None:
    with pytest.raises(RequestInvalid, match="outside the range") as refused:
        encoder.encode(_NOBODY, (_asked(9100.25),), None, card())
    assert "9100" not in str(refused.value), "an error may not repeat a patient's value"
    with pytest.raises(UnsupportedSeries):
        encoder.encode(_NOBODY, (), Volume(_image().array, np.diag([3.0, 3.0, 3.0, 1.0]), "", "MR"), card())


def test_weights_of_another_encoder_are_refused(encoder: MultimodalEncoder) -> None:
    state = dict(encoder.state_dict())
    again = MultimodalEncoder.from_state(state, card())
    assert torch.equal(again.clinical.value_mean, encoder.clinical.value_mean)
    for harm in ("unknown", "missing"):
        broken = {**state, "extra": torch.zeros(1)} if harm == "unknown" else {k: v for k, v in state.items() if k != "grid"}
        with pytest.raises(WeightsRejected):
            MultimodalEncoder.from_state(broken, card())
    with pytest.raises(WeightsRejected):
        MultimodalEncoder.from_state(state, card(concepts=card().concepts[:2]))


def test_a_broken_token_file_is_said_to_be_broken(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "tokens.safetensors"
    with pytest.raises(GenerationError):
        load_conditioning(path)
    path.write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(GenerationError):
        load_conditioning(path)
