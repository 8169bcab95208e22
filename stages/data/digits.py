"""scikit-learn's bundled handwritten digits, 8x8: the smallest real data set, without a download.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (its test part, as scikit-learn ships it).
"""

from __future__ import annotations

from functools import lru_cache

import blake3
import torch
from torch.nn import functional

from stages.data.base import Dataset, TensorSplit
from stages.data.settings import DIGITS_IDENTITY, DigitsData
from stages.ops.input_spec import InputSpec

LARGEST_VALUE = 16.0
"""Pixels are counts from 0 to 16."""

INPUT_SPEC = InputSpec(channels=1, height=8, width=8, mean=(0.305,), std=(0.376,))
"""Mean and deviation of the training images' values in [0, 1], rounded."""

SYMMETRIC = {"mean": (0.5,), "std": (0.5,)}
"""Values from -1 to 1."""


@lru_cache(maxsize=4)
def load_digits(source: DigitsData) -> Dataset:
    """Both splits: stratified, 75 to 25, `random_state=0`: 1347 and 450 images.

    Raises:
        RuntimeError: the installed scikit-learn gives other pixels, labels or splits than those behind the identity.
    """
    from sklearn.datasets import load_digits as read
    from sklearn.model_selection import train_test_split

    images, labels = read(return_X_y=True)
    parts = train_test_split(images.astype("uint8"), labels.astype("uint8"), test_size=0.25, stratify=labels, random_state=0)
    digest = blake3.blake3(b"".join(part.tobytes() for part in parts)).hexdigest()
    found = f"digits:sklearn-1:{digest}:split75-0"
    if found != DIGITS_IDENTITY:
        import sklearn

        raise RuntimeError(
            f"scikit-learn {sklearn.__version__} gives other digits than results here stand on: found {found}, "
            f"expected {DIGITS_IDENTITY}. Install a release that gives the expected bytes"
        )
    train_images, test_images, train_labels, test_labels = (torch.from_numpy(part) for part in parts)
    scaling = {"mean": INPUT_SPEC.mean, "std": INPUT_SPEC.std} if source.scaling == "standard" else SYMMETRIC
    spec = InputSpec(channels=1, height=source.size, width=source.size, **scaling)
    return Dataset(
        train=TensorSplit(images=_scaled(train_images, spec), labels=train_labels.long()),
        test=TensorSplit(images=_scaled(test_images, spec), labels=test_labels.long()),
        input_spec=spec,
        class_names=tuple(str(digit) for digit in range(10)),
    )


def _scaled(pixels: torch.Tensor, spec: InputSpec) -> torch.Tensor:
    values = pixels.float() / LARGEST_VALUE
    if spec.height != INPUT_SPEC.height:
        values = functional.interpolate(
            values.reshape(-1, *INPUT_SPEC.shape), size=(spec.height, spec.width), mode="bilinear", align_corners=False
        )
    return ((values - spec.mean[0]) / spec.std[0]).reshape(-1, *spec.shape)
