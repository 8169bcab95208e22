"""Seeded images of any size without a file: noise around one random image per class."""

from __future__ import annotations

import torch

from stages.data.base import Dataset, TensorSplit
from stages.data.settings import SyntheticData
from stages.ops.input_spec import InputSpec
from stages.ops.seeds import derive_seed


def load_synthetic(source: SyntheticData) -> Dataset:
    """Both splits: image = class image + noise * standard normal; labels go round the classes."""
    shape = (source.channels, source.height, source.width)
    class_images = torch.randn((source.num_classes, *shape), generator=_generator(source, "classes"), dtype=torch.float32)

    def split(name: str, length: int) -> TensorSplit:
        labels = torch.arange(length) % source.num_classes
        noise = torch.randn((length, *shape), generator=_generator(source, name), dtype=torch.float32)
        return TensorSplit(images=class_images[labels] + source.noise * noise, labels=labels)

    return Dataset(
        train=split("train", source.num_train),
        test=split("test", source.num_test),
        input_spec=InputSpec(
            channels=source.channels,
            height=source.height,
            width=source.width,
            mean=(0.0,) * source.channels,
            std=(1.0,) * source.channels,
        ),
        class_names=tuple(f"class{index}" for index in range(source.num_classes)),
    )


def _generator(source: SyntheticData, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(source.data_seed, "synthetic", name))
