"""The stage `data.encode`: images into the latents of an autoencoder, once, for all training of latent diffusion after it.

Source: Rombach et al. 2021, arXiv 2112.10752.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from stages.contract import StageContext, StageResult
from stages.data.base import Split, load_stage_data
from stages.data.latents import stored
from stages.data.settings import EncodeSettings
from stages.data.shard_writer import ShardWriter, write_manifest
from stages.data.shards import Manifest, Shard
from stages.ops.autoencoder import Autoencoder, open_autoencoder
from stages.ops.image_quality import psnr_db
from stages.ops.seeding import prepare_process
from stages.ops.seeds import derive_seed

IMAGES_AT_ONCE = 64
"""Held in memory; the autoencoder takes fewer where they are large."""


def encode(context: StageContext) -> StageResult:
    """Write shards of latents of both splits, shuffled once, and `dataset.json`; one batch of images is held at a time.

    Raises:
        ValueError: the data cannot be read or are latents, the autoencoder does not take them, or gives no numbers.
    """
    settings = context.settings
    assert isinstance(settings, EncodeSettings)
    device = prepare_process(context)
    data = load_stage_data(context)
    autoencoder = open_autoencoder(Path(settings.pipeline), pixels=data.input_spec, device=device)
    splits: dict[Literal["train", "test"], Split] = {"train": data.train}
    if data.test.num_samples:
        splits["test"] = data.test
    total, done = sum(split.num_samples for split in splits.values()), 0
    written: dict[Literal["train", "test"], tuple[Shard, ...]] = {}
    quality: float | None = None
    for name, split in splits.items():
        count, writer = 0, ShardWriter(context.output, name, settings=settings)
        order = derive_seed(context.seed, "encode", name)
        with closing(writer):
            for batch in split.batches(batch_size=IMAGES_AT_ONCE, shuffle_seed=order):
                context.check_cancelled()
                context.report(step=done, total=total, metrics={})
                latents = autoencoder.encode(batch.images)
                if not bool(torch.isfinite(latents).all()):
                    raise ValueError(f"{settings.pipeline}: the autoencoder makes NaN or infinity of images")
                quality = reconstruction_psnr_db(autoencoder, batch.images, latents) if quality is None else quality
                for row in stored(latents, batch.labels, data.class_names, first=count):
                    writer.add(row)
                count += len(latents)
                done += len(latents)
        written[name] = tuple(writer.shards)
    manifest = Manifest(classes=data.class_names, splits=written, latents=autoencoder.latents.shape)
    context.report(step=total, total=total, metrics={})
    metrics: dict[str, Any] = {
        **write_manifest(manifest, context.output),
        **dict(zip(("channels", "height", "width"), autoencoder.latents.shape, strict=True)),
        "reconstruction_psnr_db": quality,
    }
    return StageResult(metrics=metrics)


def reconstruction_psnr_db(autoencoder: Autoencoder, images: Tensor, latents: Tensor) -> float:
    """How near decoded latents come to the images that they were made of: the mean over a batch."""
    spec = autoencoder.pixels
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (spec.mean, spec.std))
    again = autoencoder.decode(latents)
    return float(psnr_db(again * std + mean, (images * std + mean).clamp(0, 1)).double().mean())
