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


def paired_drop(*, both_right: int, only_baseline: int, only_model: int, total: int) -> tuple[float, float, float]:
    """Drop in accuracy on the same images, with its 95 % interval from the two accuracies' Wilson intervals.

    With p, q the accuracies of baseline and model, their Wilson intervals (l, u) and (m, v), and phi the correlation of being
    right: low = p - q - sqrt((p - l)^2 - 2 phi (p - l)(v - q) + (v - q)^2), and high likewise with u - p and q - m. The
    determinant in phi is brought n/2 nearer to 0 where it is positive. Unlike the normal approximation it has a width where
    no image tells the two apart.

    Args:
        both_right: images that both get right.
        only_baseline: images that the baseline alone gets right.
        only_model: images that the model alone gets right.
        total: n.

    Returns:
        drop, low, high; above 0 the model is worse.

    Source: Newcombe 1998, Statistics in Medicine 17, 2635-2650, method 10.
    """
    right, kept, neither = both_right + only_baseline, both_right + only_model, total - both_right - only_baseline - only_model
    drop = (only_baseline - only_model) / total
    determinant: float = both_right * neither - only_baseline * only_model
    if determinant > 0:
        determinant = max(determinant - total / 2, 0.0)
    margins = right * (total - right) * kept * (total - kept)
    phi = determinant / sqrt(margins) if margins else 0.0
    (low, high), (kept_low, kept_high) = wilson_interval(right, total), wilson_interval(kept, total)
    below, above = right / total - low, high - right / total
    kept_below, kept_above = kept / total - kept_low, kept_high - kept / total
    return drop, drop - _joined(below, kept_above, phi), drop + _joined(above, kept_below, phi)


def _joined(first: float, second: float, phi: float) -> float:
    """Half-width of a difference from those of its parts; never below 0 by rounding."""
    return sqrt(max(0.0, first**2 - 2 * phi * first * second + second**2))
