"""Latents as data: read from shards that `data.encode` wrote, or made of images as they come."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.data.base import Batch, Dataset, Split
from stages.data.image_settings import ImageData
from stages.data.image_transforms import DecodedBatch, SampleBatch
from stages.data.images import EncodedImage, Images, ImageSplit
from stages.ops.autoencoder import Autoencoder
from stages.ops.input_spec import latent_spec

ELEMENT = np.dtype("<f4")
"""Of latents in a file: float32, little endian, channel by channel, row by row."""


@dataclass(frozen=True, kw_only=True)
class LatentDecoder:
    """Makes tensors of the bytes of latents; `shape` is (channels, height, width). Nothing is changed at random."""

    shape: tuple[int, int, int]
    mix: None = None

    def decode(self, batch: SampleBatch) -> DecodedBatch:
        """See `Decoder.decode`; the row groups' digests vouch for the bytes, but not for the shape that a manifest says."""
        size, latents = math.prod(self.shape) * ELEMENT.itemsize, []
        for sample in batch.samples:
            assert isinstance(sample.content, bytes)
            if len(sample.content) != size:
                raise ValueError(
                    f"{sample.name} has {len(sample.content)} bytes; latents of {self.shape} have {size}. The shards are not "
                    "those of their manifest; write them anew with data.encode"
                )
            latents.append(torch.from_numpy(np.frombuffer(sample.content, ELEMENT).astype(np.float32)))
        labels = torch.tensor([sample.label for sample in batch.samples], dtype=torch.int64)
        return DecodedBatch(torch.stack(latents).reshape(-1, *self.shape), labels, ())


def to_bytes(latents: Tensor) -> bytes:
    """Latents (channels, height, width) as they are stored."""
    return latents.numpy().astype(ELEMENT).tobytes()


def latent_dataset(
    source: ImageData, *, shape: tuple[int, int, int], class_names: tuple[str, ...], train: Images, test: Images | None
) -> Dataset:
    """A data set of stored latents; an absent test split is an empty one.

    Raises:
        ValueError: the settings say how images are to become tensors, which these are already.
    """
    fields = ImageData.model_fields
    idle = sorted(
        name
        for name in fields.keys() & source.model_fields_set - {"evaluate_on", "num_workers"}
        if getattr(source, name) != fields[name].default
    )
    if idle:
        raise ValueError(f"{', '.join(idle)}: without effect on latents; say it in data.encode, where the images are read")
    decoder = LatentDecoder(shape=shape)
    test = train.part(torch.empty(0, dtype=torch.int64)) if test is None else test
    splits = (ImageSplit(images=images, decoder=decoder, num_workers=source.num_workers) for images in (train, test))
    return Dataset(train=next(splits), test=next(splits), input_spec=latent_spec(*shape), class_names=class_names)


@dataclass(frozen=True, kw_only=True)
class EncodedSplit:
    """A split of images as latents, encoded when their batch comes."""

    images: Split
    autoencoder: Autoencoder

    @property
    def num_samples(self) -> int:
        return self.images.num_samples

    @property
    def labels(self) -> Tensor:
        return self.images.labels

    def part(self, index: Tensor, *, trains: bool) -> EncodedSplit:
        """See `Split.part`."""
        return replace(self, images=self.images.part(index, trains=trains))

    def batches(self, *, batch_size: int, **order: Any) -> Iterator[Batch]:
        """See `Split.batches`."""
        for images, labels in self.images.batches(batch_size=batch_size, **order):
            yield Batch(self.autoencoder.encode(images), labels)


def encoded(data: Dataset, autoencoder: Autoencoder) -> Dataset:
    """The same data as latents, encoded as they are read."""
    train, test = (EncodedSplit(images=split, autoencoder=autoencoder) for split in (data.train, data.test))
    return replace(data, train=train, test=test, input_spec=autoencoder.latents)


def stored(latents: Tensor, labels: Tensor, class_names: tuple[str, ...], *, first: int) -> Iterator[EncodedImage]:
    """A batch of latents (B, c, h, w) as rows of a shard, numbered from `first` on."""
    for number, (values, label) in enumerate(zip(latents, labels.tolist(), strict=True), start=first):
        yield EncodedImage(to_bytes(values), label, f"{class_names[label]}/{number}")
