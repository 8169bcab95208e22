"""Fake-quantized layers made ready for operators that round their inputs themselves: bounds stay, rounding in floats goes.

Where bounds differ by group of timesteps, an operator with one fixed scale would give each group the range of all. A layer is
linear, so it can be given its input over the largest bound of the image's group, and its product multiplied by that again:

    layer(x) = r_g W (x / r_g) + bias,   r_g = max(|lower_g|, |upper_g|)

Every group then fills the one range, at the price of two products, a sum and up to two comparisons of floats.
Knows no file format.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.models.fake_quant import InputGrid, bounds_of
from stages.ops.quantizers import normalise

INTEGER_BITS = 8
"""Width of the operators' inputs. Grids of fewer bits keep their own rounding, since that of the operators is finer."""


def leave_rounding_to_operators(model: nn.Module) -> None:
    """Change a folded model in place: inputs with 8 bits are clipped to their bounds and no more.

    Where bounds are kept by group of timesteps, inputs and outputs are also scaled by group.
    """
    for layer in list(model.modules()):
        grid = getattr(layer, "input_quantizer", None)
        if not isinstance(grid, InputGrid):
            continue
        if grid.groups is None or grid.form == "normalized":
            layer.input_quantizer = _Clipped(grid)
            continue
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        places = (1, 1) if isinstance(layer, nn.Conv2d) else ()
        bias = None if layer.bias is None else layer.bias.detach().reshape(-1, *places)
        layer.input_quantizer = _Scaled(grid, bias=bias)
        layer.register_parameter("bias", None)
        layer.register_forward_hook(_scale_back)


class _Clipped(nn.Module):
    """A layer's input within its bounds, in the units that the layer computes with."""

    def __init__(self, grid: InputGrid) -> None:
        super().__init__()
        self.grid = grid
        # Bounds that are numbers make the one operator that onnxruntime leaves to those that round.
        self.ends = float(grid.lower.min()), float(grid.upper.max())

    def forward(self, value: Tensor) -> Tensor:
        if self.grid.bits < INTEGER_BITS:
            rounded: Tensor = self.grid(value)
            return rounded
        if self.grid.form == "normalized":
            return normalise(value, bounds_of(self.grid, value)).clamp(0, 1)
        return value.clamp(*self.ends)


class _Scaled(nn.Module):
    """A layer's input within the bounds of its group of timesteps, over the larger of them; its output times that again."""

    reach: Tensor
    lowest: Tensor
    highest: Tensor
    bias: Tensor | None

    def __init__(self, grid: InputGrid, *, bias: Tensor | None) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("reach", torch.maximum(grid.lower.abs(), grid.upper.abs()))
        self.register_buffer("lowest", grid.lower / self.reach)
        self.register_buffer("highest", grid.upper / self.reach)
        self.register_buffer("bias", bias)
        # Ends that all groups share need no operator of their own: see `_Clipped`.
        self.ends = float(self.lowest.min()), float(self.highest.max())
        self.shares_lowest = bool((self.lowest == self.lowest[0]).all())
        self.shares_highest = bool((self.highest == self.highest[0]).all())

    def forward(self, value: Tensor) -> Tensor:
        if self.grid.bits < INTEGER_BITS:
            value = self.grid(value)
            return value / self._of_group(self.reach, value)
        value = value / self._of_group(self.reach, value)
        if not self.shares_lowest:
            value = torch.maximum(value, self._of_group(self.lowest, value))
        if not self.shares_highest:
            value = torch.minimum(value, self._of_group(self.highest, value))
        return value.clamp(*self.ends)

    def scale_back(self, product: Tensor) -> Tensor:
        whole = product * self._of_group(self.reach, product)
        return whole if self.bias is None else whole + self.bias

    def _of_group(self, numbers: Tensor, value: Tensor) -> Tensor:
        """For each entry of `value` the number of its group, (B, 1, ...)."""
        assert self.grid.groups is not None
        return numbers[self.grid.groups.index(value)].reshape(-1, *(1 for _ in value.shape[1:]))


def _scale_back(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    assert isinstance(layer.input_quantizer, _Scaled)
    return layer.input_quantizer.scale_back(output)
