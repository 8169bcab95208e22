"""Quantizers, the freezing rule and the row-wise weight gradient, against their formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from stages.ops.freezing import backward_saving, freeze, threshold_rate, update_distance
from stages.ops.frozen_rows import can_skip_rows, forward_with_live_rows
from stages.ops.quantizers import (
    Bounds,
    initial_activation_bounds,
    initial_weight_bounds,
    least_squares_bounds,
    level_step,
    normalise,
    quantize_activation,
    quantize_weight,
    round_to_levels,
)


def bounds_of(lower: float, upper: float, dtype=torch.float64) -> Bounds:
    return Bounds(torch.tensor(lower, dtype=dtype, requires_grad=True), torch.tensor(upper, dtype=dtype, requires_grad=True))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("form", ["normalized", "dequantized"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_b_bits_give_all_of_2_to_the_b_values_and_no_more_symmetric_about_zero(bits, form, dtype):
    """A value one bit off the grid would be one more entry in a packed file's table."""
    weights = torch.linspace(-1.3, 1.3, 5000, dtype=dtype)
    used = quantize_weight(weights, Bounds(weights.new_tensor(-0.9), weights.new_tensor(0.9)), bits=bits, form=form)
    values = used.unique()
    assert len(values) == 2**bits
    torch.testing.assert_close(values, -values.flip(0), rtol=0, atol=4 * torch.finfo(dtype).eps)
    assert values.abs().min() > 0


def test_two_bits_have_the_published_levels():
    used = quantize_weight(torch.tensor([-9.0, -0.4, 0.4, 9.0]), bounds_of(-1, 1, torch.float32), bits=2, form="normalized")
    torch.testing.assert_close(used, torch.tensor([-1, -1 / 3, 1 / 3, 1]))


def test_ties_are_rounded_to_the_even_level():
    position = torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64) / 3
    assert (round_to_levels(position, bits=2) * 3).round().tolist() == [0, 2, 2]


@pytest.mark.parametrize("form", ["normalized", "dequantized"])
def test_gradients_are_those_of_straight_through_rounding(form):
    """In range d used / dw is 2 / (u - l), or 1 in units of the weight; the bounds get theirs through p."""
    lower, upper = bounds_of(-0.7, 0.9)
    weight = torch.tensor([-1.0, -0.3, 0.123, 0.8, 1.7], dtype=torch.float64, requires_grad=True)
    quantize_weight(weight, Bounds(lower, upper), bits=2, form=form).sum().backward()
    span = 1.6
    p = ((weight + 0.7) / span).detach()
    inside = (p >= 0) & (p <= 1)
    q = (p.clamp(0, 1) * 3).round() / 3
    factor = 2 / span if form == "normalized" else 1.0
    torch.testing.assert_close(weight.grad, inside.double() * factor)
    if form == "normalized":
        of_upper, of_lower = (-2 * p / span)[inside].sum(), (2 * (p - 1) / span)[inside].sum()
    else:
        of_upper = torch.where(inside, q - p, q).sum()
        of_lower = torch.where(inside, p - q, 1 - q).sum()
    torch.testing.assert_close(upper.grad, of_upper)
    torch.testing.assert_close(lower.grad, of_lower)


def test_activations_stay_in_zero_to_one_or_in_their_own_units():
    values = torch.tensor([-5.0, 0.2, 0.7, 5.0])
    bounds = bounds_of(0.0, 2.0, torch.float32)
    assert quantize_activation(values, bounds, bits=2, form="normalized").mul(3).round().tolist() == [0, 0, 1, 3]
    torch.testing.assert_close(
        quantize_activation(values, bounds, bits=2, form="dequantized"), torch.tensor([0.0, 0.0, 2 / 3, 2.0])
    )


def test_scaling_weights_and_bounds_by_one_factor_changes_neither_p_nor_q():
    weight = torch.randn(100, dtype=torch.float64)
    first = normalise(weight, bounds_of(-1.5, 1.5))
    second = normalise(weight * 4, bounds_of(-6.0, 6.0))
    assert torch.equal(first, second)


def test_first_bounds_follow_the_formulas():
    weights, inputs = torch.randn(1000).double(), torch.randn(1000).double().relu()
    torch.testing.assert_close(initial_weight_bounds(weights).upper, 3 * weights.std(correction=1))
    assert initial_weight_bounds(weights).lower == -initial_weight_bounds(weights).upper
    lower, upper = initial_activation_bounds(inputs)
    assert lower == inputs.min()
    torch.testing.assert_close(upper, 3 * inputs.std(correction=1) / math.sqrt(1 - 2 / math.pi))


@pytest.mark.parametrize("values", [torch.zeros(12), torch.ones(1)])
def test_tensors_without_spread_still_get_bounds_one_can_divide_by(values):
    """The classifier of a new vision transformer is all zeros."""
    some = [initial_activation_bounds(torch.zeros(4)), initial_weight_bounds(values)]
    some += [least_squares_bounds(values * 0, bits=2, symmetric=symmetric) for symmetric in (True, False)]
    for lower, upper in some:
        assert upper > lower


def test_least_squares_bounds_of_a_normal_distribution_are_the_known_ones():
    """4 equal steps between +-1.49 deviations are the best (Max 1960: step 0.996)."""
    values = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    for symmetric in (True, False):
        lower, upper = least_squares_bounds(values, bits=2, symmetric=symmetric)
        assert -1.75 < lower < -1.25
        assert 1.25 < upper < 1.75
    lower, upper = least_squares_bounds(values.relu(), bits=2, symmetric=False)
    assert lower == 0
    assert 1.3 < upper < 2.5


def test_least_squares_bounds_do_not_look_at_one_pixel_alone():
    """Of this batch each 64th value, which is always in the first column of an image, says nothing of the range."""
    values = torch.zeros(8, 32, 32, 32)
    values[..., 1:] = torch.linspace(-1, 3, 31)
    lower, upper = least_squares_bounds(values, bits=8, symmetric=False)
    assert float(lower) == pytest.approx(-1, abs=0.1)
    assert float(upper) == pytest.approx(3, abs=0.2)
    assert least_squares_bounds(values, bits=8, symmetric=False) == (lower, upper)
    weights = torch.zeros(64, 64, 8, 8)
    weights[..., 3, 3] = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    assert float(least_squares_bounds(weights, bits=8, symmetric=True).upper) > 2


class TestThreshold:
    def test_modes(self):
        common = {"fixed_rate": 0.1, "warmup_steps": 20, "total_steps": 100}
        assert threshold_rate(60, mode="fixing", **common) == 0.1
        assert threshold_rate(60, mode="linear_growth", **common) == 0.5
        assert threshold_rate(60, mode="sine_growth", **common) == pytest.approx(math.sin(math.pi / 4))

    def test_accounted_saving_is_half_of_what_is_frozen(self):
        """The published pairs: 56 % -> 28 %, 46 % -> 23 %; a layer frozen whole saves half of its backward pass."""
        assert [backward_saving(f) for f in (0.0, 0.46, 0.56, 1.0)] == [0.0, 0.23, 0.28, 0.5]

    def test_twice_as_many_levels_halve_the_step(self):
        assert level_step(2) == pytest.approx(1 / 3)
        assert level_step(3) / level_step(2) == pytest.approx(3 / 7)

    def test_after_a_jump_the_distance_is_one_step_and_decays_from_there(self):
        """n steps after it, at constant distance d: m^n step + (1 - m^n) d."""
        m, step, gap = 0.9, 1 / 3, 0.05
        distance, previous = torch.full((1,), 0.01, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        level = torch.full((1,), 1 / 3, dtype=torch.float64)
        for n in range(20):
            update_distance(distance, previous, position=level + gap, level=level, step=n + 5, momentum=m, level_step=step)
            assert distance.item() == pytest.approx(m**n * step + (1 - m**n) * gap, abs=1e-12)

    def test_freezing_starts_after_the_warm_up_and_is_written_once(self):
        frozen_at, distance = torch.zeros(2, dtype=torch.int32), torch.tensor([0.0, 1.0])
        freeze(frozen_at, distance, step=3, threshold=0.5, warmup_steps=3)
        assert frozen_at.tolist() == [0, 0]
        for step in (4, 5):
            freeze(frozen_at, distance, step=step, threshold=0.5, warmup_steps=3)
        assert frozen_at.tolist() == [4, 0]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 8),
        nn.Linear(6, 8, bias=False),
        nn.Conv2d(6, 8, 3, padding=1, stride=2),
        nn.Conv2d(6, 8, (3, 1), dilation=2, bias=False),
    ],
    ids=["linear", "linear without bias", "convolution", "dilated convolution"],
)
def test_rows_left_out_get_a_gradient_of_zero_and_nothing_else_changes(layer):
    layer = layer.double()
    images = torch.randn(3, 6, 9, 9).double() if isinstance(layer, nn.Conv2d) else torch.randn(3, 5, 6).double()
    inputs = [images.clone().requires_grad_() for _ in range(2)]
    live = torch.tensor([1, 4, 7])
    assert can_skip_rows(layer)
    weight = torch.randn_like(layer(images))
    (forward_with_live_rows(layer, inputs[0], live) * weight).sum().backward()
    some = [None if p.grad is None else p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    (layer(inputs[1]) * weight).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    expected = torch.zeros_like(layer.weight)
    expected[live] = layer.weight.grad[live]
    torch.testing.assert_close(some[0], expected)
    if layer.bias is not None:
        torch.testing.assert_close(some[1], layer.bias.grad)


def test_grouped_convolutions_are_left_to_torch():
    assert not can_skip_rows(nn.Conv2d(4, 4, 3, groups=2))
    assert not can_skip_rows(nn.Conv2d(4, 4, 3, padding="same"))
    value = torch.randn(2, 4)
    assert torch.equal(functional.linear(value, torch.eye(4)), value)
