"""The header of a safetensors file, checked before anything in it is believed; needs no torch.

Source: safetensors format, github.com/huggingface/safetensors, README "Format".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 100_000_000
"""What the format's own reader allows, too."""

ELEMENT_BYTES: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """Element type, shape, and where the buffer begins and ends, counted from `TensorHeader.offset`."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class TensorHeader:
    """All that stands before the buffers. `offset` is the byte at which these begin."""

    offset: int
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]


def read_header(path: Path) -> TensorHeader:
    """Read and check the header.

    Raises:
        ValueError: the file is cut short, its header is too large or no JSON, an element type is unknown, or a buffer's place
            does not fit its shape, its neighbours or the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"{path} is no whole safetensors file: {size} bytes, header of {length}")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"{path}: a header of {length} bytes is too large; at most {MAX_HEADER_BYTES} are read")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no safetensors file: its header is not JSON") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path} is no safetensors file: its header is no JSON object")  # noqa: TRY004 - a file, not an argument
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{path}: the header's metadata are not texts by name")
    tensors = {name: _entry(path, name, header[name]) for name in sorted(header)}
    _check_places(path, tensors, content_bytes=size - 8 - length)
    return TensorHeader(offset=8 + length, tensors=tensors, metadata=metadata)


def _entry(path: Path, name: str, entry: Any) -> TensorEntry:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{path}: tensor {name!r} has no dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in ELEMENT_BYTES:
        raise ValueError(f"{path}: tensor {name!r} has element type {dtype!r}; supported: {', '.join(ELEMENT_BYTES)}")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{path}: tensor {name!r} has a shape or offsets that are no whole numbers from 0")
    begin, end = offsets
    if end - begin != math.prod(shape) * ELEMENT_BYTES[dtype]:
        raise ValueError(f"{path}: tensor {name!r} of shape {tuple(shape)} and {dtype} does not fit {end - begin} bytes")
    return TensorEntry(dtype, tuple(shape), begin, end)


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_places(path: Path, tensors: Mapping[str, TensorEntry], *, content_bytes: int) -> None:
    """Buffers follow one another without gaps and end with the file: what the format asks for, so that nothing can hide."""
    place = 0
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.end > content_bytes:
            raise ValueError(f"{path} is cut short: tensor {name!r} ends at byte {entry.end} of {content_bytes}")
        if entry.begin != place:
            raise ValueError(f"{path}: tensor {name!r} begins at byte {entry.begin}, where {place} was expected")
        place = entry.end
    if place != content_bytes:
        raise ValueError(f"{path}: {content_bytes - place} bytes after the last tensor belong to none")
