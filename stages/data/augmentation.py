"""Random changes to a batch of images, drawn from a seed: the same seed and batch give the same images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def shift_images(
    images: Tensor,
    *,
    pixels: int,
    probability: float,
    seed: int,
    fill: Tensor | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Tensor:
    """Move some images by up to `pixels` up or down and left or right; what comes in from outside is black.

    Args:
        images: (B, C, H, W) float.
        pixels: largest shift, 0 or more; each direction is drawn evenly from -pixels..pixels.
        probability: of an image being moved at all, 0 to 1.
        seed: of the draws, which are made on the CPU and so are the same on every device.
        fill: (C,) scaled value of black; None for 0.
        rank: these are every `world_size`-th image of a batch, from number `rank` on, and move as they would in it.
        world_size: processes that share the batch.

    Returns:
        (B, C, H, W), new memory unless nothing is to be moved.

    Example:
        >>> image = torch.eye(3).reshape(1, 1, 3, 3)
        >>> shift_images(image, pixels=1, probability=1.0, seed=0).shape
        torch.Size([1, 1, 3, 3])
    """
    if pixels == 0 or probability == 0:
        return images
    batch, _, height, width = images.shape
    generator = torch.Generator().manual_seed(seed)
    moved = torch.rand(batch * world_size, generator=generator) < probability
    shift_B2 = torch.randint(-pixels, pixels + 1, (batch * world_size, 2), generator=generator) * moved[:, None]
    shift_B2 = shift_B2[rank::world_size].to(images.device) + pixels
    if fill is None:
        padded = functional.pad(images, (pixels,) * 4)
    else:
        black = fill.to(images)[:, None, None]
        padded = functional.pad(images - black, (pixels,) * 4) + black
    row_BH1 = (shift_B2[:, 0, None] + torch.arange(height, device=images.device))[:, :, None]
    column_B1W = (shift_B2[:, 1, None] + torch.arange(width, device=images.device))[:, None, :]
    index_B11 = torch.arange(batch, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index_B11, row_BH1, column_B1W].permute(0, 3, 1, 2).contiguous()
