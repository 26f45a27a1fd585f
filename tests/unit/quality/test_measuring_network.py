from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from domain.errors import WeightsRejected
from quality.measured import dice, measure, overlaps
from quality.measuring_network import MeasuringCard, load_measuring_network, read_measuring_card, save_measuring_network
from quality.segmentation import Segmenter, SegmenterShape, segmentation_loss
from quality.segmenter_training import MeasuringStage, altered, train_segmenter, window

_SHAPE = SegmenterShape(labels=2, channels=(8, 16))
_PATCH = (16, 16, 16)
_CARD = MeasuringCard("tiny", "0", "CC0-1.0", "Nobody.", "boxes", ("one", "two"), (("Dice", 0.5),))


def _box(rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A bright box of two halves, at a place and of a length of its own; the halves differ in brightness."""
    labels = torch.zeros(20, 20, 20, dtype=torch.uint8)
    z, y, length = (int(torch.randint(low, high, (), generator=rng)) for low, high in ((3, 8), (3, 8), (4, 10)))
    labels[z : z + 8, y : y + length, 5:10], labels[z : z + 8, y : y + length, 10:15] = 1, 2
    image = torch.where(labels == 1, 0.5, 0.1) + torch.where(labels == 2, 0.8, 0.0)
    return image[None].clamp(0, 1), labels, torch.tensor([20, 20, 20])


def _examples(count: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    return [_box(rng)[:2] for _ in range(count)]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Networks this small are slower on two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network() -> Segmenter:
    return train_segmenter(_box, steps=200, seed=1, shape=_SHAPE, patches=(_PATCH,))


def test_a_segmenter_learns_boxes_and_measures_their_volume(network: Segmenter) -> None:
    examples = _examples(6, 7)
    truth = [labels.numpy() for _, labels in examples]
    found = measure(network, [image[0].numpy() for image, _ in examples], least=(24, 24, 24), voxel_mm3=2.0)
    assert overlaps(found.labels, truth, 2).min() > 0.9
    true_mm3 = np.array([[2.0 * (labels == 1).sum(), 2.0 * (labels == 2).sum(), 2.0 * (labels > 0).sum()] for labels in truth])
    assert np.abs(found.volumes / true_mm3 - 1).max() < 0.15
    assert np.corrcoef(found.volumes[:, 2], true_mm3[:, 2])[0, 1] > 0.98
    assert found.features.shape == (6, 24)


def test_brightness_and_the_grid_around_a_volume_do_not_change_what_is_measured(network: Segmenter) -> None:
    volume = _examples(1, 8)[0][0][0].numpy()
    one, brighter = (measure(network, [image], least=(24, 24, 24)) for image in (volume, 300 * volume + 70))
    np.testing.assert_allclose(one.volumes, brighter.volumes, rtol=1e-4)
    assert one.labels[0].shape == volume.shape


def test_dice_counts_one_label_and_calls_two_empty_maps_equal() -> None:
    a, b = np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 2), np.uint8)
    a[0], b[:, 0] = 1, 1
    assert dice(a, b, 1) == pytest.approx(0.5)
    assert dice(a, b, 2) == 1


def test_a_broken_run_of_the_stage_goes_on_to_the_same_weights() -> None:
    def stage() -> MeasuringStage:
        return MeasuringStage(_box, _examples(2, 3), seed=4, shape=_SHAPE, patches=(_PATCH,))

    whole, first, second = stage(), stage(), stage()
    for step in range(4):
        whole.step(step, 4)
    for step in range(2):
        first.step(step, 4)
    second.restore(first.state())
    for step in range(2, 4):
        second.step(step, 4)
    assert whole.held_out_loss() == second.held_out_loss()
    for name, weights in whole.averaged.state_dict().items():
        assert torch.equal(weights, second.averaged.state_dict()[name]), name


def test_training_lowers_the_held_out_loss() -> None:
    stage = MeasuringStage(_box, _examples(3, 5), seed=6, shape=_SHAPE, patches=(_PATCH,))
    before = stage.held_out_loss()
    for step in range(40):
        stage.step(step, 40)
    assert stage.held_out_loss() < 0.7 * before


def test_the_loss_is_lowest_at_the_truth() -> None:
    _, labels = _examples(1, 2)[0]
    sure = 12.0 * torch.nn.functional.one_hot(labels.long(), 3).movedim(-1, 0)[None].float()
    assert segmentation_loss(sure, labels[None].long()) < 0.01
    assert segmentation_loss(-sure, labels[None].long()) > 1


def test_a_window_lies_at_the_crop_and_takes_image_and_labels_at_one_place() -> None:
    extent, rng = torch.tensor([10, 24, 10]), torch.Generator().manual_seed(0)
    labels = torch.arange(24**3).reshape(24, 24, 24)
    starts = set()
    for _ in range(200):
        image, cut_labels = window(labels[None].float(), labels, extent, _PATCH, rng)
        assert torch.equal(image[0].long(), cut_labels)
        starts.add(np.unravel_index(int(cut_labels[0, 0, 0]), (24, 24, 24)))
    slices, rows, _ = (sorted({int(start[axis]) for start in starts}) for axis in range(3))
    assert slices == [3, 4, 5], "a crop that is shorter than the window (voxels 7 to 16) lies inside it, two from its edge"
    assert rows == list(range(9)), "a crop that fills the grid is seen everywhere"


def test_alterations_change_intensities_a_little_and_repeat_with_the_stream() -> None:
    image = _examples(1, 2)[0][0]
    one, again, other = (altered(image, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    many = torch.stack([altered(image, torch.Generator().manual_seed(seed)) for seed in range(40)])
    assert (many - image).abs().mean() < 0.2
    assert torch.corrcoef(torch.stack([many.mean(0).flatten(), image.flatten()]))[0, 1] > 0.99


def test_a_saved_network_measures_the_same_and_names_its_digest(network: Segmenter, tmp_path: Path) -> None:
    card = save_measuring_network(network, _CARD, tmp_path)
    assert read_measuring_card(tmp_path) == card
    assert card.weights_digest.startswith("sha256:")
    volume = [_examples(1, 8)[0][0][0].numpy()]
    before, after = (measure(one, volume, least=(24, 24, 24)) for one in (network, load_measuring_network(tmp_path)))
    np.testing.assert_allclose(before.volumes, after.volumes, rtol=0.01)  # kept in half precision


def test_weights_and_cards_that_do_not_agree_are_refused(network: Segmenter, tmp_path: Path) -> None:
    save_measuring_network(network, _CARD, tmp_path)
    weights, card = tmp_path / "weights.safetensors", tmp_path / "card.json"
    good_weights, good_card = weights.read_bytes(), json.loads(card.read_text())
    weights.write_bytes(good_weights[:-1] + bytes([good_weights[-1] ^ 1]))
    with pytest.raises(WeightsRejected, match="digest"):
        load_measuring_network(tmp_path)
    weights.write_bytes(good_weights)
    load_measuring_network(tmp_path)
    for broken in (
        {**good_card, "licence": " "},
        {**good_card, "more": 1},
        {k: v for k, v in good_card.items() if k != "labels"},
    ):
        card.write_text(json.dumps(broken))
        with pytest.raises(WeightsRejected, match="card of a measuring network"):
            load_measuring_network(tmp_path)
    with pytest.raises(WeightsRejected, match="card of a measuring network"):
        load_measuring_network(tmp_path / "elsewhere")


def test_tensors_of_another_shape_are_refused_even_with_the_right_digest(network: Segmenter, tmp_path: Path) -> None:
    card = save_measuring_network(network, _CARD, tmp_path)
    tensors = load_file(tmp_path / "weights.safetensors")
    tensors["head.bias"] = torch.zeros(7)
    save_file(tensors, tmp_path / "weights.safetensors", metadata={"sizes": json.dumps(network.shape.content())})
    import hashlib

    digest = hashlib.sha256((tmp_path / "weights.safetensors").read_bytes()).hexdigest()
    content = json.loads((tmp_path / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps({**content, "weights_digest": f"sha256:{digest}"}))
    assert card.weights_digest != f"sha256:{digest}"
    with pytest.raises(WeightsRejected, match="names or shapes"):
        load_measuring_network(tmp_path)
