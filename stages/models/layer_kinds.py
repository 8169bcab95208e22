"""Which layers no method here has a form for, so that they are refused by name and none stays as it was without a word."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

UNSUPPORTED = (
    nn.Conv1d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.MultiheadAttention,
    nn.Bilinear,
    nn.RNNBase,
)
"""Layers with weights that have neither a mask nor a quantizer here."""


def is_remade(layer: nn.Module) -> bool:
    """Whether torch makes a layer's weight of other tensors before each use, as weight, spectral and orthogonal norm do.

    Zeros and levels that are put into those would be others in the weight.
    """
    if not parametrize.is_parametrized(layer, "weight"):
        return "weight" not in dict(layer.named_parameters(recurse=False))  # torch's older forms of these norms
    steps = layer.parametrizations.weight  # type: ignore[union-attr]
    return not hasattr(steps, "original") or any(type(step).__module__.startswith("torch.") for step in steps)  # type: ignore[union-attr]
