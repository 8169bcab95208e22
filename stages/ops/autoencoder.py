"""An autoencoder of diffusers: from pixels to the latents that a denoiser draws, and back. Knows no data set and no denoiser.

    z = (E(x) - mean) / std * scaling_factor,   x = D(z / scaling_factor * std + mean)

with x between -1 and 1, and the numbers of the autoencoder's own settings. Of an AutoencoderKL the mean of the posterior is
taken, so that encoding twice gives the same.

Source: Rombach et al. 2021, arXiv 2112.10752, sections 3.1 and 4.3.2 (scaling by the deviation of the latents).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.ops.diffusers_network import load_network
from stages.ops.diffusion_folder import find_autoencoder
from stages.ops.input_spec import InputSpec, latent_spec

PIXELS_AT_ONCE = 2**20
"""Of the images that are in the network together: 16 of 256x256, for which AutoencoderKL takes a few GB."""


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """An autoencoder for images of one shape and scaling. Takes and gives tensors on the CPU, a few images at a time.

    Attributes:
        network: of diffusers, in evaluation mode.
        pixels: shape and scaling of the images.
        latents: shape of what it makes of them.
    """

    network: nn.Module
    pixels: InputSpec
    latents: InputSpec

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, channels, H, W), scaled as `pixels` says -> latents (B, c, h, w)."""
        return torch.cat([_encode(self.network, part, self.pixels).cpu() for part in torch.split(images, self.num_at_once)])

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, c, h, w) -> images (B, channels, H, W), scaled as `pixels` says, values within 0 to 1 before that."""
        return torch.cat([_decode(self.network, part, self.pixels).cpu() for part in torch.split(latents, self.num_at_once)])

    @property
    def num_at_once(self) -> int:
        """Images that are in the network together."""
        return max(1, PIXELS_AT_ONCE // (self.pixels.height * self.pixels.width))


def open_autoencoder(folder: Path, *, pixels: InputSpec, device: str | torch.device = "cpu") -> Autoencoder:
    """The autoencoder of a pipeline's folder, for images like these.

    Raises:
        ValueError: there is none, it takes other channels, its weights are damaged, or it gives back images of another size.
    """
    found = find_autoencoder(folder)
    if pixels.are_latents:
        raise ValueError(f"{folder}: an autoencoder takes pixels; the data are latents already")
    network: Any = load_network(found).to(device)
    channels = int(network.config.in_channels)
    if channels != pixels.channels:
        hint = " (channels: 3 makes colour of grey files)" if channels == 3 else ""
        raise ValueError(f"{folder}: the autoencoder takes {channels} channels; the data have {pixels.channels}{hint}")
    try:
        latents = _encode(network, torch.zeros(1, *pixels.shape), pixels)
        given_back = _decode(network, latents, pixels).shape[1:]
    except RuntimeError as error:
        raise ValueError(f"{folder}: the autoencoder cannot take images of {pixels.height}x{pixels.width}: {error}") from error
    if given_back != pixels.shape:
        raise ValueError(
            f"{folder}: the autoencoder makes {given_back[1]}x{given_back[2]} of images of {pixels.height}x{pixels.width}; "
            "take images whose sides it halves without a rest, as multiples of 8 or 16"
        )
    return Autoencoder(network=network, pixels=pixels, latents=latent_spec(*latents.shape[1:]))


def decode_latents(folder: Path, latents: Tensor) -> Tensor:
    """Images (B, channels, H, W) in [0, 1] of latents (B, c, h, w), by the autoencoder of a pipeline's folder.

    Raises:
        ValueError: there is none, its weights are damaged, or it takes latents of other channels.
    """
    network: Any = load_network(find_autoencoder(folder))
    if network.config.latent_channels != latents.shape[1]:
        raise ValueError(
            f"{folder}: the autoencoder decodes {network.config.latent_channels} channels; the latents have {latents.shape[1]}"
        )
    plain = network.config.out_channels
    pixels = InputSpec(channels=plain, height=1, width=1, mean=(0.0,) * plain, std=(1.0,) * plain)
    return torch.cat([_decode(network, part, pixels) for part in torch.split(latents, 4)])


@torch.no_grad()
def _encode(network: Any, images: Tensor, pixels: InputSpec) -> Tensor:
    images = images.to(network.device)
    mean, std = _per_channel(pixels.mean, images), _per_channel(pixels.std, images)
    encoded = network.encode((images * std + mean) * 2 - 1)
    latents: Tensor = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    shift, scale = _scaling(network, latents)
    return (latents - shift) * scale


@torch.no_grad()
def _decode(network: Any, latents: Tensor, pixels: InputSpec) -> Tensor:
    latents = latents.to(network.device)
    shift, scale = _scaling(network, latents)
    values: Tensor = network.decode(latents / scale + shift).sample
    mean, std = _per_channel(pixels.mean, values), _per_channel(pixels.std, values)
    return ((values / 2 + 0.5).clamp(0, 1) - mean) / std


def _scaling(network: Any, latents: Tensor) -> tuple[Tensor, Tensor]:
    """What is taken off latents, and what they are multiplied by then."""
    config = network.config
    shift = config.get("latents_mean") or [config.get("shift_factor") or 0.0]
    deviation = config.get("latents_std") or [1.0]
    return _per_channel(shift, latents), config.scaling_factor / _per_channel(deviation, latents)


def _per_channel(values: Any, like: Tensor) -> Tensor:
    return torch.tensor(list(values), dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1)
