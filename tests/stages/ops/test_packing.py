"""Bit streams and combination numbers against slow, obvious ones."""

from __future__ import annotations

from itertools import combinations
from math import comb

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.ops import packing
from stages.ops.packing import (
    combination_bits,
    kept_positions,
    pack_bits,
    packed_size,
    rank_combinations,
    unpack_bits,
    unrank_combinations,
)
from stages.ops.pattern import NMPattern


def slow_pack(codes, bits):
    number = sum(code << (index * bits) for index, code in enumerate(codes))
    return number.to_bytes((len(codes) * bits + 7) // 8, "little")


@settings(max_examples=150)
@given(st.integers(1, 62).flatmap(lambda bits: st.tuples(st.just(bits), st.lists(st.integers(0, 2**bits - 1), max_size=40))))
def test_codes_are_one_long_little_endian_number(case):
    bits, codes = case
    stream = pack_bits(torch.tensor(codes, dtype=torch.int64), bits=bits)
    assert bytes(stream.tolist()) == slow_pack(codes, bits)
    assert len(stream) == packed_size(len(codes), bits=bits)
    assert unpack_bits(stream, bits=bits, count=len(codes)).tolist() == codes


@pytest.mark.parametrize("bits", [1, 3, 7])
def test_many_codes_cross_chunks_without_a_seam(bits, monkeypatch):
    codes = torch.randint(2**bits, (1003,), generator=torch.Generator().manual_seed(0))
    whole = pack_bits(codes, bits=bits)
    monkeypatch.setattr(packing, "_CHUNK", 64)
    assert torch.equal(pack_bits(codes, bits=bits), whole)
    assert torch.equal(unpack_bits(whole, bits=bits, count=1003), codes)


@pytest.mark.parametrize("text", [(2, 4), (1, 4), (1, 16), (2, 8), (4, 8), (3, 7), (4, 4), (1, 1)])
def test_every_combination_has_its_own_number_and_comes_back(text):
    pattern = NMPattern(*text)
    positions = torch.tensor(sorted(combinations(range(pattern.m), pattern.n), key=lambda rows: rows[::-1]))
    numbers = rank_combinations(positions, m=pattern.m)
    assert numbers.tolist() == list(range(pattern.num_combinations))
    assert torch.equal(unrank_combinations(numbers, pattern), positions)


@pytest.mark.parametrize("m", range(1, 33))
def test_a_combination_number_never_needs_more_bits_than_positions_do(m):
    for n in range(1, m + 1):
        assert combination_bits(NMPattern(n, m)) <= n * (m - 1).bit_length()
        assert 2 ** combination_bits(NMPattern(n, m)) >= comb(m, n)


def test_positions_are_the_masks_filled_up_from_the_front():
    mask = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)
    assert kept_positions(mask, n=2).tolist() == [[1, 3], [0, 3], [0, 1]]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="codes from 0 to 4 do not fit in 2 bits"):
        pack_bits(torch.tensor([0, 4]), bits=2)
    with pytest.raises(ValueError, match="0 to 62 bits, found 63"):
        pack_bits(torch.tensor([0]), bits=63)
    with pytest.raises(ValueError, match="3 codes of 4 bits have 2 bytes, found 1"):
        unpack_bits(torch.zeros(1, dtype=torch.uint8), bits=4, count=3)
    with pytest.raises(ValueError, match="found combination 7; 2:4 has 6"):
        unrank_combinations(torch.tensor([1, 7]), NMPattern(2, 4))
    with pytest.raises(ValueError, match="more combinations than 62 bits can number"):
        rank_combinations(torch.arange(32)[None], m=128)
