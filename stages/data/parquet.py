"""Images in Parquet shards, read row group after row group, from a folder, a bucket or an artifact. Decodes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pyarrow as pa
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
from stages.data.places import OpenFile, folder_opener
from stages.data.shards import MANIFEST_FILE, Manifest, RowGroup, group_digest, parse_manifest, read_manifest

COLUMNS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "image": ("binary", lambda kind: pa.types.is_binary(kind) or pa.types.is_large_binary(kind)),
    "label": ("integer", pa.types.is_integer),
    "name": ("string", lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind)),
}
"""Of a shard: name, and what its values are."""
_READ_ERRORS = (OSError, pa.ArrowException, UnicodeDecodeError)


def load_parquet(source: ParquetData) -> Dataset:
    """Both splits of a packed folder, on a disk or in a bucket.

    Raises:
        ValueError: there is no manifest.
    """
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


class _Columns:
    """A row group as Arrow holds it; an image is copied out of it when it is asked for."""

    def __init__(self, columns: Sequence[Any]) -> None:
        self.columns = columns

    def __getitem__(self, row: int) -> EncodedImage:
        return EncodedImage(*(column[row].as_py() for column in self.columns))


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardImages(GroupedImages):
    """Images of one split in the row groups of Parquet shards; `where` these are, for messages."""

    groups: Sequence[GroupPlace]
    open_file: OpenFile
    num_classes: int
    where: str = ""
    footers: dict[str, Any] = field(init=False, default_factory=dict)

    def group_sizes(self) -> list[int]:
        """See `GroupedImages`."""
        return [place.group.rows for place in self.groups]

    def all_labels(self) -> Tensor:
        """See `GroupedImages`: reads the shards' column of labels alone."""
        columns = []
        for file in dict.fromkeys(place.file for place in self.groups):
            columns.append(self._column(file, "label"))
            expected = sum(place.group.rows for place in self.groups if place.file == file)
            if len(columns[-1]) != expected:
                raise ValueError(
                    f"{self._named(file)} has {len(columns[-1])} labels; {MANIFEST_FILE} says {expected}: it was changed or "
                    "damaged; copy the shards anew"
                )
        return torch.cat([torch.tensor(column, dtype=torch.int64) for column in columns])

    def read_group(self, number: int) -> _Columns:
        """See `GroupedImages`: checked by the digest in the manifest."""
        file, group, expected = self.groups[number]
        place = f"{self._named(file)}, row group {group}"
        try:
            with self.open_file(file) as opened:
                shard = parquet.ParquetFile(opened, metadata=self._footer(file), pre_buffer=True)
                table = shard.read_row_group(group, columns=list(COLUMNS), use_threads=False).combine_chunks()
        except _READ_ERRORS as error:
            raise ValueError(f"{place} cannot be read: {' '.join(str(error).split())}") from error
        columns = [table.column(name) for name in COLUMNS]
        if not _are_intact(columns, expected):
            raise ValueError(
                f"{place} is not what {MANIFEST_FILE} says it holds: it was changed or damaged; copy the shards anew"
            )
        wrong = next((label for label in columns[1].to_pylist() if not 0 <= label < self.num_classes), None)
        if wrong is not None:
            raise ValueError(
                f"{place} has the label {wrong}; {MANIFEST_FILE} names {self.num_classes} classes, so labels are 0 to "
                f"{self.num_classes - 1}"
            )
        return _Columns(columns)

    def _footer(self, file: str) -> Any:
        """Where the row groups of a shard are: read once, and not with each group."""
        if file not in self.footers:
            with self.open_file(file) as opened:
                footer = parquet.read_metadata(opened)
            refuse_other_columns(self._named(file), footer.schema.to_arrow_schema())
            self.footers[file] = footer
        return self.footers[file]

    def _named(self, file: str) -> str:
        return f"{self.where}/{file}" if self.where else file

    def _column(self, file: str, name: str) -> list[int]:
        try:
            with self.open_file(file) as opened:
                column = parquet.ParquetFile(opened, metadata=self._footer(file)).read(columns=[name]).column(0)
        except _READ_ERRORS as error:
            raise ValueError(f"{self._named(file)} cannot be read: {' '.join(str(error).split())}") from error
        if column.null_count:
            raise ValueError(f"{self._named(file)} has {column.null_count} rows without a {name}; copy the shards anew")
        found: list[int] = column.to_pylist()
        return found


def _are_intact(columns: Sequence[Any], expected: RowGroup) -> bool:
    """Whether these are the rows of a row group, to the byte."""
    images, labels, names = columns
    if any(column.null_count for column in columns) or len(images) != expected.rows:
        return False
    try:
        rows = (
            (image.as_buffer(), label.as_py(), name.as_py()) for image, label, name in zip(images, labels, names, strict=True)
        )
        return group_digest(rows) == expected.digest
    except UnicodeDecodeError:  # a damaged name
        return False


def refuse_other_columns(file: str, schema: Any) -> None:
    """Raise ValueError where a Parquet file has not the columns of a packed data set."""
    found = {field.name: field.type for field in schema}
    if not all(name in found and fits(found[name]) for name, (_, fits) in COLUMNS.items()):
        there = ", ".join(f"{name} ({kind})" for name, kind in found.items()) or "none"
        wanted = ", ".join(f"{name} ({kind})" for name, (kind, _) in COLUMNS.items())
        raise ValueError(
            f"{file} has the columns {there}; expected {wanted}, as data.pack writes them. Pack the images anew, or copy the "
            "shards anew"
        )


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
