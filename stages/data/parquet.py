"""Images in Parquet shards, read row group after row group, from a folder, a bucket or an artifact. Decodes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from pyarrow import parquet
from torch import Tensor

from stages.contract import Artifact
from stages.data.base import Dataset
from stages.data.folder import image_dataset
from stages.data.grouped import GroupedImages
from stages.data.image_settings import ImageData, PackedData, ParquetData
from stages.data.images import EncodedImage
from stages.data.latents import latent_dataset
from stages.data.parquet_files import classes_of
from stages.data.places import OpenFile, folder_opener
from stages.data.row_groups import PACKED, READ_ERRORS, Layout, Rows, foreign_layout, read_rows, refuse_other_columns
from stages.data.shards import MANIFEST_FILE, Manifest, RowGroup, parse_manifest, read_manifest


def load_parquet(source: ParquetData) -> Dataset:
    """Both splits of a packed folder, or of Parquet files that somebody else wrote, on a disk or in a bucket.

    Raises:
        ValueError: there is no manifest, or there are no such files, or they hold something else.
    """
    if source.train is not None:
        return _load_files(source)
    return _dataset(
        source,
        read_manifest(source.path),
        folder_opener(source.path),
        window=source.shuffle_window,
        where=source.path,
    )


def load_packed(source: PackedData, artifact: Artifact | None = None) -> Dataset:
    """Both splits of the artifact that a `data.pack` or `data.encode` node made.

    Raises:
        ValueError: none is connected, or its files are not what it says.
    """
    if artifact is None:
        raise ValueError("data: packed reads what a data.pack node made; connect it: inputs: {data: NODE}")
    manifest = parse_manifest(artifact.file(MANIFEST_FILE).read_bytes(), place=f"{artifact.key[:8]}/{MANIFEST_FILE}")
    dataset = _dataset(
        source,
        manifest,
        lambda name: artifact.file(name).open("rb"),
        window=source.shuffle_window,
        where=f"artifact {artifact.key[:8]}",
    )
    return replace(dataset, identity=f"{source.identity()}:{manifest.content_digest()}")


class GroupPlace(NamedTuple):
    """A row group: its shard, its number in it, what the manifest says of it."""

    file: str
    number: int
    group: RowGroup


class _Images:
    """The rows of a row group as images."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __getitem__(self, row: int) -> EncodedImage:
        return EncodedImage(*self.rows[row])


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardImages(GroupedImages):
    """Images of one split in the row groups of Parquet shards.

    Attributes:
        where: the shards are, for messages.
        layout: of the shards.
        said: what each row group is held against, for messages.
    """

    groups: Sequence[GroupPlace]
    open_file: OpenFile
    num_classes: int
    where: str = ""
    layout: Layout = PACKED
    said: str = f"what {MANIFEST_FILE} says it holds"
    footers: dict[str, Any] = field(init=False, default_factory=dict)

    def group_sizes(self) -> list[int]:
        """See `GroupedImages`."""
        return [place.group.rows for place in self.groups]

    def all_labels(self) -> Tensor:
        """See `GroupedImages`: reads the shards' column of labels alone."""
        rows: Counter[str] = Counter()
        for place in self.groups:
            rows[place.file] += place.group.rows
        columns = []
        for file, expected in rows.items():
            columns.append(self._labels_of(file))
            if len(columns[-1]) != expected:
                raise ValueError(
                    f"{self._named(file)} has {len(columns[-1])} labels and is not {self.said}, {expected}: it was changed or "
                    "damaged; copy the shards anew"
                )
        return torch.cat([torch.tensor(column, dtype=torch.int64) for column in columns])

    def read_group(self, number: int) -> _Images:
        """See `GroupedImages`: checked by the digest that the plan rests on."""
        file, group, expected = self.groups[number]
        place = f"{self._named(file)}, row group {group}"
        try:
            with self.open_file(file) as opened:
                where = f"{file}, row group {group}"  # the same in any folder: what data.pack makes of it has the name
                rows = read_rows(opened, self._footer(file), group, layout=self.layout, place=where)
        except READ_ERRORS as error:
            raise ValueError(f"{place} cannot be read: {' '.join(str(error).split())}") from error
        if len(rows) != expected.rows or rows.digest() != expected.digest:
            raise ValueError(f"{place} is not {self.said}: it was changed or damaged; copy the shards anew")
        wrong = next((label for label in rows.labels.to_pylist() if not 0 <= label < self.num_classes), None)
        if wrong is not None:
            raise ValueError(
                f"{place} has the label {wrong}; {MANIFEST_FILE} names {self.num_classes} classes, so labels are 0 to "
                f"{self.num_classes - 1}"
            )
        return _Images(rows)

    def _footer(self, file: str) -> Any:
        """Where the row groups of a shard are: read once, and not with each group."""
        if file not in self.footers:
            with self.open_file(file) as opened:
                footer = parquet.read_metadata(opened)
            refuse_other_columns(self._named(file), footer.schema.to_arrow_schema(), self.layout)
            self.footers[file] = footer
        return self.footers[file]

    def _named(self, file: str) -> str:
        return f"{self.where}/{file}" if self.where else file

    def _labels_of(self, file: str) -> list[int]:
        try:
            with self.open_file(file) as opened:
                column = parquet.ParquetFile(opened, metadata=self._footer(file)).read(columns=[self.layout.label]).column(0)
        except READ_ERRORS as error:
            raise ValueError(f"{self._named(file)} cannot be read: {' '.join(str(error).split())}") from error
        if column.null_count:
            raise ValueError(f"{self._named(file)} has {column.null_count} rows without a label; copy the shards anew")
        found: list[int] = column.to_pylist()
        return found


def _load_files(source: ParquetData) -> Dataset:
    """Both splits of Parquet files that have no manifest."""
    shards = source.shards()
    found = {split: files.contents() for split, files in shards.items()}
    class_names = classes_of(shards["train"].noted_classes(), found["train"], source.num_classes)
    for contents in found.values():
        for name, content in contents.items():
            if content.largest_label >= len(class_names):
                raise ValueError(
                    f"{source.path}/{name} has the label {content.largest_label}, but there are {len(class_names)} classes, so "
                    "labels are 0 to " + f"{len(class_names) - 1}; mend it or set num_classes"
                )
    splits = {
        split: ShardImages(
            groups=[
                GroupPlace(name, number, group)
                for name, content in contents.items()
                for number, group in enumerate(content.groups)
            ],
            open_file=folder_opener(source.path),
            window=source.shuffle_window,
            num_classes=len(class_names),
            where=source.path,
            layout=foreign_layout(source.image_column, source.label_column),
            said="what it was when the run began",
        )
        for split, contents in found.items()
    }
    return image_dataset(source, class_names=class_names, train=splits["train"], test=splits.get("test"))


def _dataset(source: ImageData, manifest: Manifest, open_file: OpenFile, *, window: int, where: str) -> Dataset:
    splits: Mapping[str, ShardImages] = {
        split: ShardImages(
            groups=[GroupPlace(shard.file, number, group) for shard in shards for number, group in enumerate(shard.groups)],
            open_file=open_file,
            window=window,
            num_classes=len(manifest.classes),
            where=where,
        )
        for split, shards in manifest.splits.items()
    }
    if "test" not in splits and source.evaluate_on == "test":
        raise ValueError("the packed data set has no test images; set evaluate_on: validation")
    found: dict[str, Any] = {"class_names": manifest.classes, "train": splits["train"], "test": splits.get("test")}
    if manifest.latents is not None:
        return latent_dataset(source, shape=manifest.latents, **found)
    return image_dataset(source, **found)
