"""Small folders of images, each of which says in its pixels which one it is."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import torch
from PIL import Image

from stages.contract import Artifact, local_context
from stages.data import pack as pack_stage
from stages.data.settings import PackSettings

PLAIN = {"image_size": 8, "crop": 1.0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
"""A view that gives the pixels back, so that `number_of` can read them."""


def write_image(path: Path, number: int, *, size: int = 8, mode: str = "RGB") -> None:
    """An image whose red and green say `number`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = (number // 256, number % 256, 128)
    Image.new("RGB", (size, size), colour).convert(mode).save(path)


def write_folder(root: Path, *, train: int = 12, test: int = 6, classes: tuple[str, ...] = ("cat", "dog"), **more) -> Path:
    """PATH/{train,test}/CLASS/NNN.png with numbers 0.. in train and 1000.. in test; files that look as if they were old."""
    for split, count, first in (("train", train, 0), ("test", test, 1000)):
        for number in range(count):
            path = root / split / classes[number % len(classes)] / f"{number:03d}.png"
            write_image(path, first + number, **more)
            make_old(path)
    return root


def png(number: int, *, size: int = 8) -> bytes:
    """The file of an image that says `number`."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), (number // 256, number % 256, 128)).save(file, format="PNG")
    return file.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], *, mtime: float = 0, mode: str = "w") -> Path:
    """A tar of these members, in this order, that looks as if it were old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), mtime
            tar.addfile(member, io.BytesIO(content))
    make_old(path)
    return path


def write_shards(root: Path, *, train: tuple[int, ...] = (7, 1, 13), test: tuple[int, ...] = (6,), **more) -> Path:
    """PATH/{train,test}-NN.tar with so many images each, numbers 0.. in train and 1000.. in test, labels number % 2."""
    for split, sizes, first in (("train", train, 0), ("test", test, 1000)):
        for shard, size in enumerate(sizes):
            begin = first + sum(sizes[:shard])
            members = [
                [(f"{number:04d}.png", png(number)), (f"{number:04d}.cls", b"%d\n" % (number % 2))]
                for number in range(begin, begin + size)
            ]
            write_tar(root / f"{split}-{shard:02d}.tar", chain.from_iterable(members), **more)
    return root


def make_old(path: Path) -> None:
    """As if it had been written a minute ago, so that its digest is remembered."""
    then = time.time() - 60
    os.utime(path, (then, then))


def numbers_of(images: torch.Tensor) -> list[int]:
    """Which image each one is."""
    pixels = (images[:, :2, 4, 4] * 255).round().int()
    return (pixels[:, 0] * 256 + pixels[:, 1]).tolist()


def numbers_in(split, **arguments) -> list[list[int]]:
    return [numbers_of(batch.images) for batch in split.batches(**arguments)]


def all_numbers_in(split, **arguments) -> list[int]:
    return flat(numbers_in(split, **arguments))


def flat(parts) -> list:
    return list(chain.from_iterable(parts))


def pack(data, folder: Path, **settings) -> Path:
    """Run `data.pack`; returns the folder with shards and manifest."""
    context = local_context(PackSettings(data=data, **settings), folder=folder)
    pack_stage.pack(context)
    return context.output


def packed_artifact(folder: Path) -> Artifact:
    return Artifact(kind="dataset", key="0" * 32, files={path.name: path for path in folder.iterdir()})
