"""Squares of the two photographs that scikit-learn bundles: real colours and edges without a download.

Their left three quarters are to train on, the rest to test on, so no pixel is in both. A square's class is its photograph.
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
TRAIN_WIDTH = 480
"""Columns of pixels to train on, of 640."""


@lru_cache(maxsize=4)
def load_photographs(source: PhotographsData) -> Dataset:
    """Squares of `size` pixels: to train on every half a side, to test on side by side. Values from -1 to 1.

    Raises:
        RuntimeError: the installed scikit-learn has other files than those behind the identity.
    """
    photographs = [_read(name) for name in NAMES]
    train = [_squares(image[:, :, :TRAIN_WIDTH], size=source.size, step=source.size // 2) for image in photographs]
    test = [_squares(image[:, :, TRAIN_WIDTH:], size=source.size, step=source.size) for image in photographs]
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


def _squares(image: Tensor, *, size: int, step: int) -> Tensor:
    """(N, 3, size, size), row by row."""
    found = image.unfold(1, size, step).unfold(2, size, step)
    return found.permute(1, 2, 0, 3, 4).reshape(-1, 3, size, size).contiguous()


def _split(squares: list[Tensor]) -> TensorSplit:
    labels = [torch.full((len(each),), number) for number, each in enumerate(squares)]
    return TensorSplit(images=torch.cat(squares), labels=torch.cat(labels))
