"""The Fréchet distance of two sets of features. Pure arithmetic; knows no images and no model.

Shapes: N samples, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(first_NF: Tensor, second_NF: Tensor) -> float:
    """Distance of two sets as if each were a normal distribution; 0 where mean and covariance agree.

        |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

    It is biased upwards by small sets, so only distances from equally many samples compare.

    Args:
        first_NF: at least 2 samples.
        second_NF: of the same number of features.

    Raises:
        ValueError: the sets do not fit together or hold too little.

    Example:
        >>> points = torch.tensor([[0.0], [2.0]])
        >>> frechet_distance(points, points + 3.0)
        9.0

    Source: Dowson and Landau 1982, J. Multivariate Anal. 12:450; for images Heusel et al. 2017, arXiv 1706.08500.
    """
    if first_NF.ndim != 2 or second_NF.ndim != 2 or first_NF.shape[1] != second_NF.shape[1]:
        raise ValueError(f"features are {tuple(first_NF.shape)} and {tuple(second_NF.shape)}; expected (N, F) with one F")
    if min(len(first_NF), len(second_NF)) < 2:
        raise ValueError(f"{len(first_NF)} and {len(second_NF)} samples; a covariance takes at least 2")
    (mean1, covariance1), (mean2, covariance2) = _moments(first_NF), _moments(second_NF)
    root = _root(covariance1)
    # (C1 C2)^(1/2) has the trace of the root of this symmetric matrix, which needs no complex numbers.
    product = torch.linalg.eigvalsh(root @ covariance2 @ root).clamp(min=0).sqrt().sum()
    apart = (mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace() - 2 * product
    return float(apart.clamp(min=0))


def _moments(features_NF: Tensor) -> tuple[Tensor, Tensor]:
    features = features_NF.double()
    mean = features.mean(dim=0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    return root
