"""The stage `data.pack`: images of any data set into Parquet shards and the manifest that vouches for them.

Images are shuffled as they are written, so that a row group is a sample of all classes, and stay as they are encoded.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch
from PIL import Image
from pyarrow import parquet

from stages.contract import StageContext, StageResult
from stages.data.base import Dataset, Split, TensorSplit, load_dataset
from stages.data.image_transforms import Sample
from stages.data.images import EncodedImage, ImageSplit, full_shuffle
from stages.data.settings import PackSettings
from stages.data.shards import MANIFEST_FILE, Manifest, RowGroup, Shard, group_digest
from stages.ops.input_spec import InputSpec
from stages.ops.seeds import derive_seed

SCHEMA = pa.schema([("image", pa.binary()), ("label", pa.int32()), ("name", pa.string())])


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
        writer = _ShardWriter(context.output, name, settings=settings)
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
    manifest = Manifest(classes=dataset.class_names, splits=packed)
    (context.output / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    context.report(step=total, total=total, metrics={})
    rows = {name: sum(group.rows for shard in shards for group in shard.groups) for name, shards in packed.items()}
    return StageResult(
        metrics={
            "num_train": rows["train"],
            "num_test": rows.get("test", 0),
            "num_classes": len(manifest.classes),
            "num_broken": len(broken),
            "num_shards": sum(map(len, packed.values())),
            "size_bytes": sum(path.stat().st_size for path in context.output.iterdir()),
            "content_digest": manifest.content_digest(),
        }
    )


def _checked(split: Split, dataset: Dataset, *, seed: int) -> Iterator[tuple[EncodedImage, bool]]:
    """Every image as bytes, shuffled, and whether it is broken."""
    if isinstance(split, TensorSplit):
        yield from ((image, False) for image in _drawn(split, dataset.input_spec, dataset.class_names, seed=seed))
        return
    assert isinstance(split, ImageSplit)
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


@dataclass(kw_only=False)
class _ShardWriter:
    """Writes one split, holding one row group at a time."""

    folder: Path
    split: str
    settings: PackSettings = field(kw_only=True)
    shards: list[Shard] = field(default_factory=list, init=False)
    _rows: list[tuple[bytes, int, str]] = field(default_factory=list, init=False)
    _groups: list[RowGroup] = field(default_factory=list, init=False)
    _bytes: int = field(default=0, init=False)
    _writer: Any = field(default=None, init=False)

    def add(self, image: EncodedImage) -> None:
        assert isinstance(image.content, bytes)
        self._rows.append((image.content, image.label, image.name))
        if len(self._rows) == self.settings.rows_per_group:
            self._end_group()

    def close(self) -> None:
        """Write what is left."""
        self._end_group()
        self._end_shard()

    @property
    def _file(self) -> str:
        return f"{self.split}-{len(self.shards):05d}.parquet"

    def _end_group(self) -> None:
        if not self._rows:
            return
        if self._writer is None:  # images are compressed as they are
            self._writer = parquet.ParquetWriter(
                self.folder / self._file, SCHEMA, compression="none", use_dictionary=False, write_statistics=False
            )
        columns = [list(column) for column in zip(*self._rows, strict=True)]
        self._writer.write_table(pa.table(columns, schema=SCHEMA), row_group_size=len(self._rows))
        self._groups.append(RowGroup(rows=len(self._rows), digest=group_digest(self._rows)))
        self._bytes += sum(len(image) for image, _, _ in self._rows)
        self._rows.clear()
        if self._bytes >= self.settings.shard_bytes:
            self._end_shard()

    def _end_shard(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self.shards.append(Shard(file=self._file, groups=tuple(self._groups)))
        self._writer, self._bytes = None, 0
        self._groups.clear()
