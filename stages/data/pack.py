"""The stage `data.pack`: images of any data set into Parquet shards and the manifest that vouches for them.

Images are shuffled as they are written, so that a row group is a sample of all classes, and stay as they are encoded.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import torch
from PIL import Image

from stages.contract import StageContext, StageResult
from stages.data.base import Dataset, Split, TensorSplit, load_dataset
from stages.data.image_transforms import Decoder, Sample
from stages.data.images import EncodedImage, ImageSplit, full_shuffle
from stages.data.settings import PackSettings
from stages.data.shard_writer import ShardWriter, write_manifest
from stages.data.shards import Manifest, Shard
from stages.ops.input_spec import InputSpec
from stages.ops.seeds import derive_seed


def pack(context: StageContext) -> StageResult:
    """Write the shards of both splits and `dataset.json`; every image is decoded once, to find broken ones.

    Source: none: carries no method.

    Raises:
        ValueError: the data cannot be read, or an image is broken and not to be skipped.
    """
    settings = context.settings
    assert isinstance(settings, PackSettings)
    dataset = load_dataset(settings.data)
    splits: dict[Literal["train", "test"], Split] = {"train": dataset.train}
    if dataset.test.num_samples:
        splits["test"] = dataset.test
    total, done, broken = sum(split.num_samples for split in splits.values()), 0, []
    packed: dict[Literal["train", "test"], tuple[Shard, ...]] = {}
    for name, split in splits.items():
        writer = ShardWriter(context.output, name, settings=settings)
        with closing(writer):
            for image, is_broken in _checked(split, dataset, seed=derive_seed(context.seed, "pack", name)):
                if done % settings.rows_per_group == 0:
                    context.check_cancelled()
                    context.report(step=done, total=total, metrics={})
                done += 1
                if is_broken:
                    broken.append(image.name)
                else:
                    writer.add(image)
        if not writer.shards:
            raise ValueError(f"not one image of the split {name} can be decoded")
        packed[name] = tuple(writer.shards)
    if broken:
        print(f"data: left out {len(broken)} broken images: {', '.join(sorted(broken))}", flush=True)  # noqa: T201 - the stage's log
    context.report(step=total, total=total, metrics={})
    found = write_manifest(Manifest(classes=dataset.class_names, splits=packed), context.output)
    return StageResult(metrics={**found, "num_broken": len(broken)})


def _checked(split: Split, dataset: Dataset, *, seed: int) -> Iterator[tuple[EncodedImage, bool]]:
    """Every image as bytes, shuffled, and whether it is broken."""
    if isinstance(split, TensorSplit):
        yield from ((image, False) for image in _drawn(split, dataset.input_spec, dataset.class_names, seed=seed))
        return
    assert isinstance(split, ImageSplit)
    if not isinstance(split.decoder, Decoder):
        raise ValueError("the data are latents, which data.encode has packed already")  # noqa: TRY004
    with closing(split.images.read(split.images.order(seed))) as images:
        for image in images:
            is_broken = split.decoder.open_image(Sample(*image, seed=None)) is None
            content = image.content.read_bytes() if isinstance(image.content, Path) else image.content
            yield image._replace(content=content), is_broken


def _drawn(split: TensorSplit, spec: InputSpec, class_names: tuple[str, ...], *, seed: int) -> Iterator[EncodedImage]:
    """Images that lie in memory as numbers, as PNG files of 8 bits: values are rounded to one 255th, within 0 to 1.

    Raises:
        ValueError: they have neither one channel nor three.
    """
    if spec.channels not in (1, 3):
        raise ValueError(f"images of {spec.channels} channels cannot be packed; expected 1 or 3")
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    for index in full_shuffle(split.num_samples, seed).tolist():
        pixels = ((split.images[index] * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        image = Image.fromarray((pixels[0] if spec.channels == 1 else pixels.permute(1, 2, 0)).numpy())
        file = io.BytesIO()
        image.save(file, format="PNG")
        label = int(split.labels[index])
        yield EncodedImage(file.getvalue(), label, f"{class_names[label]}/{index}.png")
