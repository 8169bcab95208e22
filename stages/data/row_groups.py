"""The row groups of Parquet shards of images: which columns hold what, how a group is read and digested. No tensor library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from stages.data.shards import group_digest

READ_ERRORS = (OSError, pa.ArrowException, UnicodeDecodeError)


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_struct_of_bytes(kind: Any) -> bool:
    """As Hugging Face writes images: {bytes, path}."""
    return bool(pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type))


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Columns of a shard: image (an encoded file, or a struct that has it as `bytes`), label, and name if there is one.

    `remedy` is what an error advises where a shard has others.
    """

    image: str
    label: str
    name: str | None
    remedy: str

    def columns(self) -> Mapping[str, tuple[str, Callable[[Any], bool]]]:
        """Name of each column -> what its values are to be."""
        if self.name is not None:
            images, labels, names = ("binary", _is_binary), ("integer", pa.types.is_integer), ("string", _is_text)
            return {self.image: images, self.label: labels, self.name: names}
        return {
            self.image: ("binary, or a struct with bytes", lambda kind: _is_binary(kind) or _is_struct_of_bytes(kind)),
            self.label: ("integer", pa.types.is_integer),
        }


PACKED = Layout(
    image="image",
    label="label",
    name="name",
    remedy="as data.pack writes them. Pack the images anew, or copy the shards anew; of shards that somebody else wrote say "
    "which they are with `train` and `test`",
)


def foreign_layout(image: str, label: str) -> Layout:
    """Columns of Parquet files that somebody else wrote."""
    return Layout(image=image, label=label, name=None, remedy="as image_column and label_column say; set these")


@dataclass(frozen=True)
class Rows:
    """A row group as Arrow holds it; a row is copied out of it when it is asked for. `place` names the group."""

    images: Any
    labels: Any
    names: Any
    place: str

    def __getitem__(self, row: int) -> tuple[bytes, int, str]:
        """The encoded image, its label, and what it is called."""
        name = f"{self.place}, row {row}" if self.names is None else self.names[row].as_py()
        return self.images[row].as_py(), self.labels[row].as_py(), name

    def __len__(self) -> int:
        return len(self.images)

    def digest(self) -> str | None:
        """Digest of images, labels and names; None where one is missing, or a name is damaged."""
        columns = [self.images, self.labels, *([] if self.names is None else [self.names])]
        if any(column.null_count for column in columns):
            return None
        try:
            return group_digest(
                (image.as_buffer(), label.as_py(), "" if self.names is None else self.names[row].as_py())
                for row, (image, label) in enumerate(zip(self.images, self.labels, strict=True))
            )
        except UnicodeDecodeError:
            return None


def read_rows(opened: Any, footer: Any, group: int, *, layout: Layout, place: str) -> Rows:
    """One row group of a shard; `footer` is the shard's, and has the layout's columns. Raises one of `READ_ERRORS`."""
    is_struct = pa.types.is_struct(footer.schema.to_arrow_schema().field(layout.image).type)
    wanted = [f"{layout.image}.bytes" if is_struct else layout.image, layout.label]
    wanted += [layout.name] if layout.name is not None else []
    shard = parquet.ParquetFile(opened, metadata=footer, pre_buffer=True)
    table = shard.read_row_group(group, columns=wanted, use_threads=False).combine_chunks()
    images = table.column(layout.image)
    return Rows(
        pc.struct_field(images, "bytes") if is_struct else images,
        table.column(layout.label),
        None if layout.name is None else table.column(layout.name),
        place,
    )


def refuse_other_columns(file: str, schema: Any, layout: Layout) -> None:
    """Raise ValueError where a Parquet file has not these columns."""
    found = {field.name: field.type for field in schema}
    columns = layout.columns()
    if not all(name in found and fits(found[name]) for name, (_, fits) in columns.items()):
        there = ", ".join(f"{name} ({kind})" for name, kind in found.items()) or "none"
        wanted = ", ".join(f"{name} ({kind})" for name, (kind, _) in columns.items())
        raise ValueError(f"{file} has the columns {there}; expected {wanted}, {layout.remedy}")
