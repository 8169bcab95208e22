"""How near images are to others: PSNR and SSIM of values from 0 to 1. Pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

MAX_PSNR_DB = 100.0
"""Of images without a difference, whose PSNR has no end."""
WINDOW, SIGMA = 11, 1.5
"""Of SSIM's Gaussian window, pixels. Images smaller than the window get the largest odd one that fits."""
K1, K2 = 0.01, 0.03


def squared_error(images: Tensor, references: Tensor) -> Tensor:
    """Mean squared difference of each image, (B,) float64.

    (B, channels, H, W) each, values from 0 to 1.
    """
    return (images - references).square().flatten(1).double().mean(dim=1)


def psnr_of(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of mean squared differences: 10 log10(1 / error), at most 100.

    Example:
        >>> psnr_of(torch.tensor([0.01, 0.0])).tolist()
        [20.0, 100.0]
    """
    return -10 * torch.log10(error.clamp_min(10 ** (-MAX_PSNR_DB / 10)))


def psnr_db(images: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, (B,) float64 in dB; see `squared_error`."""
    return psnr_of(squared_error(images, references))


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Structural similarity of each image, (B,) in [-1, 1]: the mean of its map over all places where the window lies inside.

    (B, channels, H, W) each, values from 0 to 1.

    Source: Wang, Bovik, Sheikh, Simoncelli 2004, Image Quality Assessment: From Error Visibility to Structural Similarity,
    equation 13, with its 11x11 Gaussian window (deviation 1.5), K1 = 0.01, K2 = 0.03.
    """
    channels, side = images.shape[1], min(WINDOW, *(size - (size + 1) % 2 for size in images.shape[2:]))
    places = torch.arange(side, dtype=images.dtype, device=images.device) - side // 2
    line = torch.exp(-places.square() / (2 * SIGMA**2))
    line = line / line.sum()
    window = (line[:, None] * line[None, :]).expand(channels, 1, side, side)

    def blurred(values: Tensor) -> Tensor:
        return functional.conv2d(values, window, groups=channels)

    mean_x, mean_y = blurred(images), blurred(references)
    variance_x = blurred(images.square()) - mean_x.square()
    variance_y = blurred(references.square()) - mean_y.square()
    covariance = blurred(images * references) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    below = (mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2)
    return (above / below).flatten(1).mean(dim=1)
