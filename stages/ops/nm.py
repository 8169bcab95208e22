"""N:M sparsity on plain tensors: block layout, masks, combination scores, the removal schedule. Knows no model and no stage.

Shapes: O out features or channels, I in features or channels (per group), kh, kw kernel, M block length, G blocks in a
weight (numel / M), C = binom(M, N) combinations. Blocks run along the reduction axis: a linear weight (O, I) is cut as it
lies; a convolution weight (O, I, kh, kw) is permuted to (O, kh, kw, I) first, so that channels 0..M-1 of one (o, kh, kw)
are one block. A grouped convolution's I is the number of input channels of one group, which is what it sums over.
"""

from __future__ import annotations

from itertools import combinations
from math import ceil, comb

import torch
from torch import Tensor

from stages.ops.pattern import NMPattern


def to_blocks(weight: Tensor, *, m: int) -> Tensor:
    """Cut a weight into blocks of m consecutive inputs.

    Args:
        weight: (O, I) or (O, I, kh, kw), any dtype; I divisible by m.
        m: block length.

    Returns:
        blocks_GM (numel / m, m): a view where the layout allows it, else a copy.

    Raises:
        ValueError: if m does not divide I.
    """
    if weight.shape[1] % m:
        raise ValueError(f"a weight of shape {tuple(weight.shape)} has I = {weight.shape[1]} inputs, not a multiple of M = {m}")
    return weight.movedim(1, -1).reshape(-1, m)


def from_blocks(blocks_GM: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Put blocks back into a weight of `shape`: the inverse of `to_blocks`."""
    out, inputs, *kernel = shape
    return blocks_GM.reshape(out, *kernel, inputs).movedim(-1, 1).contiguous()


def incidence(pattern: NMPattern) -> Tensor:
    """Which weights each combination keeps: B_CM bool, one row per index set, in lexicographic order.

    Example:
        >>> incidence(NMPattern(2, 3)).int().tolist()
        [[1, 1, 0], [1, 0, 1], [0, 1, 1]]
    """
    rows_CN = torch.tensor(list(combinations(range(pattern.m), pattern.n)))
    return torch.zeros(pattern.num_combinations, pattern.m, dtype=torch.bool).scatter_(1, rows_CN, True)


def magnitude_mask(weight: Tensor, *, pattern: NMPattern) -> Tensor:
    """Keep the N largest magnitudes in every block of M.

    Args:
        weight: (O, I) or (O, I, kh, kw) float; I divisible by M.
        pattern: N and M.

    Returns:
        mask bool, the weight's shape, exactly N True per block; of equal magnitudes the earlier one stays.

    Raises:
        ValueError: naming I and M if M does not divide I.

    Example:
        >>> magnitude_mask(torch.tensor([[0.1, -3.0, 2.0, 0.5]]), pattern=NMPattern(2, 4)).int().tolist()
        [[0, 1, 1, 0]]
    """
    blocks_GM = to_blocks(weight.detach(), m=pattern.m).abs()
    order_GM = blocks_GM.argsort(dim=1, descending=True, stable=True)
    mask_GM = torch.zeros_like(blocks_GM, dtype=torch.bool).scatter_(1, order_GM[:, : pattern.n], True)
    return from_blocks(mask_GM, weight.shape)


def initial_score(pattern: NMPattern) -> float:
    """Start value 1 / binom(M-1, N-1): the scores that cover any one weight then sum to 1 (2:4 gives 1/3, 1:M gives 1)."""
    return 1.0 / comb(pattern.m - 1, pattern.n - 1)


def kept_combinations(epoch: int, *, num_combinations: int, start: float, end: float, power: float) -> int:
    """Combinations left in every block during `epoch`.

        kept(e) = 1 + ceil((C - 1) * (1 - (e - t_i) / (t_f - t_i)) ** p),  clamped to [1, C]

    Before t_i the reference's formula exceeds C (and its code fails); clamped, t_i is the epoch at which removal begins.

    Args:
        epoch: e, counted from 0.
        num_combinations: C.
        start: t_i, in epochs.
        end: t_f, in epochs, above t_i; the first epoch of exact N:M.
        power: p > 0; the larger, the earlier most combinations go.

    Example:
        >>> [kept_combinations(e, num_combinations=6, start=0, end=60, power=3) for e in (0, 4, 5, 59, 60, 99)]
        [6, 6, 5, 2, 1, 1]

    Source: Zhang et al. 2022, arXiv 2206.06662 (section 3.3), and the authors' code.
    """
    if epoch >= end:
        return 1
    remaining = min(1.0, 1.0 - (epoch - start) / (end - start))
    # Rounding may leave a whole number a little above itself; before t_f there are two at least, however small the power is.
    beyond_last = ceil((num_combinations - 1) * float(remaining**power) - 1e-9)
    return min(num_combinations, 1 + max(1, beyond_last))


def remove_lowest(scores_GC: Tensor, removed_GC: Tensor, *, count: int) -> Tensor:
    """Remove, in every block, the `count` lowest scores; those removed earlier count as the lowest of all.

    Args:
        scores_GC: float.
        removed_GC: bool, removed before; at most `count` per block. A removed combination never comes back.
        count: k, how many are removed afterwards, 0 to C - 1. Of equal scores the earlier combination goes first.

    Returns:
        removed_GC bool, exactly `count` True per block.
    """
    ranked_GC = scores_GC.detach().masked_fill(removed_GC, float("-inf"))
    order_GC = ranked_GC.argsort(dim=1, stable=True)
    return torch.zeros_like(removed_GC).scatter_(1, order_GC[:, :count], True)


def union_mask(removed_GC: Tensor, incidence_CM: Tensor) -> Tensor:
    """Weights that at least one remaining combination covers: mask_GM bool = (alive_GC @ B_CM > 0)."""
    return (~removed_GC).to(torch.float32) @ incidence_CM.to(torch.float32) > 0


def combination_gradient(weight: Tensor, weight_gradient: Tensor, removed_GC: Tensor, incidence_CM: Tensor) -> Tensor:
    """Gradient of the scores: dL/dalpha[b, c] = alive[b, c] * sum_j B[c, j] * W[b, j] * g[b, j].

    Args:
        weight: W, the dense weight, (O, I) or (O, I, kh, kw).
        weight_gradient: g = dL/d(mask * W), the same shape.
        removed_GC: bool.
        incidence_CM: B, bool or float.

    Returns:
        (G, C), exactly 0 where removed.
    """
    products_GM = to_blocks(weight * weight_gradient, m=incidence_CM.shape[1])
    return (products_GM @ incidence_CM.to(products_GM.dtype).T).masked_fill_(removed_GC, 0.0)


def violating_blocks(weight: Tensor, *, pattern: NMPattern) -> int:
    """Number of blocks of M that hold more than N non-zeros; 0 means that the weight is N:M sparse."""
    return int((to_blocks(weight.detach(), m=pattern.m).count_nonzero(dim=1) > pattern.n).sum())
