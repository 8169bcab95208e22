"""Whole numbers in as few bits as they need: bit streams, and the number of a combination. Knows no model and no file.

Shapes: G blocks, M block length, N kept per block, C = binom(M, N) combinations.
"""

from __future__ import annotations

from math import comb

import torch
from torch import Tensor

from stages.ops.pattern import NMPattern

_CHUNK = 1 << 17  # a multiple of 8, so every chunk but the last fills whole bytes
MAX_BITS = 62
"""Widest code; wider ones do not fit a signed 64-bit number."""


def pack_bits(codes: Tensor, *, bits: int) -> Tensor:
    """Write codes one after the other, `bits` bits each, least significant bit first.

        bit k of code i is bit (i * bits + k) of the stream; bit j of the stream is bit (j mod 8) of byte floor(j / 8)

    Args:
        codes: any shape, integers in [0, 2^bits); read row-major.
        bits: 0 to 62; 0 gives no bytes.

    Returns:
        stream uint8 (ceil(numel * bits / 8),); unused bits of the last byte are 0.

    Raises:
        ValueError: a code does not fit, or `bits` is out of range.

    Example:
        >>> pack_bits(torch.tensor([1, 2, 3]), bits=2).tolist()
        [57]
    """
    _refuse_width(bits)
    flat = codes.reshape(-1).to(torch.int64)
    if flat.numel() and (int(flat.min()) < 0 or int(flat.max()) >= 1 << bits):
        raise ValueError(f"codes from {int(flat.min())} to {int(flat.max())} do not fit in {bits} bits")
    if bits == 0 or not flat.numel():
        return torch.empty(0, dtype=torch.uint8)
    shifts, weights = torch.arange(bits), 1 << torch.arange(8)
    parts = []
    for chunk in torch.split(flat, _CHUNK):
        stream = ((chunk[:, None] >> shifts) & 1).reshape(-1)
        stream = torch.nn.functional.pad(stream, (0, -len(stream) % 8))
        parts.append((stream.reshape(-1, 8) * weights).sum(dim=1).to(torch.uint8))
    return torch.cat(parts)


def unpack_bits(stream: Tensor, *, bits: int, count: int) -> Tensor:
    """Read `count` codes of `bits` bits: the inverse of `pack_bits`, as int64 (count,).

    Raises:
        ValueError: the stream has another length than that many codes have.

    Example:
        >>> unpack_bits(torch.tensor([57], dtype=torch.uint8), bits=2, count=3).tolist()
        [1, 2, 3]
    """
    _refuse_width(bits)
    if len(stream) != packed_size(count, bits=bits):
        raise ValueError(f"{count} codes of {bits} bits have {packed_size(count, bits=bits)} bytes, found {len(stream)}")
    if bits == 0 or count == 0:
        return torch.zeros(count, dtype=torch.int64)
    shifts, places = torch.arange(bits), torch.arange(8)
    parts = []
    for begin in range(0, count, _CHUNK):
        length = min(_CHUNK, count - begin)
        octets = stream[begin * bits // 8 : begin * bits // 8 + packed_size(length, bits=bits)].to(torch.int64)
        flat = ((octets[:, None] >> places) & 1).reshape(-1)[: length * bits]
        parts.append((flat.reshape(length, bits) << shifts).sum(dim=1))
    return torch.cat(parts)


def packed_size(count: int, *, bits: int) -> int:
    """Bytes of `count` codes of `bits` bits."""
    return (count * bits + 7) // 8


def combination_bits(pattern: NMPattern) -> int:
    """Bits that name one of the C combinations, ceil(log2 C): never more than N positions of ceil(log2 M) bits each.

    Example:
        >>> [combination_bits(NMPattern(n, m)) for n, m in ((2, 4), (1, 4), (1, 16), (4, 8), (2, 16), (4, 4))]
        [3, 2, 4, 7, 7, 0]
    """
    return (pattern.num_combinations - 1).bit_length()


def rank_combinations(positions_GN: Tensor, *, m: int) -> Tensor:
    """Number of a block's kept positions c_1 < ... < c_N among all combinations: sum over i of binom(c_i, i).

    Args:
        positions_GN: integers in [0, m), rising within each row.
        m: block length.

    Returns:
        numbers_G int64 in [0, binom(m, N)).

    Example:
        >>> rank_combinations(torch.tensor([[0, 1], [0, 2], [1, 2], [0, 3], [1, 3], [2, 3]]), m=4).tolist()
        [0, 1, 2, 3, 4, 5]

    Source: the combinatorial number system (Knuth, The Art of Computer Programming 4A, 7.2.1.3, eq. 20).
    """
    return _binomials(m, positions_GN.shape[1])[positions_GN, torch.arange(positions_GN.shape[1])].sum(dim=1)


def unrank_combinations(numbers_G: Tensor, pattern: NMPattern) -> Tensor:
    """Kept positions of each block, rising: the inverse of `rank_combinations`; positions_GN int64.

    Raises:
        ValueError: a number is no combination's.
    """
    if numbers_G.numel() and not 0 <= int(numbers_G.min()) <= int(numbers_G.max()) < pattern.num_combinations:
        raise ValueError(f"found combination {int(numbers_G.max())}; {pattern} has {pattern.num_combinations}")
    table_MN, rest_G = _binomials(pattern.m, pattern.n), numbers_G.clone()
    positions_GN = torch.empty(len(numbers_G), pattern.n, dtype=torch.int64)
    for i in reversed(range(pattern.n)):
        column = table_MN[:, i].contiguous()
        # The largest c with binom(c, i + 1) <= rest.
        positions_GN[:, i] = torch.searchsorted(column, rest_G, right=True) - 1
        rest_G = rest_G - column[positions_GN[:, i]]
    return positions_GN


def kept_positions(mask_GM: Tensor, *, n: int) -> Tensor:
    """The n positions per block to store, rising: those in the mask, filled up with the first others where it has fewer.

    Args:
        mask_GM: bool, at most n True per row.
        n: how many.
    """
    order_GM = (~mask_GM).to(torch.uint8).argsort(dim=1, stable=True)
    return order_GM[:, :n].sort(dim=1).values


def _binomials(m: int, n: int) -> Tensor:
    """binom(c, i + 1) at [c, i]."""
    if comb(m, n) >= 1 << MAX_BITS:
        raise ValueError(f"{n}:{m} has more combinations than {MAX_BITS} bits can number")
    return torch.tensor([[comb(c, i + 1) for i in range(n)] for c in range(m)], dtype=torch.int64)


def _refuse_width(bits: int) -> None:
    if not 0 <= bits <= MAX_BITS:
        raise ValueError(f"codes have 0 to {MAX_BITS} bits, found {bits}")
