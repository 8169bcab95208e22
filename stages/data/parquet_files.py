"""Parquet files of images that `data.pack` did not write: which there are, and what they are known by. No tensor library.

To find out what a file holds it is read once, row group by row group, and each is digested; this machine remembers the digests.
From then on row groups are read as those of packed shards are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blake3 import blake3
from pydantic import BaseModel, ConfigDict

from stages.data.places import folder_opener, shard_digests, shard_names
from stages.data.shards import RowGroup
from stages.data.tar_index import MAX_CLASSES

FORMAT = 2


class FileContent(BaseModel):
    """What a file holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    groups: tuple[RowGroup, ...]
    largest_label: int


@dataclass(frozen=True, kw_only=True)
class ParquetFiles:
    """Files of one split: those that `pattern` names in a folder or under s3://bucket/prefix."""

    path: str
    pattern: str
    image_column: str
    label_column: str

    def contents(self) -> dict[str, FileContent]:
        """Each file and what it holds, reading only files that this machine does not remember.

        Raises:
            ValueError: there are no such files, or one cannot be read, has other columns, or rows without image or label.
        """
        columns = f"{self.image_column} and {self.label_column}"
        memo = f"parquet {FORMAT}, columns {columns}: {self.path}/{self.pattern}"
        found = shard_digests(memo, self.path, shard_names(self.path, self.pattern), self._read)
        return {name: FileContent.model_validate_json(text) for name, text in found.items()}

    def noted_classes(self) -> tuple[str, ...] | None:
        """The names of the classes that Hugging Face's note in the first file gives; None where there is no such note.

        Remembered apart from what files hold: which file is the first changes with the others.

        Raises:
            ValueError: there are no such files, or the first cannot be read.
        """
        first = shard_names(self.path, self.pattern)[:1]
        memo = f"parquet {FORMAT}, classes of {self.label_column}: {self.path}/{self.pattern}"
        (found,) = shard_digests(memo, self.path, first, self._read_classes).values()
        names: list[str] | None = json.loads(found)
        return None if names is None else tuple(names)

    def content_digest(self) -> str:
        """Digest of the rows in their order, and of the classes; what the files are called has no part in it."""
        hasher = blake3()
        for name in self.noted_classes() or ():
            hasher.update(f"class {len(name.encode())}:{name}\n".encode())
        for content in self.contents().values():
            for group in content.groups:
                hasher.update(f"{group.rows} {group.digest}\n".encode())
        return hasher.hexdigest()

    def _read_classes(self, name: str) -> str:
        from pyarrow import parquet

        from stages.data.row_groups import READ_ERRORS

        try:
            with folder_opener(self.path)(name) as opened:
                metadata = parquet.read_metadata(opened).schema.to_arrow_schema().metadata
        except READ_ERRORS as error:
            raise self._unreadable(name, error) from error
        return json.dumps(_names_in(metadata, self.label_column))

    def _unreadable(self, name: str, error: Exception) -> ValueError:
        return ValueError(f"{self.path}/{name} cannot be read: {' '.join(str(error).split())}")

    def _read(self, name: str) -> str:
        from pyarrow import parquet

        from stages.data.row_groups import READ_ERRORS, foreign_layout, read_rows, refuse_other_columns

        place, layout = f"{self.path}/{name}", foreign_layout(self.image_column, self.label_column)
        groups, largest = [], -1
        try:
            with folder_opener(self.path)(name) as opened:
                footer = parquet.read_metadata(opened)
                refuse_other_columns(place, footer.schema.to_arrow_schema(), layout)
                for number in range(footer.num_row_groups):
                    rows = read_rows(opened, footer, number, layout=layout, place=name)
                    labels = rows.labels.to_pylist()
                    wrong = next((label for label in labels if label is not None and not 0 <= label < MAX_CLASSES), None)
                    if wrong is not None:
                        raise ValueError(
                            f"{place}, row group {number} has the label {wrong}; labels are classes, from 0 to "
                            f"{MAX_CLASSES - 1} at most"
                        )
                    digest = rows.digest()
                    if digest is None or not labels:
                        raise ValueError(
                            f"{place}, row group {number}: of {len(rows)} rows {rows.images.null_count} have no encoded image "
                            f"and {rows.labels.null_count} no label; write files whose rows have both"
                        )
                    groups.append(RowGroup(rows=len(rows), digest=digest))
                    largest = max(largest, *labels)
        except READ_ERRORS as error:
            raise self._unreadable(name, error) from error
        if not groups:
            raise ValueError(f"{place} has no rows")
        return FileContent(groups=tuple(groups), largest_label=largest).model_dump_json()


def classes_of(noted: tuple[str, ...] | None, contents: Mapping[str, FileContent], num_classes: int | None) -> tuple[str, ...]:
    """Names of the classes: those noted in the files if there are as many as asked for, or else their numbers."""
    number = num_classes or len(noted or ()) or max(content.largest_label for content in contents.values()) + 1
    return noted if noted is not None and len(noted) == number else tuple(map(str, range(number)))


def _names_in(metadata: Mapping[bytes, bytes] | None, label_column: str) -> list[str] | None:
    """The names of a ClassLabel, as `datasets` notes them in the files that it writes."""
    try:
        features: Any = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label_column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return names if isinstance(names, list) and names and all(isinstance(name, str) for name in names) else None
