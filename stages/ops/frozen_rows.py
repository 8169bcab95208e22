"""Linear layers and convolutions whose weight gradient is computed for some output rows only. Knows no model, no method.

Shapes: O out features, I in features, R live rows; inputs (..., I) or (B, I, H, W).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

WORTHWHILE = 0.9
"""Largest share of live rows at which leaving out the others pays for gathering the live ones."""


class _Linear(torch.autograd.Function):
    """x W^T + b; backward computes dW[r] = dy[:, r]^T x for live rows r and leaves 0 elsewhere."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, weight: Tensor, bias: Tensor | None, live_R: Tensor) -> Tensor:
        ctx.save_for_backward(value, weight, live_R)
        return functional.linear(value, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        value, weight, live_R = ctx.saved_tensors
        wants_value, wants_weight, wants_bias, _ = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        of_value = gradient @ weight if wants_value else None
        of_weight = None
        if wants_weight:
            of_weight = torch.zeros_like(weight)
            of_weight[live_R] = rows[:, live_R].T @ value.reshape(-1, value.shape[-1])
        return of_value, of_weight, rows.sum(0) if wants_bias else None, None


class _Convolution(torch.autograd.Function):
    """An ungrouped convolution; backward computes the kernels' gradient for live output channels only."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, weight: Tensor, bias: Tensor | None, live_R: Tensor, geometry: tuple[list[int], ...]
    ) -> Tensor:
        ctx.save_for_backward(value, weight, live_R)
        ctx.geometry = geometry
        stride, padding, dilation = geometry
        return functional.conv2d(value, weight, bias, stride, padding, dilation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        value, weight, live_R = ctx.saved_tensors
        wants_value, wants_weight, wants_bias = ctx.needs_input_grad[:3]

        def differentiate(some: Tensor, kernels: Tensor, wanted: list[bool]) -> tuple[Tensor | None, Tensor | None]:
            sizes, rest = [len(kernels)], (*ctx.geometry, False, [0, 0], 1)
            of_value, of_weight, _ = torch.ops.aten.convolution_backward(some, value, kernels, sizes, *rest, wanted)
            return of_value, of_weight

        of_value = differentiate(gradient, weight, [True, False, False])[0] if wants_value else None
        of_weight = None
        if wants_weight:
            of_weight = torch.zeros_like(weight)
            some = differentiate(gradient[:, live_R].contiguous(), weight[live_R].contiguous(), [False, True, False])[1]
            assert some is not None
            of_weight[live_R] = some
        return of_value, of_weight, gradient.sum((0, 2, 3)) if wants_bias else None, None, None


def can_skip_rows(layer: nn.Module) -> bool:
    """Whether `forward_with_live_rows` computes what the layer does: a plain linear layer or ungrouped convolution."""
    if isinstance(layer, nn.Linear):
        return type(layer).forward is nn.Linear.forward
    return (
        isinstance(layer, nn.Conv2d)
        and type(layer).forward is nn.Conv2d.forward
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def forward_with_live_rows(layer: nn.Linear | nn.Conv2d, value: Tensor, live_R: Tensor) -> Tensor:
    """The layer's output; its weight gets a gradient in the output rows `live_R` (int64 indices) and exactly 0 in others."""
    if isinstance(layer, nn.Linear):
        output = _Linear.apply(value, layer.weight, layer.bias, live_R)  # type: ignore[no-untyped-call]
    else:
        geometry = (list(layer.stride), [int(size) for size in layer.padding], list(layer.dilation))
        output = _Convolution.apply(value, layer.weight, layer.bias, live_R, geometry)  # type: ignore[no-untyped-call]
    assert isinstance(output, Tensor)
    return output
