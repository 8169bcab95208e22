"""What a Vision Transformer costs for given numbers of tokens, and which schedules meet a budget. Knows no model and no tensor.

Counts of tokens hold the class token. L blocks, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ViTShape:
    """The sizes that cost depends on.

    Attributes:
        depth: blocks.
        num_patches: P, tokens without the class token.
        width: C.
        attention_width: heads times head width, usually C.
        hidden_width: of the MLP, usually 4 C.
        embedding_macs: multiply-accumulates that turn an image into tokens.
        head_macs: of the classifier.
        mean_pooled: the classifier sees the mean of the patch tokens, and not the class token.
    """

    depth: int
    num_patches: int
    width: int
    attention_width: int
    hidden_width: int
    embedding_macs: int
    head_macs: int
    mean_pooled: bool = False

    @property
    def num_tokens(self) -> int:
        """N0 = P + 1."""
        return self.num_patches + 1

    def block_macs(self, before: Any, after: Any) -> Any:
        """4 N C^2 + 2 N^2 C + 8 N' C^2 where all widths are usual: attention sees N tokens, the MLP the N' that are left."""
        width, inner = self.width, self.attention_width
        attention = before * (4 * width * inner) + before * before * (2 * inner)
        return attention + after * (2 * width * self.hidden_width)

    def macs(self, kept_tokens: Sequence[Any]) -> Any:
        """Multiply-accumulates of one image when `kept_tokens[l]` tokens leave block l.

        F = embedding + sum_l [4 N_l C^2 + 2 N_l^2 C + 8 N_{l+1} C^2] + C * classes. Norms, softmax, biases, ranking and
        matching are left out. Numbers in, number out; tensors in, tensor out.

        Source: Chen et al. 2023, arXiv 2305.17997 (where multiply-accumulates are called FLOPs).
        """
        counts = (self.num_tokens, *kept_tokens)
        return sum((self.block_macs(*pair) for pair in pairwise(counts)), self.embedding_macs + self.head_macs)

    @property
    def dense_macs(self) -> int:
        """Of the model with all its tokens."""
        return int(self.macs([self.num_tokens] * self.depth))


@dataclass(frozen=True, kw_only=True)
class TokenSchedule:
    """How many tokens each block keeps after pruning, and how many after merging.

    Example:
        >>> TokenSchedule(prune=(5, 4), merge=(5, 3)).kept_tokens(5)
        (5, 3)
    """

    prune: tuple[int, ...]
    merge: tuple[int, ...]

    def kept_tokens(self, num_tokens: int) -> tuple[int, ...]:
        """Tokens that leave each block, N_{l+1} = min(N_l, K_p, K_m): schedules need not fall steadily."""
        kept, current = [], num_tokens
        for prune, merge in zip(self.prune, self.merge, strict=True):
            current = min(current, prune, merge)
            kept.append(current)
        return tuple(kept)

    def pruned_tokens(self, num_tokens: int) -> tuple[int, ...]:
        """Tokens that each block drops."""
        before = (num_tokens, *self.kept_tokens(num_tokens))
        return tuple(n - min(n, prune) for n, prune in zip(before, self.prune, strict=False))

    def merged_tokens(self, num_tokens: int) -> tuple[int, ...]:
        """Tokens that each block merges into others."""
        before = (num_tokens, *self.kept_tokens(num_tokens))
        pruned = (min(n, prune) for n, prune in zip(before, self.prune, strict=False))
        return tuple(n - min(n, merge) for n, merge in zip(pruned, self.merge, strict=False))


PUBLISHED_SCHEDULES = {
    "deit_small_2.9": TokenSchedule(
        prune=(197, 196, 190, 168, 150, 139, 129, 117, 99, 78, 58, 3),
        merge=(197, 194, 176, 156, 141, 133, 121, 107, 88, 64, 56, 3),
    ),
    "deit_base_11.5": TokenSchedule(
        prune=(197, 197, 197, 188, 170, 154, 139, 123, 107, 72, 43, 3),
        merge=(197, 197, 192, 178, 158, 145, 127, 111, 94, 50, 35, 3),
    ),
}
"""DiffRate's own, by model and GMACs. Source: github.com/OpenGVLab/DiffRate, README."""


def refuse_schedule(schedule: TokenSchedule, *, depth: int, num_tokens: int, who: str) -> None:
    """Raise ValueError where a schedule does not fit a model, saying which number is at fault."""
    for word, counts in (("prune", schedule.prune), ("merge", schedule.merge)):
        if len(counts) != depth:
            raise ValueError(f"{who}: {word} has {len(counts)} counts; the model has {depth} blocks and needs one for each")
        for block, count in enumerate(counts):
            if not 2 <= count <= num_tokens:
                raise ValueError(
                    f"{who}: {word}[{block}] is {count}; expected 2 to {num_tokens}: the class token, at least one patch, and "
                    f"at most what the model has. A schedule belongs to a number of patches"
                )


def tome_kept_tokens(merged: Sequence[int], *, num_tokens: int) -> tuple[int, ...]:
    """Tokens that leave each block when ToMe merges `merged` there: never more than half of the patches."""
    kept, current = [], num_tokens
    for count in merged:
        current -= min(count, (current - 1) // 2)
        kept.append(current)
    return tuple(kept)


def keep_rate_counts(rate: float, *, depth: int, num_tokens: int, blocks: Sequence[int]) -> tuple[int, ...]:
    """Tokens left after each block when those in `blocks` keep ceil(rate * patches) patches of what comes in."""
    counts, current = [], num_tokens
    for block in range(depth):
        if block in blocks:
            current = max(2, ceil(round(rate * (current - 1), 9)) + 1)
        counts.append(current)
    return tuple(counts)


def fit_budget(
    ratio: float, *, shape: ViTShape, schedules: Sequence[tuple[Any, tuple[int, ...]]], who: str
) -> tuple[Any, tuple[int, ...]]:
    """The dearest of `schedules` (name, kept tokens) that costs at most `ratio` of the dense model.

    Raises:
        ValueError: none is cheap enough; the message has the least that can be reached.
    """
    costs = [(shape.macs(kept) / shape.dense_macs, index) for index, (_, kept) in enumerate(schedules)]
    fitting = [pair for pair in costs if pair[0] <= ratio * (1 + 1e-9)]
    if not fitting:
        raise ValueError(f"{who}: gmacs_ratio {ratio:g} cannot be reached; the least is {min(costs)[0]:.4f}")
    return schedules[max(fitting, key=lambda pair: (pair[0], -pair[1]))[1]]


def rate_or_budget(
    keep_rate: float | None, gmacs_ratio: float | None, *, shape: ViTShape, blocks: Sequence[int], who: str
) -> tuple[int, ...]:
    """As `keep_rate_counts`: by the rate that is given, else by the one in thousandths that uses up most of the budget.

    Raises:
        ValueError: the budget is out of reach.
    """
    depth, num_tokens = shape.depth, shape.num_tokens
    if keep_rate is not None:
        return keep_rate_counts(keep_rate, depth=depth, num_tokens=num_tokens, blocks=blocks)
    assert gmacs_ratio is not None
    rates = [index / 1000 for index in range(1, 1000)]
    schedules = [(rate, keep_rate_counts(rate, depth=depth, num_tokens=num_tokens, blocks=blocks)) for rate in rates]
    return fit_budget(gmacs_ratio, shape=shape, schedules=schedules, who=who)[1]
