"""Convolutions of one volume at a time, by oneDNN."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OneDnnConv3d(nn.Conv3d):
    """A convolution that always goes through oneDNN on a CPU.

    For a batch of one and few positions PyTorch 2 takes a loop of its own instead, and a denoiser of ours nearly twice as long.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.device.type != "cpu" or input.dtype != torch.float32:
            return super()._conv_forward(input, weight, bias)  # type: ignore[no-any-return]
        how = (self.padding, self.stride, self.dilation, self.groups)
        convolved: Tensor = torch.ops.aten.mkldnn_convolution(input.contiguous(), weight, bias, *how)
        return convolved


def use_onednn(network: nn.Module) -> None:
    """Give the plain convolutions of a network, in place, the class above; where PyTorch has no oneDNN, change nothing."""
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch has no types here
        for layer in network.modules():
            if type(layer) is nn.Conv3d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
                layer.__class__ = OneDnnConv3d
