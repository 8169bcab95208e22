"""A split of encoded images: order, repeats, shares, decoding in other processes. Knows neither folders nor shards.

Order and random changes follow from `shuffle_seed` and an image's place in the epoch, before the epoch is cut into batches and
shares. So neither the number of decoding processes nor a stop in between changes a batch.
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from stages.data.base import Batch
from stages.data.image_transforms import DecodedBatch, Sample, SampleBatch
from stages.ops.seeds import derive_seed

STORED_ORDER_SEED = 0
"""Of the order without a seed. Files come class after class; the first few must be a sample of all."""
_BATCHES_AHEAD = 2  # for each decoding process
_NAMED_BROKEN = 10


class EncodedImage(NamedTuple):
    """A file or its bytes, its label, and what it is called in messages."""

    content: Path | bytes
    label: int
    name: str


class Images(Protocol):
    """Encoded images in a stored order, by their numbers 0..len-1."""

    def __len__(self) -> int: ...

    def labels(self) -> Tensor:
        """(N,) int64, without reading an image."""

    def order(self, shuffle_seed: int | None) -> Tensor:
        """(N,) int64: the numbers of all images in the order of one pass; how much is shuffled depends on where they are."""

    def read(self, order: Tensor) -> Generator[EncodedImage, None, None]:
        """These images, one after the other, holding no more of them than need be."""

    def part(self, index: Tensor) -> Images:
        """Only the images with these numbers, in rising order."""


@dataclass(frozen=True, kw_only=True)
class FileImages:
    """Images in files of their own, each at hand at any time."""

    root: Path
    names: Sequence[str]
    classes: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def labels(self) -> Tensor:
        return self.classes

    def order(self, shuffle_seed: int | None) -> Tensor:
        return full_shuffle(len(self), shuffle_seed)

    def read(self, order: Tensor) -> Generator[EncodedImage, None, None]:
        for index in order.tolist():
            name = self.names[index]
            yield EncodedImage(self.root / name, int(self.classes[index]), name)

    def part(self, index: Tensor) -> FileImages:
        return replace(self, names=[self.names[number] for number in index.tolist()], classes=self.classes[index])


def full_shuffle(length: int, shuffle_seed: int | None) -> Tensor:
    """All numbers below `length`, each place equally likely for each; a fixed order of the kind without a seed."""
    generator = torch.Generator().manual_seed(STORED_ORDER_SEED if shuffle_seed is None else shuffle_seed)
    return torch.randperm(length, generator=generator)


class BatchDecoder(Protocol):
    """Makes tensors of a batch, in any process; `mix` tells whether it mixes images in pairs, None where it does not."""

    @property
    def mix(self) -> Any: ...

    def decode(self, batch: SampleBatch) -> DecodedBatch: ...


@dataclass(frozen=True, kw_only=True)
class ImageSplit:
    """A split whose images are decoded when their batch comes.

    Attributes:
        images: where they are.
        decoder: what makes tensors of them.
        augments: whether images of a shuffled pass are changed at random.
        repeats: times that an image comes in a shuffled pass; the pass then has so many times fewer images.
        num_workers: decoding processes; 0 for this one.
    """

    images: Images
    decoder: BatchDecoder
    augments: bool = False
    repeats: int = 1
    num_workers: int = 0

    @property
    def num_samples(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""
        return self.images.labels()

    def part(self, index: Tensor, *, trains: bool) -> ImageSplit:
        """The images with these numbers, to train on or to measure on."""
        split = replace(self, images=self.images.part(index.sort().values))
        return split if trains else replace(split, augments=False, repeats=1)

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
        """See `Split.batches`. Each process reads one stretch of the order; only a shuffled pass is augmented.

        Raises:
            ValueError: an image is broken, or a shard is not what its manifest says.
        """
        if shuffle_seed is not None and self.decoder.mix is not None and self.augments and batch_size % 2:
            raise ValueError(f"batch_size is {batch_size}; mixup and CutMix mix images in pairs, so it has to be even")
        order = self.images.order(shuffle_seed)
        if shuffle_seed is not None and self.repeats > 1:
            order = order[: -(-len(order) // self.repeats)].repeat_interleave(self.repeats)[: len(order)]
        begin, end = len(order) * rank // world_size, len(order) * (rank + 1) // world_size
        if drop_last:
            end = begin + len(order) // world_size // batch_size * batch_size
        first = begin + first_batch * batch_size
        if first >= end:
            return
        waiting = self._waiting(order[first:end], first, batch_size=batch_size, seed=shuffle_seed if self.augments else None)
        broken: list[str] = []
        with closing(waiting):
            for decoded in self._decoded(waiting):
                broken += decoded.broken
                yield Batch(decoded.images, decoded.labels)
        if broken:
            more = f" and {len(broken) - _NAMED_BROKEN} more" if len(broken) > _NAMED_BROKEN else ""
            _log(f"left out {len(broken)} broken images of {end - first}: {', '.join(sorted(broken)[:_NAMED_BROKEN])}{more}")

    def _waiting(self, order: Tensor, first: int, *, batch_size: int, seed: int | None) -> Generator[SampleBatch, None, None]:
        """What is to be decoded, batch by batch; the seeds follow from the image's place in the whole pass."""
        with closing(self.images.read(order)) as images:
            places = enumerate(images, start=first)
            while batch := list(islice(places, batch_size)):
                samples = [
                    Sample(*image, seed=None if seed is None else derive_seed(seed, "augment", place)) for place, image in batch
                ]
                yield SampleBatch(samples, None if seed is None else derive_seed(seed, "mix", batch[0][0]))

    def _decoded(self, waiting: Iterator[SampleBatch]) -> Iterator[DecodedBatch]:
        if self.num_workers == 0:
            yield from map(self.decoder.decode, waiting)
            return
        # Encoded images are read here, in order, and go to the processes as if they were indices.
        loader: DataLoader[Any] = DataLoader(
            _Decoding(self.decoder),
            batch_sampler=waiting,  # type: ignore[arg-type]
            num_workers=self.num_workers,
            collate_fn=_as_it_is,
            prefetch_factor=_BATCHES_AHEAD,
            # Else each copy to the GPU would wait for the steps before it. A process that uses no GPU shall not begin to.
            pin_memory=torch.cuda.is_initialized(),  # type: ignore[no-untyped-call, unused-ignore]
            worker_init_fn=_ignore_signals,
            multiprocessing_context="fork",
            generator=torch.Generator().manual_seed(0),  # its own: a seed for the processes is drawn, which nothing uses
        )
        yield from loader


class _Decoding(TorchDataset[Any]):
    """Gives a decoded batch for an encoded one: what runs in a decoding process."""

    def __init__(self, decoder: BatchDecoder) -> None:
        self.decoder = decoder

    def __getitems__(self, batch: SampleBatch) -> DecodedBatch:
        return self.decoder.decode(batch)


def _as_it_is(batch: Any) -> Any:
    return batch


def _ignore_signals(_worker: int) -> None:
    """The process that trains decides how a run ends; its handlers, inherited, would answer here, too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _log(text: str) -> None:
    print(f"data: {text}", flush=True)  # noqa: T201 - what a stage prints is its log
