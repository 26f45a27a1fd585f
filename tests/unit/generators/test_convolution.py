"""A network's convolutions give the same values through oneDNN as PyTorch's own loop."""

from __future__ import annotations

import torch
from monai.networks.nets import AutoencoderKL
from torch import nn

from generators.convolution import OneDnnConv3d, use_onednn


def test_a_network_says_the_same_through_onednn() -> None:
    torch.manual_seed(0)
    network = AutoencoderKL(
        spatial_dims=3, channels=(4, 8), num_res_blocks=1, norm_num_groups=2, latent_channels=2, attention_levels=(False, False)
    ).eval()
    image = torch.randn(1, 1, 8, 12, 8)
    with torch.inference_mode():
        before = network.reconstruct(image)
        use_onednn(network)
        after = network.reconstruct(image)
    changed = [layer for layer in network.modules() if isinstance(layer, nn.Conv3d)]
    assert changed
    assert all(isinstance(layer, OneDnnConv3d) for layer in changed)
    assert torch.allclose(before, after, atol=1e-5)


def test_a_convolution_with_another_padding_or_precision_stays_as_it_was() -> None:
    reflecting = nn.Conv3d(1, 1, 3, padding=1, padding_mode="reflect")
    use_onednn(reflecting)
    assert type(reflecting) is nn.Conv3d
    exact = nn.Conv3d(1, 2, 3, padding=1).double()
    image = torch.randn(1, 1, 5, 5, 5, dtype=torch.float64)
    before = exact(image)
    use_onednn(exact)
    assert torch.equal(before, exact(image))
