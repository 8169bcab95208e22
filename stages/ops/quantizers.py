"""Uniform quantization with two bounds, on plain tensors: grids, straight-through gradients, initial bounds. Knows no model.

Bounds are scalars (0-dimensional tensors): `lower` and `upper` of one weight tensor or of one layer's input. Levels are
n = 2^bits - 1 equal steps between them. Everything is measured in normalised units, p = (x - lower) / (upper - lower).
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

SEARCHED_VALUES, SEARCHED_SHARES = 4096, 19
"""Size of the search of `least_squares_bounds`: values looked at, candidates for one end."""

Form = Literal["normalized", "dequantized"]
"""What a layer computes with: `normalized` q in [0, 1] (weights 2q - 1), whose scale a following batch norm takes up, or
`dequantized` lower + q (upper - lower), in the units of the unquantized tensor."""


class Bounds(NamedTuple):
    """Smallest and largest level, each a 0-dimensional tensor."""

    lower: Tensor
    upper: Tensor


class _RoundHalfEven(torch.autograd.Function):
    """round(x), half to even, with d/dx = 1. The usual x + (round(x) - x).detach() would miss the grid by one bit."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        del ctx
        return value.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        return gradients[0]


def level_step(bits: int) -> float:
    """The distance of two levels in normalised units, 1 / (2^bits - 1)."""
    return 1.0 / float(2**bits - 1)


def normalise(value: Tensor, bounds: Bounds) -> Tensor:
    """Position p = (x - lower) / (upper - lower): 0 at the lower bound, 1 at the upper, outside of [0, 1] beyond them."""
    return (value - bounds.lower) / (bounds.upper - bounds.lower)


def round_to_levels(position: Tensor, *, bits: int) -> Tensor:
    """Level q = round(clamp(p, 0, 1) * n) / n with n = 2^bits - 1, round half to even.

    The gradient passes `round` as it is and `clamp` for 0 <= p <= 1.

    Args:
        position: p, any shape, float.
        bits: width of a level's number.

    Example:
        >>> round_to_levels(torch.tensor([-0.2, 0.5, 0.9]), bits=2).mul(3).tolist()
        [0.0, 2.0, 3.0]

    Source: arXiv 2211.08544 and the authors' code.
    """
    steps = 2**bits - 1
    scaled = position.clamp(0, 1) * steps
    rounded = _RoundHalfEven.apply(scaled) if torch.is_grad_enabled() else scaled.round()  # type: ignore[no-untyped-call]
    assert isinstance(rounded, Tensor)
    return rounded / float(steps)


def quantize_weight(weight: Tensor, bounds: Bounds, *, bits: int, form: Form) -> Tensor:
    """The value a layer uses for its weight: 2q - 1 in [-1, 1], or lower + q (upper - lower).

    At most 2^bits distinct values; between symmetric bounds 0 is none of them, since the number of levels is even.
    In range, d used / d weight is 2 / (upper - lower) (normalized) or 1 (dequantized); beyond a bound it is 0.

    Example:
        >>> bounds = Bounds(torch.tensor(-1.0), torch.tensor(1.0))
        >>> quantize_weight(torch.tensor([-2.0, 0.1, 0.9]), bounds, bits=2, form="normalized").mul(3).round().tolist()
        [-3.0, 1.0, 3.0]

    Source: arXiv 2211.08544 and the authors' code (normalized). `dequantized` is ours, for layers that no batch norm follows.
    """
    level = round_to_levels(normalise(weight, bounds), bits=bits)
    if form == "normalized":
        return 2 * level - 1
    return bounds.lower + level * (bounds.upper - bounds.lower)


def quantize_activation(value: Tensor, bounds: Bounds, *, bits: int, form: Form) -> Tensor:
    """The value a layer uses for its input: q in [0, 1], or lower + q (upper - lower).

    Source: arXiv 2211.08544 and the authors' code (normalized). `dequantized` is ours, for layers that no batch norm follows.
    """
    level = round_to_levels(normalise(value, bounds), bits=bits)
    if form == "normalized":
        return level
    return bounds.lower + level * (bounds.upper - bounds.lower)


def initial_weight_bounds(weights: Tensor) -> Bounds:
    """-3 std and 3 std (unbiased), from the weights that a mask keeps.

    Weights that are all equal (a classifier of zeros) give no spread: 3 / sqrt(their number) then stands in for it.

    Source: arXiv 2211.08544, the authors' code.
    """
    spread = 3 * weights.std() if weights.numel() > 1 else weights.new_zeros(())
    if not bool(spread > 0):
        spread = weights.new_tensor(3 / math.sqrt(max(weights.numel(), 1)))
    return Bounds(-spread, spread)


def initial_activation_bounds(inputs: Tensor) -> Bounds:
    """min(x) and 3 std(x) / sqrt(1 - 2/pi): for the output of a ReLU (half a normal distribution) the latter is 3 sigma.

    Args:
        inputs: one batch of a layer's inputs, any shape.

    Source: arXiv 2211.08544, the authors' code.
    """
    lower, upper = inputs.min(), 3 * inputs.std() / math.sqrt(1 - 2 / math.pi)
    return Bounds(lower, upper if bool(upper > lower) else lower + 1)


def least_squares_bounds(values: Tensor, *, bits: int, symmetric: bool) -> Bounds:
    """The bounds, of a grid of candidates, with the least sum of (x - grid(x))^2.

    With few bits, levels three deviations out are spent on what hardly occurs: of a normal distribution, 4 levels keep 88 %
    of the variance between bounds of +-1.5 deviations, and 54 % between +-3.

    Args:
        values: weights, or a batch of a layer's inputs; of many, the smallest, the largest and others drawn at random, always
            the same ones, are looked at. Evenly spread ones of a convolution may all be those of one pixel, or of one place of
            the kernel: the sizes of images are powers of two, and so would be the distance.
        bits: width of a level's number.
        symmetric: lower = -upper, as for weights; otherwise both ends are searched.

    Source: ours; the search is common in post-training quantization.
    """
    sample = values.detach().flatten()
    if len(sample) > SEARCHED_VALUES:
        drawn = torch.randint(len(sample), (SEARCHED_VALUES - 2,), generator=torch.Generator().manual_seed(0))
        sample = torch.cat([sample[drawn.to(sample.device)], sample.min()[None], sample.max()[None]])
    largest, smallest = sample.max(), sample.min()
    if symmetric:
        largest = sample.abs().max()
        smallest = -largest
    if not bool(largest > smallest):
        return initial_weight_bounds(sample) if symmetric else Bounds(smallest, smallest + 1)
    shares = torch.linspace(0.1, 1.0, SEARCHED_SHARES, dtype=sample.dtype, device=sample.device)
    # A lower end of a few hundredths of the upper one (GELU's) is only ever searched together with 0.
    ends = [(-share, share) for share in shares] if symmetric else [(low, high) for high in shares for low in (0, *shares)]
    best, chosen = math.inf, Bounds(smallest, largest)
    for low, high in ends:
        bounds = Bounds(-largest * high, largest * high) if symmetric else Bounds(smallest * low, largest * high)
        if not bool(bounds.upper > bounds.lower):
            continue
        error = float((quantize_activation(sample, bounds, bits=bits, form="dequantized") - sample).square().sum())
        if error < best:
            best, chosen = error, bounds
    return chosen
