"""Writes a packed data set: Parquet shards and the manifest that vouches for them. Knows neither images nor latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from stages.data.images import EncodedImage
from stages.data.settings import ShardSettings
from stages.data.shards import MANIFEST_FILE, Manifest, RowGroup, Shard, group_digest

SCHEMA = pa.schema([("image", pa.binary()), ("label", pa.int32()), ("name", pa.string())])


@dataclass(kw_only=False)
class ShardWriter:
    """Writes one split, holding one row group at a time."""

    folder: Path
    split: str
    settings: ShardSettings = field(kw_only=True)
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


def write_manifest(manifest: Manifest, folder: Path) -> Mapping[str, Any]:
    """Write `dataset.json` beside the shards; returns what a stage reports of them."""
    text = manifest.model_dump_json(indent=1, exclude_none=True) + "\n"
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
    rows = {name: sum(group.rows for shard in shards for group in shard.groups) for name, shards in manifest.splits.items()}
    return {
        "num_train": rows["train"],
        "num_test": rows.get("test", 0),
        "num_classes": len(manifest.classes),
        "num_shards": sum(map(len, manifest.splits.values())),
        "size_bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "content_digest": manifest.content_digest(),
    }
