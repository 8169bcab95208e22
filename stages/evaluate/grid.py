"""Images side by side in one PNG."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from stages.ops.input_spec import InputSpec

MIN_SIDE = 32
"""Pixels of one image's side in the grid, at least: smaller ones are enlarged by whole factors."""


def write_grid(images: Tensor, path: Path, *, spec: InputSpec, columns: int) -> None:
    """Write the images as one PNG, row by row, a dark line between them."""
    from PIL import Image

    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (spec.mean, spec.std))
    pixels = ((images.cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    factor = max(1, -(-MIN_SIDE // spec.height))
    pixels = pixels.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    pixels = pixels if spec.channels == 3 else pixels[:, :1].expand(-1, 3, -1, -1)
    _, _, height, width = pixels.shape
    rows = -(-len(pixels) // columns)
    canvas = torch.full((3, rows * (height + 1) + 1, columns * (width + 1) + 1), 64, dtype=torch.uint8)
    for number, image in enumerate(pixels):
        top, left = number // columns * (height + 1) + 1, number % columns * (width + 1) + 1
        canvas[:, top : top + height, left : left + width] = image
    Image.fromarray(canvas.permute(1, 2, 0).numpy()).save(path, optimize=True)
