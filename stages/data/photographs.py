"""Squares of the two photographs that scikit-learn bundles: real colours and edges without a download.

Every fourth block of 128 pixels is to test on, the rest to train on, so no pixel is in both. A square's class is its
photograph. The blocks lie all over both: of their right quarter alone, one is empty and the other foliage, where even the best
linear filter of the rest gives images further from the truth than bicubic enlarging does.
Source: scikit-learn, `load_sample_images` (china.jpg and flower.jpg, 427x640; licences beside them).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from blake3 import blake3
from torch import Tensor

from stages.data.base import Dataset, TensorSplit
from stages.data.settings import PHOTOGRAPHS_IDENTITY, PhotographsData
from stages.ops.input_spec import InputSpec

NAMES = ("china", "flower")
TEST_BLOCK = 128
"""Pixels of a side of the blocks, of which every fourth is to test on; squares are no larger."""


@lru_cache(maxsize=4)
def load_photographs(source: PhotographsData) -> Dataset:
    """Squares of `size` pixels: to train on every half a side, to test on side by side. Values from -1 to 1.

    Raises:
        RuntimeError: the installed scikit-learn has other files than those behind the identity.
    """
    parts = [_parts(_read(name), size=source.size) for name in NAMES]
    train, test = ([part[which] for part in parts] for which in (0, 1))
    half = (0.5, 0.5, 0.5)
    return Dataset(
        train=_split(train),
        test=_split(test),
        input_spec=InputSpec(channels=3, height=source.size, width=source.size, mean=half, std=half),
        class_names=NAMES,
    )


def _read(name: str) -> Tensor:
    """(3, 427, 640) float32 from -1 to 1."""
    import sklearn
    from numpy import asarray
    from PIL import Image

    path = Path(sklearn.__file__).parent / "datasets" / "images" / f"{name}.jpg"
    found = blake3(path.read_bytes()).hexdigest()
    if found[:16] not in PHOTOGRAPHS_IDENTITY:
        raise RuntimeError(
            f"scikit-learn {sklearn.__version__} has another {path.name} than results here stand on: found {found[:16]}, "
            f"expected one of {PHOTOGRAPHS_IDENTITY}. Install a release that has it"
        )
    pixels = torch.from_numpy(asarray(Image.open(path).convert("RGB")).copy())
    return pixels.permute(2, 0, 1).float() / 127.5 - 1


def _parts(image: Tensor, *, size: int) -> tuple[Tensor, Tensor]:
    """Squares to train on, which no block to test on reaches into, and squares of these blocks, counted row by row."""
    rows, columns = (length // TEST_BLOCK for length in image.shape[1:])
    chosen = (torch.arange(rows * columns) % 4 == 0).reshape(rows, columns)
    is_tested = torch.zeros(1, *image.shape[1:], dtype=torch.bool)
    is_tested[0, : rows * TEST_BLOCK, : columns * TEST_BLOCK] = chosen.repeat_interleave(TEST_BLOCK, 0).repeat_interleave(
        TEST_BLOCK, 1
    )
    train, test = (
        (_squares(image, size=size, step=step), _squares(is_tested, size=size, step=step).flatten(1))
        for step in (size // 2, size)
    )
    return train[0][~train[1].any(dim=1)], test[0][test[1].all(dim=1)]


def _squares(image: Tensor, *, size: int, step: int) -> Tensor:
    """(N, channels, size, size), row by row."""
    found = image.unfold(1, size, step).unfold(2, size, step)
    return found.permute(1, 2, 0, 3, 4).reshape(-1, len(image), size, size).contiguous()


def _split(squares: list[Tensor]) -> TensorSplit:
    labels = [torch.full((len(each),), number) for number, each in enumerate(squares)]
    return TensorSplit(images=torch.cat(squares), labels=torch.cat(labels))
