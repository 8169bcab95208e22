"""Networks that restore images, by name. Knows how to build them; knows no files, no training and no transforms."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.models.zoo import RESTORATION, Architecture
from stages.ops.input_spec import InputSpec

KNOWN: Mapping[str, Mapping[str, Any]] = {
    "vdsr_micro": {"width": 32, "depth": 6},
    "vdsr": {"width": 64, "depth": 20},
}
"""Model name -> its arguments with their defaults; `vdsr` is the paper's."""


class VDSR(nn.Module):
    """Super-resolution: 3x3 convolutions with ReLU tell what an image lacks that was shrunk and enlarged again.

    (B, channels, H, W) enlarged images -> (B, channels, H, W). Without weights it gives back its input.

    Source: Kim, Lee, Lee 2015, Accurate Image Super-Resolution Using Very Deep Convolutional Networks, arXiv 1511.04587: width
    64 and depth 20, on luminance alone there, on all channels here.

    Attributes:
        scale: by which images are shrunk.
        mean, std: of the data's scaling, which PSNR undoes.
    """

    def __init__(self, *, spec: InputSpec, width: int, depth: int, scale: int) -> None:
        super().__init__()
        self.scale, self.mean, self.std = scale, tuple(spec.mean), tuple(spec.std)
        widths = [spec.channels, *[width] * (depth - 1), spec.channels]
        layers = [nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths)]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        with torch.no_grad():
            layers[-1].weight.mul_(0.1)  # begin near the enlarged image
        self.layers = nn.ModuleList(layers)

    def forward(self, images: Tensor) -> Tensor:
        hidden = images
        for layer in self.layers[:-1]:
            hidden = functional.relu(layer(hidden))
        lacking: Tensor = self.layers[-1](hidden)
        return images + lacking

    def degraded(self, images: Tensor) -> Tensor:
        """The images, shrunk by `scale` (mean over squares) and enlarged again (bicubic)."""
        small = functional.avg_pool2d(images, self.scale)
        return functional.interpolate(small, size=images.shape[2:], mode="bicubic", align_corners=False)


def find_restorer(name: str, arguments: Mapping[str, Any], *, input_spec: InputSpec, scale: int) -> Architecture:
    """The restorer called `name` for these images.

    Raises:
        ValueError: the name or an argument is unknown, or the images cannot be shrunk by `scale`; in words.
    """
    if input_spec.are_latents:
        raise ValueError(f"{name}: restores pixels; the data are latents")
    if name not in KNOWN:
        near = difflib.get_close_matches(name, KNOWN, n=2, cutoff=0.4)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"unknown restorer {name!r}.{hint} Known: {', '.join(KNOWN)}")
    unknown = sorted(set(arguments) - set(KNOWN[name]))
    if unknown:
        raise ValueError(f"{name}: unknown model_args {unknown}; known: {', '.join(KNOWN[name])}")
    whole = {**KNOWN[name], **arguments, "scale": scale}
    if whole["width"] < 1 or whole["depth"] < 2:
        raise ValueError(f"{name}: width {whole['width']} and depth {whole['depth']}; expected at least 1 and 2")
    if input_spec.height % scale or input_spec.width % scale:
        raise ValueError(f"{name}: images of {input_spec.height}x{input_spec.width} cannot be shrunk by scale {scale}")
    return Architecture(builder="restorer", name=name, arguments=whole, input_spec=input_spec, task=RESTORATION)


def build_restorer(architecture: Architecture) -> nn.Module:
    """The network with initial weights from torch's present random state."""
    return VDSR(spec=architecture.input_spec, **architecture.arguments)
