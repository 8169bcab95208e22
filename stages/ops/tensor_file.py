"""Tensors by name in one safetensors file, written from their own memory and read by mapping it.

The library's `save_file` first joins everything in one byte string, which doubles the memory of a large model. The format is
small: 8 bytes of header length (little endian), a JSON header, then the buffers without gaps.
Source: safetensors format, github.com/huggingface/safetensors, README "Format".
"""

from __future__ import annotations

import itertools
import json
import mmap
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from stages.ops.tensor_header import read_header

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The element types that a tensor file may hold, by their name in the format."""

_NAME_OF = {dtype: name for name, dtype in DTYPES.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> int:
    """Write `tensors` as a safetensors file and return its size in bytes.

    The same tensors give the same bytes: the header's keys are sorted, the buffers lie by falling element size and then by
    name, so that each begins at a multiple of its element size and can be mapped.

    Args:
        path: the file to write; replaced where it exists.
        tensors: any shape and device; an element type of `DTYPES`.
        metadata: text kept in the header.

    Raises:
        ValueError: a tensor is sparse or of another element type, or two share memory; the message has the names.
    """
    _refuse_shared_memory(tensors)
    order, head = _layout(tensors, metadata=metadata)
    with path.open("wb") as file:
        file.write(head)
        for name in order:
            # One tensor at a time: only a strided or remote one is copied, and only for the length of its own write.
            flat = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            file.write(flat.numpy().data)
    return len(head) + _content_size(tensors)


def file_size(tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> int:
    """Size in bytes of the file that `write_tensors` would write: names, shapes and element types decide it.

    Example:
        >>> file_size({"a": torch.zeros(3)})
        76
    """
    return len(_layout(tensors, metadata=metadata)[1]) + _content_size(tensors)


def _layout(tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None) -> tuple[list[str], bytes]:
    """The order in which buffers lie, and all bytes before the first of them."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in order:
        tensor = tensors[name]
        if name == "__metadata__" or tensor.dtype not in _NAME_OF or tensor.layout != torch.strided or tensor.is_quantized:
            raise ValueError(
                f"tensor {name!r} ({tensor.dtype}, {tensor.layout}) cannot be written; supported: {', '.join(DTYPES)}"
            )
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAME_OF[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return order, len(text).to_bytes(8, "little") + text


def _content_size(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Map a safetensors file and return its tensors by name, sorted.

    The tensors lie on the mapped file; writing to one changes this process's copy of the page only.

    Raises:
        ValueError: the file is cut short or is no safetensors file (see `tensor_header.py`).
    """
    header = read_header(path)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    tensors: dict[str, Tensor] = {}
    for name, entry in header.tensors.items():
        dtype = DTYPES[entry.dtype]
        count = (entry.end - entry.begin) // dtype.itemsize
        if count == 0:
            tensors[name] = torch.empty(entry.shape, dtype=dtype)
        else:
            flat = torch.frombuffer(mapped, dtype=dtype, count=count, offset=header.offset + entry.begin)
            tensors[name] = flat.reshape(entry.shape)
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The text kept in a safetensors file's header; raises ValueError as `read_tensors` does."""
    return dict(read_header(path).metadata)


def _refuse_shared_memory(tensors: Mapping[str, Tensor]) -> None:
    """Two names for one memory would be two tensors after reading: the caller has to say which one it means."""
    spans = sorted(
        (tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size(), name)
        for name, tensor in tensors.items()
        if tensor.numel() and tensor.is_contiguous() and tensor.device.type == "cpu"
    )
    for (_, end, first), (begin, _, second) in itertools.pairwise(spans):
        if begin < end:
            raise ValueError(f"tensors {first!r} and {second!r} share memory; write one of them, or a clone")
