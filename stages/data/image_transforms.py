"""From an encoded image to a tensor, and the random changes on the way. Knows files and pixels; knows no data set and no order.

Whatever is random is drawn from a seed that comes with the image or the batch, so it does not matter which process decodes it.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import default_collate

import stages.ops.torchvision_compat  # noqa: F401 - timm does not import without it
from stages.data.image_settings import Augmentation, ImageData
from stages.ops.input_spec import InputSpec

_GREY, _COLOUR = (
    frozenset({"1", "L", "LA", "La"}),
    frozenset({"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"}),
)


class Sample(NamedTuple):
    """One image to be decoded: its file or its bytes, its label, what it is called in messages, the seed of its changes."""

    content: Path | bytes
    label: int
    name: str
    seed: int | None


class SampleBatch(NamedTuple):
    """Images to be decoded into one batch; `seed` of mixup and CutMix, None where the images are to stay as they are."""

    samples: Sequence[Sample]
    seed: int | None


class DecodedBatch(NamedTuple):
    """Images (B, channels, height, width) float32, labels (B,) int64 or (B, classes) float32, and what was left out."""

    images: Tensor
    labels: Tensor
    broken: tuple[str, ...]


def input_spec_of(source: ImageData) -> InputSpec:
    """Shape and scaling of the images that the settings ask for.

    Raises:
        ValueError: `normalization` names neither a scaling nor a model.
    """
    mean, std = (source.mean, source.std) if source.mean and source.std else _named_scaling(source.normalization)
    if len(mean) != source.channels:  # one grey channel in place of three colours
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    return InputSpec(channels=source.channels, height=source.image_size, width=source.image_size, mean=mean, std=std)


def _named_scaling(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    import timm
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD

    named = {
        "imagenet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        "half": (IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD),
    }
    if name in named:
        return named[name]
    weights = timm.get_pretrained_cfg(name, allow_unregistered=False) if timm.is_model(name.partition(".")[0]) else None
    if weights is None:
        raise ValueError(f"normalization is {name!r}; expected imagenet, half, or a model that timm has weights of")
    return tuple(weights.mean), tuple(weights.std)


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Decodes batches as the settings say. Its answer follows from its argument alone, in every process.

    Attributes:
        view: of test images, and of training images where nothing is changed at random.
        train_view: of images that come with a seed.
        mix: (images, labels) -> the same, mixed; None where nothing mixes.
    """

    channels: int
    skips_broken: bool
    view: Callable[[Image.Image], Tensor]
    train_view: Callable[[Image.Image], Tensor]
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None

    def decode(self, batch: SampleBatch) -> DecodedBatch:
        """The images of one batch, in their order.

        Raises:
            ValueError: an image is broken or has other channels than asked for; all of them are where broken ones are skipped.
        """
        images, labels, broken = [], [], []
        with _own_random_state():
            for sample in batch.samples:
                image = self.open_image(sample)
                if image is None:
                    broken.append(sample.name)
                    continue
                if sample.seed is None:
                    images.append(self.view(image))
                else:
                    _seed_generators(sample.seed)
                    images.append(self.train_view(image))
                labels.append(sample.label)
            if not images:
                raise ValueError(f"not one image of a batch can be decoded, from {broken[0]} to {broken[-1]}")
            # In a decoding process this stacks in the memory that it shares, which saves a copy of the batch.
            stacked, target = default_collate(images), torch.tensor(labels, dtype=torch.int64)
            if batch.seed is not None and self.mix is not None:
                _seed_generators(batch.seed)
                even = len(stacked) // 2 * 2  # images are mixed in pairs; a broken one may leave an odd one over
                stacked, target = self.mix(stacked[:even], target[:even])
        return DecodedBatch(stacked, target, tuple(broken))

    def open_image(self, sample: Sample) -> Image.Image | None:
        """The decoded image, grey or RGB as asked for; None for a broken one where these are skipped.

        Raises:
            ValueError: see `decode`.
        """
        where = str(sample.content) if isinstance(sample.content, Path) else sample.name
        try:
            source = sample.content if isinstance(sample.content, Path) else io.BytesIO(sample.content)
            with Image.open(source) as image:
                image.load()
                mode, bands = image.mode, len(image.getbands())
                if mode in (_GREY if self.channels == 1 else _GREY | _COLOUR):
                    return image.convert("RGB" if self.channels == 3 else "L")
        except Exception as error:  # damaged files make decoders raise whatever they come across, not OSError alone
            if self.skips_broken:
                return None
            reason = "it is no image that is known" if isinstance(error, UnidentifiedImageError) else str(error)
            reason = reason or type(error).__name__
            raise ValueError(
                f"{where} cannot be decoded: {reason}. Mend or remove it, or set on_broken: skip to leave such images out"
            ) from error
        wanted = "grey or colour of 8 bits: convert it" if self.channels == 3 else "grey of 8 bits: set channels: 3"
        raise ValueError(f"{where} has the pixel format {mode} ({bands} channels); expected {wanted}")


def make_decoder(source: ImageData, *, num_classes: int) -> Decoder:
    """The decoder that the settings ask for.

    Raises:
        ValueError: timm does not know the augmentation, or `normalization` is unknown.
    """
    from timm.data import create_transform

    spec = input_spec_of(source)
    common = {"input_size": spec.shape, "interpolation": source.interpolation, "mean": spec.mean, "std": spec.std}
    view = create_transform(**common, is_training=False, crop_pct=source.crop, crop_mode=source.resize)
    augment = source.augment
    train_view = view
    if augment is not None:
        try:
            train_view = create_transform(
                **common,
                is_training=True,
                scale=augment.crop_scale or (1.0, 1.0),
                ratio=augment.crop_ratio if augment.crop_scale else (1.0, 1.0),
                hflip=augment.flip,
                vflip=augment.vertical_flip,
                color_jitter=augment.color_jitter or None,
                auto_augment=augment.auto_augment,
                re_prob=augment.erasing,
                re_mode=augment.erasing_mode,
            )
        except (AssertionError, KeyError, ValueError) as error:
            raise ValueError(f"timm does not take these augmentations ({augment}): {error}") from error
    return Decoder(
        channels=source.channels,
        skips_broken=source.on_broken == "skip",
        view=view,
        train_view=train_view,
        mix=_make_mix(augment, num_classes=num_classes),
    )


def _make_mix(augment: Augmentation | None, *, num_classes: int) -> Any:
    if augment is None or not (augment.mixup or augment.cutmix):
        return None
    from timm.data import Mixup

    return Mixup(
        mixup_alpha=augment.mixup,
        cutmix_alpha=augment.cutmix,
        prob=augment.mix_probability,
        switch_prob=augment.cutmix_probability,
        label_smoothing=0.0,  # the loss smooths, mixed labels as well as plain ones
        num_classes=num_classes,
    )


@contextmanager
def _own_random_state() -> Iterator[None]:
    """What timm draws comes from the process's generators, which belong to the model; they are put back afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def _seed_generators(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed the GPU's too
