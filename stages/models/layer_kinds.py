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


def is_composed(layer: nn.Module) -> bool:
    """Whether a layer's weight is made of several tensors, as weight norm does: no one of them is the weight."""
    return parametrize.is_parametrized(layer, "weight") and not hasattr(layer.parametrizations.weight, "original")  # type: ignore[union-attr]
