"""Token reduction on plain tensors: ranking, pruning, matching, merging, masks. Knows no model and no stage.

Shapes: B images, N tokens that come in, K tokens that stay, S tokens that are merged away, C channels, h heads. The class token
is token 0 and stays there. `size` counts how many patches a token stands for; None means one each, which saves its logarithm.
Nothing here scatters: merging is a product with a one-hot matrix and selection a lookup of rows, which runtimes do quickly.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

SMALLEST_SIZE = 1e-6
"""Floor of a token's size. A cosine near -1 could make the sum negative and its logarithm NaN; ordinary sizes are about 1."""

MASK_EPSILON = 1e-6

VECTOR_WIDTH = 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8
"""Numbers of single precision that the processor handles at once."""


class Tokens(NamedTuple):
    """Tokens on their way through the blocks.

    Attributes:
        features: (B, N, C) float.
        size: (B, N) float, or None where every token stands for itself.
        mask: (B, N) float, 1 for tokens that are still there, or None where the others have been removed.
    """

    features: Tensor
    size: Tensor | None = None
    mask: Tensor | None = None


class Match(NamedTuple):
    """Where the last S of N ranked tokens go.

    Attributes:
        target: (B, S, K) one-hot float, column k for destination k; column 0 (the class token) is empty.
        similarity: (B, S) cosine between each token and its destination.
    """

    target: Tensor
    similarity: Tensor


def class_attention(query_Bh1D: Tensor, key_BhND: Tensor, *, size: Tensor | None) -> Tensor:
    """Importance of each token: a_j = mean over heads of softmax_j(q_class k_j + log size_j).

    Args:
        query_Bh1D: the class token's query, scaled by 1 / sqrt(D) already.
        key_BhND: keys of all tokens.
        size: (B, N) or None.

    Returns:
        (B, N) float, the class token's own attention at 0.
    """
    logits = query_Bh1D @ key_BhND.transpose(-2, -1)
    if size is not None:
        logits = logits + size.log()[:, None, None, :]
    return logits.softmax(dim=-1).mean(dim=1).squeeze(1)


def attend(
    query_BhND: Tensor, key_BhND: Tensor, value_BhND: Tensor, *, size: Tensor | None, scale: float, dropout: float = 0.0
) -> Tensor:
    """Attention in which a token counts as often as its size says: softmax_j(scale q_i k_j + log size_j) v_j.

    Args:
        query_BhND: not scaled.
        key_BhND: of all tokens.
        value_BhND: of all tokens.
        size: (B, N) or None.
        scale: usually 1 / sqrt(D).
        dropout: of attention weights.

    Returns:
        (B, h, N, D).

    Source: Bolya et al. 2022, arXiv 2210.09461, eq. 1.
    """
    bias = None if size is None else size.log().to(query_BhND.dtype)
    spare = spare_keys(key_BhND)
    if spare:
        if bias is None:
            bias = query_BhND.new_zeros(1, key_BhND.shape[2])
        bias = functional.pad(bias, (0, spare), value=-torch.inf)
        key_BhND, value_BhND = (functional.pad(part, (0, 0, 0, spare)) for part in (key_BhND, value_BhND))
    mask = None if bias is None else bias[:, None, None, :]
    return functional.scaled_dot_product_attention(
        query_BhND, key_BhND, value_BhND, attn_mask=mask, dropout_p=dropout, scale=scale
    )


def spare_keys(key_BhND: Tensor) -> int:
    """How many keys that count nothing make attention quicker: torch's kernel for the CPU does singly what no vector fills.

    For 64 images, 4 heads of width 8, AVX-512 and sizes, in microseconds, without spare keys and with: 12 tokens 534 and 192,
    15 tokens 949 and 264, 26 tokens 793 and 504, 20 tokens 411 and 402, 17 tokens 346 and 436. So from 5 left over on, of
    16 as of 8, and where the copies cost less than what they save: for one such image, or heads of width 64, they do not.
    Only where that kernel runs as it is: not in a graph that other runtimes get, nor where multiplications are counted.
    """
    if torch.compiler.is_compiling() or key_BhND.device.type != "cpu" or torch.is_grad_enabled():
        return 0
    batch, heads, tokens, width = key_BhND.shape
    left_over = tokens % VECTOR_WIDTH
    if left_over < 5 or width > 32 or batch * heads * tokens * left_over < 4096:
        return 0
    fused = torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call] # of the CPU's kernel, too
    return VECTOR_WIDTH - left_over if fused else 0


def rank_tokens(importance_BN: Tensor, *, kept: int) -> Tensor:
    """Places of the class token and of the kept - 1 most important others, most important first.

    Args:
        importance_BN: any floats; that of the class token is not looked at.
        kept: how many, the class token counted, 1 to N.

    Returns:
        order_BK int64, order[:, 0] = 0.

    Example:
        >>> rank_tokens(torch.tensor([[0.0, 0.1, 0.7, 0.2]]), kept=3).tolist()
        [[0, 2, 3]]
    """
    others = importance_BN[:, 1:].topk(kept - 1, dim=1).indices + 1
    return functional.pad(others, (1, 0))


def take_tokens(values: Tensor, order_BK: Tensor) -> Tensor:
    """Rows `order_BK` of (B, N, C) or (B, N): whole rows are copied, where a gather would look up each number."""
    return _take_rows(values, _rows(order_BK, tokens=values.shape[1]), kept=order_BK.shape[1])


def match_tokens(features_BNC: Tensor, *, kept: int) -> Match:
    """Find, for each of the tokens after the first `kept`, the most similar of those, the class token excepted.

    similarity_sk = x_s . x_k / (|x_s| |x_k|), on the features themselves, without gradient. Many may choose one destination.

    Args:
        features_BNC: ranked, the most important first.
        kept: K, 2 to N - 1.

    Source: Chen et al. 2023, arXiv 2305.17997, and the authors' code.
    """
    directions = _directions(features_BNC)
    best, place = torch.bmm(directions[:, kept:], directions[:, 1:kept].transpose(1, 2)).max(dim=-1)
    return Match(target=_one_hot(place + 1, kept, like=features_BNC), similarity=best)


def merge_features(features_BNC: Tensor, target_BSK: Tensor) -> Tensor:
    """x_k <- mean of x_k and all tokens that go there, each counted once (not by size).

    Args:
        features_BNC: the K destinations, then the S tokens that go.
        target_BSK: one-hot.

    Returns:
        (B, K, C).
    """
    kept = target_BSK.shape[2]
    sums = torch.baddbmm(features_BNC[:, :kept], target_BSK.transpose(1, 2), features_BNC[:, kept:])
    return sums / (target_BSK.sum(dim=1)[..., None] + 1)


def merge_sizes(size_BN: Tensor | None, match: Match, *, smallest: float | None = None) -> Tensor:
    """size_k <- size_k + sum over the tokens s that go there of size_s * similarity_s.

    Args:
        size_BN: of the K destinations, then of the S tokens that go; None where all are 1.
        match: from `match_tokens`.
        smallest: in training each term is at least 1, as in the authors' code; at inference only the sum has a tiny floor.

    Returns:
        (B, K).
    """
    kept = match.target.shape[2]
    moved = match.similarity if size_BN is None else size_BN[:, kept:] * match.similarity
    own = match.target.new_ones(()) if size_BN is None else size_BN[:, :kept]
    if smallest is not None:
        own, moved = own.clamp(min=smallest), moved.clamp(min=smallest)
    # Where products are in half precision, the sum is not.
    merged = own + (moved[:, None] @ match.target).squeeze(1).to(match.target.dtype)
    return merged if smallest is not None else merged.clamp(min=SMALLEST_SIZE)


def reduce_ranked(tokens: Tokens, importance_BN: Tensor, *, prune_to: int, merge_to: int) -> Tokens:
    """Rank by importance, keep the first `prune_to` tokens, merge all after the first `merge_to` of those into them.

    Counts hold the class token; more than there are means that nothing happens. Where nothing happens at all the tokens stay
    in their order, since no later layer looks at it.

    Args:
        tokens: without a mask.
        importance_BN: from `class_attention`.
        prune_to: K_p, at least 2.
        merge_to: K_m, at least 2.

    Source: Chen et al. 2023, arXiv 2305.17997, and the authors' code. Departs by not sorting where nothing is removed.
    """
    current = tokens.features.shape[1]
    pruned = min(prune_to, current)
    kept = min(merge_to, pruned)
    if kept == current:
        return tokens
    rows = _rows(rank_tokens(importance_BN, kept=pruned), tokens=current)
    features = _take_rows(tokens.features, rows, kept=pruned)
    size = None if tokens.size is None else _take_rows(tokens.size, rows, kept=pruned)
    if kept == pruned:
        return Tokens(features, size)
    match = match_tokens(features, kept=kept)
    return Tokens(merge_features(features, match.target), merge_sizes(size, match))


def merge_bipartite(tokens: Tokens, keys_BND: Tensor, *, merged: int) -> Tokens:
    """Merge `merged` tokens: each even-placed token has an edge to its most similar odd-placed one; the strongest edges go.

    x_k <- size-weighted mean of x_k and all tokens that go there; size_k <- sum of their sizes. The class token keeps place 0.

    Args:
        tokens: without a mask, class token first.
        keys_BND: what similarity is measured on: keys, mean over heads.
        merged: r; at most half of the tokens other than the class token go.

    Source: Bolya et al. 2022, arXiv 2210.09461, appendix D. Departs in the order of what comes out: kept even tokens by rising
    place in the ranking of edges, then odd ones, which no layer looks at; the class token is put first.
    """
    features = tokens.features
    count = min(merged, (features.shape[1] - 1) // 2)
    if count <= 0:
        return tokens
    size = features.new_ones(features.shape[:2]) if tokens.size is None else tokens.size
    directions = _directions(keys_BND)
    best, place = (directions[:, 2::2] @ directions[:, 1::2].transpose(1, 2)).max(dim=-1)
    order = best.argsort(dim=-1, descending=True)
    moving, staying = order[:, :count], order[:, count:]
    even, even_size, odd_size = features[:, 2::2], size[:, 2::2], size[:, 1::2]
    target_BSK = _one_hot(take_tokens(place, moving), odd_size.shape[1], like=features)
    moving_size = take_tokens(even_size, moving)
    weighted = take_tokens(even, moving) * moving_size[..., None]
    new_size = odd_size + (moving_size[:, None] @ target_BSK).squeeze(1)
    odd = torch.baddbmm(features[:, 1::2] * odd_size[..., None], target_BSK.transpose(1, 2), weighted) / new_size[..., None]
    return Tokens(
        torch.cat([features[:, :1], take_tokens(even, staying), odd], dim=1),
        torch.cat([size[:, :1], take_tokens(even_size, staying), new_size], dim=1),
    )


def masked_softmax(logits: Tensor, mask_BN: Tensor) -> Tensor:
    """Softmax over keys in which masked keys count nothing, except that every token sees itself.

    e_ij = exp(l_ij - max_j l_ij) * (1 if i = j else M_j);  attention_ij = (e_ij + eps/N) / (sum_j e_ij + eps), eps = 1e-6.
    The largest logit is taken over masked keys too.

    Args:
        logits: (B, h, N, N) float; half precision is computed in float32.
        mask_BN: 1 or 0, with a gradient.

    Source: Chen et al. 2023, arXiv 2305.17997 (authors' code, after DynamicViT).
    """
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    count = wide.shape[-1]
    itself = torch.eye(count, dtype=wide.dtype, device=wide.device)
    sees = mask_BN.to(wide.dtype)[:, None, None, :] * (1 - itself) + itself
    weight = (wide - wide.amax(dim=-1, keepdim=True)).exp() * sees
    attention = (weight + MASK_EPSILON / count) / (weight.sum(dim=-1, keepdim=True) + MASK_EPSILON)
    return attention.to(logits.dtype)


def merge_in_place(tokens: Tokens, *, current: int, kept: int) -> Tokens:
    """The training form of merging: tokens kept..current-1 are merged into the first `kept`, and all rows stay.

    Rows that were merged keep their own features, rows after `current` are left alone; masking them is the caller's business.
    Sizes of the first `current` rows are at least 1 before they are summed.
    """
    features, size = tokens.features, tokens.size
    assert size is not None
    live = features[:, :current]
    match = match_tokens(live, kept=kept)
    own = (size[:, kept:current] * match.similarity).clamp(min=1)
    return Tokens(
        torch.cat([merge_features(live, match.target), features[:, kept:]], dim=1),
        torch.cat([merge_sizes(size[:, :current], match, smallest=1), own, size[:, current:]], dim=1),
        tokens.mask,
    )


def position_mask(keep_probability_N: Tensor, *, kept: int, current: int) -> Tensor:
    """m_t = 0 for kept <= t < current, else 1, with the gradient of the probability that rank t is kept.

    Args:
        keep_probability_N: pi_t for ranks t = 0 (class token) to N - 1.
        kept: K.
        current: tokens that are there before this operation.
    """
    places = torch.arange(keep_probability_N.shape[0], device=keep_probability_N.device)
    hard = ((places < kept) | (places >= current)).to(keep_probability_N.dtype)
    return hard - keep_probability_N.detach() + keep_probability_N


def _rows(order_BK: Tensor, *, tokens: int) -> Tensor:
    """Places in each image's `tokens` as row numbers of the whole batch: (B * K,)."""
    return (order_BK + torch.arange(order_BK.shape[0], device=order_BK.device)[:, None] * tokens).reshape(-1)


def _take_rows(values: Tensor, rows: Tensor, *, kept: int) -> Tensor:
    return values.flatten(0, 1).index_select(0, rows).reshape(values.shape[0], kept, *values.shape[2:])


def _directions(vectors: Tensor) -> Tensor:
    """Of length 1, without gradient, as `functional.normalize` makes them, which takes one more operation."""
    vectors = vectors.detach()
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / length.clamp_min(1e-12)


def _one_hot(place_BS: Tensor, columns: int, *, like: Tensor) -> Tensor:
    """(B, S, columns) of 0 and 1: rows of the identity are copied, where a comparison would look at each number."""
    identity = torch.eye(columns, dtype=like.dtype, device=like.device)
    rows: Tensor = functional.embedding(place_BS, identity)
    return rows
