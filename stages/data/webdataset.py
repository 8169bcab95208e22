"""Images in tar shards of WebDataset's layout, read in stretches of neighbours, from a folder or a bucket. Decodes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from stages.data.base import Dataset
from stages.data.folder import image_dataset
from stages.data.grouped import GroupedImages
from stages.data.image_settings import WebDatasetData
from stages.data.images import EncodedImage
from stages.data.places import OpenFile, folder_opener
from stages.data.tar_index import DIGEST_BYTES, TarIndex, image_digest

GROUP_IMAGES, GROUP_BYTES = 128, 32 * 2**20
"""Images that are read at once, at most, and bytes of images after which a group ends."""
MAX_GAP = 64 * 2**10
"""Bytes between two images (headers, labels, other members) that are read with them rather than left out."""


class Stretch(NamedTuple):
    """Neighbouring images: their shard's name, what it holds, the first of them and the first of the next group."""

    file: str
    shard: TarIndex
    begin: int
    end: int


def load_webdataset(source: WebDatasetData) -> Dataset:
    """Both splits of a data set in tar shards.

    Raises:
        ValueError: there are no shards, one is damaged or lacks something, or a label is that of no class.
    """
    opener = folder_opener(source.path)
    splits = {
        split: TarImages(stretches=_stretches(shards.indexes()), open_file=opener, window=source.shuffle_window)
        for split, shards in source.shards().items()
    }
    num_classes = source.num_classes or int(splits["train"].all_labels().max()) + 1
    why = f"num_classes is {num_classes}" if source.num_classes else f"training images have the labels 0 to {num_classes - 1}"
    for images in splits.values():
        _check_labels(images, num_classes=num_classes, why=why)
    class_names = tuple(map(str, range(num_classes)))
    return image_dataset(source, class_names=class_names, train=splits["train"], test=splits.get("test"))


@dataclass(frozen=True, kw_only=True, eq=False)
class TarImages(GroupedImages):
    """Images of one split in tar shards."""

    stretches: Sequence[Stretch]
    open_file: OpenFile

    def group_sizes(self) -> list[int]:
        """See `GroupedImages`."""
        return [stretch.end - stretch.begin for stretch in self.stretches]

    def all_labels(self) -> Tensor:
        """See `GroupedImages`."""
        labels = [label for _, shard, begin, end in self.stretches for label in shard.labels[begin:end]]
        return torch.tensor(labels, dtype=torch.int64)

    def read_group(self, number: int) -> list[EncodedImage]:
        """See `GroupedImages`: each image is checked by the digest that the plan rests on."""
        file, shard, begin, end = self.stretches[number]
        found: list[EncodedImage] = []
        try:
            with self.open_file(file) as opened:
                for first, last in _pieces(shard, begin, end):
                    start = shard.offsets[first]
                    content = memoryview(opened.read_at(shard.offsets[last] + shard.sizes[last] - start, start))
                    for row in range(first, last + 1):
                        place = shard.offsets[row] - start
                        found.append(_checked(file, shard, row, bytes(content[place : place + shard.sizes[row]])))
        except OSError as error:
            raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
        return found


def _checked(file: str, shard: TarIndex, row: int, image: bytes) -> EncodedImage:
    name = f"{file}/{shard.names[row]}"
    if image_digest(image) != bytes.fromhex(shard.digests[row * 2 * DIGEST_BYTES : (row + 1) * 2 * DIGEST_BYTES]):
        raise ValueError(f"{name} is not what it was when the run began: the shard was changed or damaged; copy it anew")
    return EncodedImage(image, shard.labels[row], name)


def _pieces(shard: TarIndex, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """First and last image of what is read at once: neighbours with little between them."""
    first = begin
    for row in range(begin + 1, end):
        if shard.offsets[row] - shard.offsets[row - 1] - shard.sizes[row - 1] > MAX_GAP:
            yield first, row - 1
            first = row
    yield first, end - 1


def _stretches(shards: Iterable[tuple[str, TarIndex]]) -> list[Stretch]:
    """All images in groups that end after `GROUP_IMAGES`, after `GROUP_BYTES`, or with their shard.

    What lies between the images plays no part: the order of a pass follows from the groups, and has to follow from the content.
    """
    found: list[Stretch] = []
    for name, shard in shards:
        begin = held = 0
        for row, size in enumerate(shard.sizes, start=1):
            held += size
            if row == len(shard.sizes) or row - begin == GROUP_IMAGES or held >= GROUP_BYTES:
                found.append(Stretch(name, shard, begin, row))
                begin, held = row, 0
    return found


def _check_labels(images: TarImages, *, num_classes: int, why: str) -> None:
    for file, shard, begin, end in images.stretches:
        for name, label in zip(shard.names[begin:end], shard.labels[begin:end], strict=True):
            if label >= num_classes:
                raise ValueError(f"{file}/{name} has the label {label}, but {why}; mend it or set num_classes")
