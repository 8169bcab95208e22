"""What a data set offers to training and evaluation. Knows tensors; knows no model and no optimizer.

A split hands out batches as a pure function of its arguments, so training can stop after any batch and go on from there in
another process. Data in memory answer from a tensor (`TensorSplit`); a folder of images or Parquet shards can answer the
same call by permuting file or shard order with `shuffle_seed` and skipping to `first_batch`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from stages.data.settings import DataSource
from stages.ops.input_spec import InputSpec

VALIDATION_STRIDE = 5
"""One of so many training images, class by class, is held out where `evaluate_on` is "validation"."""

VALIDATION_SEED = 0
"""Of the choice of these images; apart from every other seed, so that all settings are compared on the same ones."""


class Batch(NamedTuple):
    """Images (B, channels, height, width) float32, scaled as the input spec says; labels (B,) int64."""

    images: Tensor
    labels: Tensor


class Split(Protocol):
    """One part of a data set, to train on or to test on."""

    @property
    def num_samples(self) -> int:
        """Images in the split."""

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
            shuffle_seed: of the order; None for the order in which the images are stored.
            first_batch: batches to leave out at the beginning, without reading them.
            drop_last: leave out a last batch that is not full.
            rank: of this process; processes read disjoint parts.
            world_size: number of processes.
        """


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Both splits of a data set, and what their images and labels are."""

    train: Split
    test: Split
    input_spec: InputSpec
    class_names: tuple[str, ...]


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


def load_dataset(source: DataSource) -> Dataset:
    """Read the data that the settings name."""
    module, _, function = source.loader.partition(":")
    dataset = getattr(importlib.import_module(module), function)(source)
    assert isinstance(dataset, Dataset)
    return _without_test_images(dataset) if source.evaluate_on == "validation" else dataset


def _without_test_images(dataset: Dataset) -> Dataset:
    """The same data with the training images cut in two: `test` is the held-out part. Both are drawn from every class."""
    train = dataset.train
    assert isinstance(train, TensorSplit)
    order = torch.randperm(train.num_samples, generator=torch.Generator().manual_seed(VALIDATION_SEED))
    order = order[torch.argsort(train.labels[order], stable=True)]  # class after class, random within each
    held_out = torch.zeros(train.num_samples, dtype=torch.bool)
    held_out[order[::VALIDATION_STRIDE]] = True
    return replace(
        dataset,
        train=TensorSplit(images=train.images[~held_out], labels=train.labels[~held_out]),
        test=TensorSplit(images=train.images[held_out], labels=train.labels[held_out]),
    )
