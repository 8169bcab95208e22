"""Intervals of accuracies. Pure arithmetic on counts; knows no model and no tensor library."""

from __future__ import annotations

from math import sqrt

Z_95 = 1.959963984540054
"""Two-sided 95 % point of the normal distribution."""


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % interval of an accuracy: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).

    Unlike p -+ z sqrt(p(1-p)/n) it stays inside [0, 1] and has a width where every image is correct.

    Example:
        >>> [round(value, 4) for value in wilson_interval(450, 450)]
        [0.9915, 1.0]

    Source: Wilson 1927, Journal of the American Statistical Association 22, 209-212.
    """
    share, z2 = correct / total, Z_95**2
    centre = share + z2 / (2 * total)
    half = Z_95 * sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return max(0.0, (centre - half) / (1 + z2 / total)), min(1.0, (centre + half) / (1 + z2 / total))


def paired_drop(*, only_baseline: int, only_model: int, total: int) -> tuple[float, float, float]:
    """Drop in accuracy on the same images, with its 95 % interval: (b - c)/n -+ z sqrt(b + c - (b - c)^2/n)/n.

    Args:
        only_baseline: b, images that the baseline alone gets right.
        only_model: c, images that the model alone gets right.
        total: n.

    Returns:
        drop, low, high; above 0 the model is worse.

    Source: Newcombe 1998, Statistics in Medicine 17, 2635-2650, method 1.
    """
    difference = only_baseline - only_model
    drop = difference / total
    half = Z_95 * sqrt(max(0.0, only_baseline + only_model - difference**2 / total)) / total
    return drop, drop - half, drop + half
