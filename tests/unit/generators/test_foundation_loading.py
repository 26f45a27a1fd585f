from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.apps.generation.maisi.networks.controlnet_maisi import ControlNetMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from torch import nn

from domain.errors import ConfigurationError, WeightsRejected
from generators.cards import read_card, write_card
from generators.foundation.adopting import adopt
from generators.foundation.generator import load_maisi
from generators.foundation.layout import (
    NETWORKS_NAME,
    AutoencoderSize,
    Checkpoint,
    Layout,
    encode_layout,
    published_denoiser,
    read_layout,
)
from generators.foundation.networks import Networks, autoencoder_of, control_of, denoiser_of, load_networks
from generators.foundation.variants import BODY_REGIONS, VARIANTS
from generators.weights import file_digest
from tests.builders_foundation import (
    AUTOENCODER,
    CONTROL,
    DENOISER,
    LATENT_SCALE,
    checkpoints,
    save,
    seal,
    tiny_layout,
    write_tiny_maisi,
)

# The arguments of config_network_rflow.json and config_network_ddpm.json that decide a tensor's name or shape.
_DENOISER = {
    "spatial_dims": 3,
    "in_channels": 4,
    "num_channels": [64, 128, 256, 512],
    "attention_levels": [False, False, True, True],
    "num_head_channels": [0, 0, 32, 32],
    "num_res_blocks": 2,
}
_BY_SAMPLING: dict[str, dict[str, Any]] = {
    "rflow-ct": {"num_class_embeds": 128, "resblock_updown": True, "include_fc": True},
    "ddpm-ct": {"include_fc": False, "resblock_updown": False},
}
_PARAMETERS = {"rflow-ct": (180_500_868, 72_037_072), "ddpm-ct": (169_370_884, 68_644_944)}


def _tensors(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _loaded(folder: Path) -> Networks:
    card = read_card(folder)
    return load_networks(folder, read_layout(folder, card), card, "cpu")


@pytest.mark.parametrize("name", ["rflow-ct", "ddpm-ct"])
def test_networks_at_published_sizes_have_the_tensors_of_the_published_configuration(name: str) -> None:
    regions = name == "ddpm-ct"
    with torch.device("meta"):
        denoiser = DiffusionModelUNetMaisi(
            **_DENOISER, **_BY_SAMPLING[name], out_channels=4, include_spacing_input=True,
            include_top_region_index_input=regions, include_bottom_region_index_input=regions,
        )  # fmt: skip
        control = ControlNetMaisi(
            **_DENOISER, **_BY_SAMPLING[name], conditioning_embedding_in_channels=8,
            conditioning_embedding_num_channels=[8, 32, 64],
        )  # fmt: skip
        size = published_denoiser(VARIANTS[name])
        ours = denoiser_of(size, 4), control_of(size, 4)
    assert _tensors(ours[0]) == _tensors(denoiser)
    assert _tensors(ours[1]) == _tensors(control)
    assert tuple(sum(tensor.numel() for tensor in network.parameters()) for network in ours) == _PARAMETERS[name]


def test_autoencoder_at_published_size_has_the_tensors_of_the_published_configuration() -> None:
    with torch.device("meta"):
        published = AutoencoderKlMaisi(
            spatial_dims=3, in_channels=1, out_channels=1, latent_channels=4, num_channels=[64, 128, 256],
            num_res_blocks=[2, 2, 2], norm_num_groups=32, norm_eps=1e-06, attention_levels=[False] * 3,
            with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False, use_checkpointing=False,
            use_convtranspose=False, norm_float16=True, num_splits=8, dim_split=1,
        )  # fmt: skip
        ours = autoencoder_of(AutoencoderSize())
    assert _tensors(ours) == _tensors(published)


@pytest.mark.parametrize("name", ["rflow-mr", "rflow-ct", "ddpm-ct"])
def test_published_layout_loads_every_tensor_as_it_was_saved(tmp_path: Path, name: str) -> None:
    networks = _loaded(write_tiny_maisi(tmp_path, name))
    saved = checkpoints(tiny_layout(VARIANTS[name]))
    for network, state in (
        (networks.autoencoder, saved[AUTOENCODER]),
        (networks.denoiser, saved[DENOISER]["unet_state_dict"]),
        (networks.control, saved[CONTROL]["controlnet_state_dict"]),
    ):
        if network is None:
            assert not VARIANTS[name].takes_mask
            continue
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, state[key]), key
    assert networks.latent_scale == pytest.approx(LATENT_SCALE)


def test_autoencoder_is_found_under_the_name_that_its_second_version_uses(tmp_path: Path) -> None:
    layout = tiny_layout(VARIANTS["rflow-mr"])
    write_tiny_maisi(tmp_path)
    bare = checkpoints(layout)[AUTOENCODER]
    save(tmp_path, AUTOENCODER, {"unet_state_dict": bare})
    networks = _loaded(seal(tmp_path, layout, VARIANTS["rflow-mr"]))
    assert all(torch.equal(tensor, bare[name]) for name, tensor in networks.autoencoder.state_dict().items())


def test_attention_layers_that_training_never_called_are_left_out_of_ddpm_and_of_nothing_else(tmp_path: Path) -> None:
    spare = {name for name in checkpoints(tiny_layout(VARIANTS["ddpm-ct"]))[DENOISER]["unet_state_dict"] if "out_proj" in name}
    assert spare, "the saved checkpoint has none to spare"
    assert not spare & set(_loaded(write_tiny_maisi(tmp_path / "ddpm", "ddpm-ct")).denoiser.state_dict())
    assert spare & set(_loaded(write_tiny_maisi(tmp_path / "flow", "rflow-ct")).denoiser.state_dict())


def _drop_tensor(content: dict[str, Any]) -> None:
    del content["unet_state_dict"]["conv_in.conv.weight"]


def _add_tensor(content: dict[str, Any]) -> None:
    content["unet_state_dict"]["conv_in.conv.extra"] = torch.ones(1)


def _reshape_tensor(content: dict[str, Any]) -> None:
    content["unet_state_dict"]["conv_in.conv.bias"] = torch.ones(3)


def _drop_scale(content: dict[str, Any]) -> None:
    del content["scale_factor"]


def _spoil_scale(content: dict[str, Any]) -> None:
    content["scale_factor"] = torch.tensor(float("nan"))


def _rename_state(content: dict[str, Any]) -> None:
    content["state_dict"] = content.pop("unet_state_dict")


def _other_schedule(content: dict[str, Any]) -> None:
    content["num_train_timesteps"] = 500


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (_drop_tensor, "1 missing, 0 unknown"),
        (_add_tensor, "0 missing, 1 unknown"),
        (_reshape_tensor, "1 of another shape"),
        (_drop_scale, "scale_factor"),
        (_spoil_scale, "scale_factor of nan"),
        (_rename_state, "without the tensors of the denoiser"),
        (_other_schedule, "500 trained steps"),
    ],
)
def test_checkpoint_of_another_layout_is_refused_by_name(
    tmp_path: Path, harm: Callable[[dict[str, Any]], None], named: str
) -> None:
    layout = tiny_layout(VARIANTS["rflow-mr"])
    write_tiny_maisi(tmp_path)
    content = checkpoints(layout)[DENOISER]
    harm(content)
    save(tmp_path, DENOISER, content)
    with pytest.raises(WeightsRejected, match=named):
        _loaded(seal(tmp_path, layout, VARIANTS["rflow-mr"]))


class _Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "run")


def test_digest_is_checked_before_anything_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_maisi(tmp_path)
    save(tmp_path, DENOISER, {"unet_state_dict": {}})
    loaded: list[str] = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda opened, **named: loaded.append(Path(opened.name).name) or load(opened, **named))
    with pytest.raises(WeightsRejected, match=f"{DENOISER}, whose digest"):
        _loaded(tmp_path)
    assert loaded == [AUTOENCODER]


def test_checkpoint_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    layout = tiny_layout(VARIANTS["rflow-mr"])
    write_tiny_maisi(tmp_path)
    trap = tmp_path / "trap"
    save(tmp_path, DENOISER, {"unet_state_dict": _Malicious(trap)})
    with pytest.raises(WeightsRejected, match="tensors and plain values alone"):
        _loaded(seal(tmp_path, layout, VARIANTS["rflow-mr"]))
    assert not trap.exists()
    torch.load(tmp_path / DENOISER, weights_only=False)
    assert trap.exists(), "the trap does not work, so the test shows nothing"


@pytest.mark.parametrize(
    "entry",
    [
        {"autoencoder": {"_target_": "monai.apps.generation.maisi.networks.autoencoderkl_maisi.AutoencoderKlMaisi"}},
        {"contrast": "$__import__('os').system('true')"},
        {"denoiser": "$@diffusion_unet_def"},
        {"regions": ["%other.json"]},
    ],
)
def test_bundle_configuration_is_refused_by_the_name_of_what_would_run(tmp_path: Path, entry: dict[str, Any]) -> None:
    folder = write_tiny_maisi(tmp_path)
    _rewrite_networks(folder, lambda entries: entries.update(entry))
    with pytest.raises(WeightsRejected, match="names code to run") as refused:
        read_layout(folder, read_card(folder))
    assert any(text in refused.value.found for text in ("_target_", "$__import__", "$@diff", "%other"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda entries: entries.update(obeys="everything"), "unknown or missing entries"),
        (lambda entries: entries["autoencoder"].pop("channels"), "unknown or missing entries"),
        (lambda entries: entries.update(variant="rflow-pet"), "unknown variant 'rflow-pet'"),
        (lambda entries: entries.update(contrast="mri_dwi"), "does not know"),
        (lambda entries: entries["denoiser"].update(channels="wide"), "cannot be read"),
        (lambda entries: entries["denoiser_file"].update(name="../elsewhere.pt"), "plain file name"),
        (lambda entries: entries["denoiser_file"].update(digest=""), "sha256 digest"),
        (lambda entries: entries.update(control_file=entries["denoiser_file"]), "was not published with"),
        (lambda entries: entries["denoiser"].update(body_regions=True), "sizes that are not those"),
    ],
)
def test_networks_json_with_other_entries_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], named: str
) -> None:
    folder = write_tiny_maisi(tmp_path)
    _rewrite_networks(folder, change)
    with pytest.raises(WeightsRejected, match=named):
        read_layout(folder, read_card(folder))


def _rewrite_networks(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change ``networks.json`` and have the card state its new digest."""
    entries = json.loads((folder / NETWORKS_NAME).read_bytes())
    change(entries)
    (folder / NETWORKS_NAME).write_text(json.dumps(entries))
    write_card(dataclasses.replace(read_card(folder), weights_digest=file_digest(folder / NETWORKS_NAME)), folder)


@pytest.mark.parametrize("harm", ["networks digest", "no networks", "no checkpoint", "no licence", "no digest in the card"])
def test_folder_that_cannot_be_trusted_is_refused(tmp_path: Path, harm: str) -> None:
    folder = write_tiny_maisi(tmp_path)
    if harm == "networks digest":
        (folder / NETWORKS_NAME).write_bytes((folder / NETWORKS_NAME).read_bytes() + b" ")
    elif harm == "no networks":
        (folder / NETWORKS_NAME).unlink()
    elif harm == "no checkpoint":
        (folder / AUTOENCODER).unlink()
    elif harm == "no licence":
        write_card(dataclasses.replace(read_card(folder), licence=" "), folder)
    else:
        write_card(dataclasses.replace(read_card(folder), weights_digest=""), folder)
    with pytest.raises(WeightsRejected):
        load_maisi(folder)


def test_device_that_this_machine_lacks_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_maisi(tmp_path)
    missing = ["tpu9"] if torch.cuda.is_available() else ["tpu9", "cuda"]
    for device in missing:
        with pytest.raises(ConfigurationError, match=device):
            load_maisi(folder, device)


def test_adopted_files_have_the_digests_that_the_publisher_states(tmp_path: Path) -> None:
    files = {"autoencoder": "a.pt", "denoiser": "b.pt", "control": "c.pt"}
    stated = {}
    for part, name in files.items():
        (tmp_path / name).write_bytes(name.encode())
        stated[part] = Checkpoint(name, file_digest(tmp_path / name))
    card = adopt(tmp_path, "rflow-ct", **stated, licence="NVIDIA Open Model License", contrast="ct")
    assert read_card(tmp_path) == card
    layout = read_layout(tmp_path, card)
    assert layout == Layout("rflow-ct", "ct", (), stated["autoencoder"], stated["denoiser"], stated["control"])
    assert json.loads(encode_layout(layout))["denoiser"]["channels"] == [64, 128, 256, 512]
    assert "label map" in dict(card.training)["may be told"]
    (tmp_path / "b.pt").write_bytes(b"changed on the way")
    with pytest.raises(WeightsRejected, match="another digest than the one given"):
        adopt(tmp_path, "rflow-ct", **stated, licence="NVIDIA Open Model License", contrast="ct")


def test_nothing_is_adopted_without_a_licence(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"a")
    file = Checkpoint("a.pt", file_digest(tmp_path / "a.pt"))
    with pytest.raises(WeightsRejected, match="non-commercial"):
        adopt(tmp_path, "rflow-mr", autoencoder=file, denoiser=file, licence=" ", contrast="mri_t1")
    assert not (tmp_path / "card.json").exists()


def test_adopting_and_cards_load_no_torch() -> None:
    code = "import sys, generators.foundation.adopting; print('torch' in sys.modules, 'monai' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert printed.stdout.split() == ["False", "False"]


def test_page_names_every_variant_contrast_and_entry() -> None:
    page = Path("docs/foundation.md").read_text()
    names = [*VARIANTS, *(field.name for field in dataclasses.fields(Layout)), *BODY_REGIONS]
    names += [contrast for variant in VARIANTS.values() for contrast, _ in variant.contrasts]
    missing = [name for name in names if f"`{name.removesuffix('_skull_stripped')}`" not in page]
    assert not missing
    for variant in VARIANTS.values():
        assert f"`{variant.repository}`" in page
        assert variant.licence.partition(":")[0] in page
