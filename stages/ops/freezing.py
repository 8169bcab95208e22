"""The freezing rule of LTS on plain tensors: distance to the level, threshold over time, what it saves. Knows no model.

All distances are in normalised units, where two levels are level_step = 1 / (2^bits - 1) apart: the rule does not depend on
where the bounds are. Buffers have the weight's shape: D distance, P level of the step before, F step of freezing (0 = free).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

ThresholdMode = Literal["fixing", "linear_growth", "sine_growth"]


def threshold_rate(step: int, *, mode: ThresholdMode, fixed_rate: float, warmup_steps: int, total_steps: int) -> float:
    """rate(t): the threshold as a share of the distance of two levels.

    With x = (t - W_up) / (T - W_up): `fixing` fixed_rate; `linear_growth` x; `sine_growth` sin(pi x / 2).

    Args:
        step: t, from 0.
        mode: how the threshold grows.
        fixed_rate: of `fixing`.
        warmup_steps: W_up.
        total_steps: T, above W_up.

    Example:
        >>> threshold_rate(60, mode="linear_growth", fixed_rate=0.1, warmup_steps=20, total_steps=100)
        0.5

    Source: arXiv 2211.08544 and the authors' code.
    """
    done = (step - warmup_steps) / (total_steps - warmup_steps)
    return {"fixing": fixed_rate, "linear_growth": done, "sine_growth": math.sin(math.pi * done / 2)}[mode]


@torch.no_grad()
def update_distance(
    distance: Tensor, previous: Tensor, *, position: Tensor, level: Tensor, step: int, momentum: float, level_step: float
) -> None:
    """One step of the distance D and the level P, in place.

    d = |p - q| with p before the clamp. t = 1: D <- d. Otherwise D <- m D + (1 - m) d, then D <- level_step wherever q != P:
    a level transition wipes the history. P <- q. At t = 0 the second form acts on zeros and t = 1 overwrites it, so D
    effectively starts at t = 1.

    Args:
        distance: D.
        previous: P.
        position: p, not clamped.
        level: q in [0, 1].
        step: t.
        momentum: m in [0, 1).
        level_step: distance of two levels.

    Source: arXiv 2211.08544 and the authors' code.
    """
    gap = (position - level).abs_()
    if step == 1:
        distance.copy_(gap)
    else:
        distance.mul_(momentum).add_(gap.mul_(1 - momentum))
        distance.masked_fill_(level != previous, level_step)
    previous.copy_(level)


@torch.no_grad()
def freeze(frozen_at: Tensor, distance: Tensor, *, step: int, threshold: float, warmup_steps: int) -> None:
    """F <- t wherever F = 0 and D <= threshold, once t > W_up; in place and never undone.

    Source: arXiv 2211.08544 and the authors' code.
    """
    if step > warmup_steps:
        frozen_at.masked_fill_((frozen_at == 0) & (distance <= threshold), step)


def backward_saving(frozen_fraction: float) -> float:
    """Share of the backward cost that frozen weights make unnecessary: f / 2.

    The backward pass of a layer is an input gradient and a weight gradient of equal cost; freezing makes the latter
    unnecessary. This is accounting: what is really left out depends on which weights are frozen together.

    Example:
        >>> backward_saving(0.56)
        0.28

    Source: every published pair of arXiv 2211.08544 (56 % -> 28 %, 46 % -> 23 %).
    """
    return frozen_fraction / 2
