"""N:M arithmetic against the definition, written out slowly."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import ceil

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from stages.ops.nm import (
    combination_gradient,
    from_blocks,
    incidence,
    initial_score,
    kept_combinations,
    magnitude_mask,
    remove_lowest,
    to_blocks,
    union_mask,
    violating_blocks,
)
from stages.ops.pattern import NMPattern, parse_pattern

PATTERNS = [NMPattern(2, 4), NMPattern(1, 4), NMPattern(2, 8), NMPattern(4, 8), NMPattern(1, 16)]


@pytest.mark.parametrize("text", ["4:2", "0:4", "24", "2/4", "2:", "-1:4", ""])
def test_a_text_that_is_no_pattern_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="2:4"):
        parse_pattern(text)


def test_spelling_does_not_change_a_pattern():
    assert str(parse_pattern(" 02: 4 ")) == "2:4"


def test_blocks_of_a_convolution_run_along_input_channels():
    """Invariant: for fixed (o, kh, kw), channels 0..M-1 form block 0. Sparse kernels read it so."""
    weight = torch.arange(2 * 8 * 3 * 3).reshape(2, 8, 3, 3)
    blocks = to_blocks(weight, m=4)
    assert blocks[0].tolist() == weight[0, 0:4, 0, 0].tolist()
    assert blocks[1].tolist() == weight[0, 4:8, 0, 0].tolist()
    assert blocks[2].tolist() == weight[0, 0:4, 0, 1].tolist()


@pytest.mark.parametrize("shape", [(6, 8), (3, 8, 2, 3), (5, 4, 1, 1)])
def test_from_blocks_undoes_to_blocks(shape):
    weight = torch.randn(shape)
    assert torch.equal(from_blocks(to_blocks(weight, m=4), shape), weight)


def test_a_block_length_that_does_not_divide_the_inputs_is_refused():
    with pytest.raises(ValueError, match=r"I = 6 .* M = 4"):
        to_blocks(torch.zeros(8, 6), m=4)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_incidence_lists_every_combination_once_in_lexicographic_order(pattern):
    rows = [tuple(row.nonzero().flatten().tolist()) for row in incidence(pattern)]
    assert rows == list(combinations(range(pattern.m), pattern.n))


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_initial_scores_that_cover_a_weight_sum_to_one(pattern):
    sums = initial_score(pattern) * incidence(pattern).double().sum(dim=0)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=1e-12, atol=0)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_magnitude_mask_keeps_exactly_the_n_largest_of_every_block(pattern):
    weight = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    mask = magnitude_mask(weight, pattern=pattern)
    for block, kept in zip(to_blocks(weight.abs(), m=pattern.m), to_blocks(mask, m=pattern.m), strict=True):
        assert int(kept.sum()) == pattern.n
        assert pattern.n == pattern.m or float(block[kept].min()) >= float(block[~kept].max())


def test_magnitude_mask_keeps_exactly_n_of_equal_magnitudes():
    assert (
        to_blocks(magnitude_mask(torch.ones(3, 8), pattern=NMPattern(2, 4)), m=4).tolist() == [[True, True, False, False]] * 6
    )


def test_kept_combinations_follow_the_published_curve():
    """Invariant: 6 until epoch 4, 5 at 5, 2 at 59, 1 from 60 on, never rising, for 2:4 with t_f = 60 and p = 3."""
    kept = [kept_combinations(e, num_combinations=6, start=0, end=60, power=3) for e in range(70)]
    assert kept[:6] == [6, 6, 6, 6, 6, 5]
    assert kept[59] == 2
    assert kept[60:] == [1] * 10
    assert all(isinstance(value, int) for value in kept)
    assert kept == sorted(kept, reverse=True)


@given(
    st.sampled_from([4, 6, 8, 16, 28, 70, 120, 1820]),
    st.integers(0, 20),
    st.integers(1, 100),
    st.integers(1, 4),
    st.integers(0, 130),
)
@example(num_combinations=28, start=0, length=15, power=3, epoch=5)
def test_kept_combinations_are_those_of_exact_arithmetic(num_combinations, start, length, power, epoch):
    """In floating point 27 * (2/3)**3 is a little above 8, and rounding up would keep one combination too many."""
    share = min(Fraction(1), max(Fraction(0), 1 - Fraction(epoch - start, length)))
    expected = 1 + ceil((num_combinations - 1) * share**power)
    found = kept_combinations(epoch, num_combinations=num_combinations, start=start, end=start + length, power=power)
    assert found == expected


def test_one_combination_is_left_at_the_end_of_the_curve_and_not_before():
    """However small the share is that a large power leaves."""
    assert [kept_combinations(e, num_combinations=6, start=0, end=60, power=16) for e in (58, 59, 60)] == [2, 2, 1]
    assert kept_combinations(3, num_combinations=1, start=0, end=60, power=3) == 1


@pytest.mark.parametrize(("end", "power", "first"), [(60, 3, 5), (80, 3, 6), (200, 4, 11)])
def test_the_first_removal_comes_at_the_published_epoch(end, power, first):
    kept = [kept_combinations(e, num_combinations=6, start=0, end=end, power=power) for e in range(end)]
    assert kept.index(5) == first


def test_many_combinations_are_first_removed_at_epoch_one():
    assert kept_combinations(1, num_combinations=28, start=0, end=60, power=3) < 28


def test_nothing_is_removed_before_a_late_start():
    """The reference's formula asks for more combinations than there are before t_i, and its code fails there."""
    kept = [kept_combinations(e, num_combinations=6, start=10, end=20, power=3) for e in range(21)]
    assert kept[:11] == [6] * 11
    assert kept[19] == 2
    assert kept[20] == 1


def test_removal_takes_the_lowest_scores_and_keeps_what_was_removed():
    scores = torch.tensor([[0.3, -0.2, 5.0, 0.1, 0.0, 0.4]])
    removed = torch.tensor([[False, False, True, False, False, False]])
    after = remove_lowest(scores, removed, count=3)
    assert after.tolist() == [[False, True, True, False, True, False]]


def test_removal_matches_sorting_each_block_by_hand():
    generator = torch.Generator().manual_seed(0)
    scores, removed = torch.randn(40, 6, generator=generator), torch.zeros(40, 6, dtype=torch.bool)
    for count in (1, 1, 3, 4, 5):
        scores = scores + 0.1 * torch.randn(40, 6, generator=generator)
        expected = [
            sorted(range(6), key=lambda c, b=b: (not bool(removed[b, c]), float(scores[b, c])))[:count] for b in range(40)
        ]
        removed = remove_lowest(scores, removed, count=count)
        assert [set(row.nonzero().flatten().tolist()) for row in removed] == [set(row) for row in expected]


def test_the_union_of_remaining_combinations_is_the_mask():
    rows = incidence(NMPattern(2, 4))
    removed = torch.ones(1, 6, dtype=torch.bool)
    removed[0, 1] = removed[0, 3] = False  # {0, 2} and {1, 2} stay
    assert union_mask(removed, rows).tolist() == [[True, True, True, False]]
    assert bool(union_mask(torch.zeros(1, 6, dtype=torch.bool), rows).all())


def test_the_score_gradient_sums_weight_times_gradient_over_each_combination():
    generator = torch.Generator().manual_seed(0)
    weight, gradient = torch.randn(3, 8, generator=generator), torch.randn(3, 8, generator=generator)
    rows = incidence(NMPattern(2, 4))
    removed = torch.rand(6, 6, generator=generator) < 0.3
    result = combination_gradient(weight, gradient, removed, rows)
    for b in range(6):
        for c, kept in enumerate(combinations(range(4), 2)):
            expected = sum(float(weight.view(6, 4)[b, j]) * float(gradient.view(6, 4)[b, j]) for j in kept)
            assert float(result[b, c]) == (0.0 if removed[b, c] else pytest.approx(expected, abs=1e-6))


def test_a_block_with_one_non_zero_too_many_is_counted():
    weight = torch.tensor([[1.0, 2.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]])
    assert violating_blocks(weight, pattern=NMPattern(2, 4)) == 1
    assert violating_blocks(weight * magnitude_mask(weight, pattern=NMPattern(2, 4)), pattern=NMPattern(2, 4)) == 0
