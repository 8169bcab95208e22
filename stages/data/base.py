"""What a data set offers to training and evaluation. Knows tensors; knows no model and no optimizer.

A split hands out batches as a pure function of its arguments, so training can stop after any batch and go on from there in
another process. Data in memory answer from a tensor (`TensorSplit`), folders and shards of encoded images
from their order (`images.ImageSplit`).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from stages.contract import Artifact, StageContext
from stages.data.image_settings import PackedData
from stages.data.source import DataSource
from stages.ops.input_spec import InputSpec

VALIDATION_STRIDE = 5
"""One of so many training images, class by class, is held out where `evaluate_on` is "validation"."""

VALIDATION_SEED = 0
"""Of the choice of these images; apart from every other seed, so that all settings are compared on the same ones."""


class Batch(NamedTuple):
    """Images (B, channels, height, width) float32, scaled as the input spec says; labels (B,) int64.

    Where mixup or CutMix has mixed the images, labels are (B, classes) float32: the shares of the classes.
    """

    images: Tensor
    labels: Tensor


class Split(Protocol):
    """One part of a data set, to train on or to test on."""

    @property
    def num_samples(self) -> int:
        """Images in the split."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64, in the order in which the images are stored."""

    def part(self, index: Tensor, *, trains: bool) -> Split:
        """The images with these numbers, to train on or to measure on."""

    def batches(
        self,
        *,
        batch_size: int,
        shuffle_seed: int | None = None,
        first_batch: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[Batch]:
        """Batches of one pass, the same for the same arguments.

        Args:
            batch_size: images per batch and process.
            shuffle_seed: of the order and of random changes to the images; None for a fixed order and none of these.
            first_batch: batches to leave out at the beginning, without reading them.
            drop_last: leave out a last batch that is not full.
            rank: of this process; processes read disjoint parts.
            world_size: number of processes.
        """


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Both splits of a data set, and what their images and labels are.

    `identity` says more than the settings' own where these do not tell the content (a packed data set that another node made).
    """

    train: Split
    test: Split
    input_spec: InputSpec
    class_names: tuple[str, ...]
    identity: str = ""


@dataclass(frozen=True, kw_only=True)
class TensorSplit:
    """A split that lies in memory whole. Treat the tensors as read-only: a process shares them between stages.

    images (N, channels, height, width) float32; labels (N,) int64.
    """

    images: Tensor
    labels: Tensor

    @property
    def num_samples(self) -> int:
        return len(self.labels)

    def part(self, index: Tensor, *, trains: bool) -> TensorSplit:
        """See `Split.part`."""
        del trains  # images in memory are the same to either
        return TensorSplit(images=self.images[index], labels=self.labels[index])

    def batches(
        self,
        *,
        batch_size: int,
        shuffle_seed: int | None = None,
        first_batch: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[Batch]:
        """See `Split.batches`."""
        if shuffle_seed is None:
            order = torch.arange(self.num_samples)
        else:
            order = torch.randperm(self.num_samples, generator=torch.Generator().manual_seed(shuffle_seed))
        order = order[rank::world_size]
        # With drop_last every process has as many batches as the one with the fewest images, or they would wait for ever.
        length = self.num_samples // world_size // batch_size * batch_size if drop_last else len(order)
        for begin in range(first_batch * batch_size, length, batch_size):
            index = order[begin : min(begin + batch_size, length)]
            yield Batch(self.images[index], self.labels[index])


def load_dataset(source: DataSource, *, artifact: Artifact | None = None) -> Dataset:
    """Read the data that the settings name; `artifact` is the packed data set on a stage's port `data`, where one is connected.

    Raises:
        ValueError: the data cannot be found or do not fit together, or an artifact is there and not asked for, or missing.
    """
    if artifact is not None and not isinstance(source, PackedData):
        raise ValueError("a data set is connected to the port data and `data` names another; write data: {name: packed}")
    module, _, function = source.loader.partition(":")
    load = getattr(importlib.import_module(module), function)
    dataset = load(source) if artifact is None else load(source, artifact)
    assert isinstance(dataset, Dataset)
    return _without_test_images(dataset) if source.evaluate_on == "validation" else dataset


def load_stage_data(context: StageContext) -> Dataset:
    """The data of a stage: what its settings name, from the artifact on its port `data` where one is connected.

    Raises:
        ValueError: see `load_dataset`.
    """
    return load_dataset(context.settings.data, artifact=context.optional_input("data"))


def first_images(split: Split, num_images: int, *, batch_size: int) -> Batch:
    """The first images of a pass without a seed, with their labels, all if there are fewer, decoding no more than that."""
    found: list[Batch] = []
    for batch in split.batches(batch_size=min(batch_size, num_images)):
        found.append(batch)
        if sum(len(each.labels) for each in found) >= num_images:
            break
    return Batch(*(torch.cat(parts)[:num_images] for parts in zip(*found, strict=True)))


def _without_test_images(dataset: Dataset) -> Dataset:
    """The same data with the training images cut in two: `test` is the held-out part. Both are drawn from every class."""
    train = dataset.train
    order = torch.randperm(train.num_samples, generator=torch.Generator().manual_seed(VALIDATION_SEED))
    order = order[torch.argsort(train.labels[order], stable=True)]  # class after class, random within each
    held_out = torch.zeros(train.num_samples, dtype=torch.bool)
    held_out[order[::VALIDATION_STRIDE]] = True
    return replace(
        dataset,
        train=train.part((~held_out).nonzero()[:, 0], trains=True),
        test=train.part(held_out.nonzero()[:, 0], trains=False),
    )
