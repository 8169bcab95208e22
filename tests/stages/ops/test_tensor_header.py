"""A safetensors file that anyone could have made: what its header claims is checked before a byte is read by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.ops.tensor_file import DTYPES, read_metadata, read_tensors
from stages.ops.tensor_header import ELEMENT_BYTES, read_header

GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def written(path: Path, header: Any, *, content: bytes = bytes(8), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + content)
    return path


HOSTILE = {
    "header longer than the file": ({"a": GOOD}, {"length": 2**60}, "no whole safetensors file"),
    "no JSON": (b"\x80\x04pickle", {}, "not JSON"),
    "too deep": (b"[" * 100_000, {}, "not JSON"),
    "a list": ([1], {}, "no JSON object"),
    "metadata of another kind": ({"__metadata__": {"a": 1}}, {"content": b""}, "not texts"),
    "an entry of another shape": ({"a": {**GOOD, "link": "x"}}, {}, "no dtype, shape and data_offsets"),
    "unknown element type": ({"a": {**GOOD, "dtype": "F4"}}, {}, "element type 'F4'; supported"),
    "negative offset": ({"a": {**GOOD, "data_offsets": [-8, 0]}}, {}, "no whole numbers"),
    "negative shape": ({"a": {**GOOD, "shape": [-1, -2]}}, {}, "no whole numbers"),
    "shape of truth values": ({"a": {**GOOD, "shape": [True, 2]}}, {}, "no whole numbers"),
    "huge shape": ({"a": {**GOOD, "shape": [2**62, 2**62]}}, {}, "does not fit"),
    "beyond the file": ({"a": {**GOOD, "shape": [4], "data_offsets": [0, 16]}}, {}, "cut short"),
    "overlap": ({"a": GOOD, "b": {**GOOD, "shape": [1], "data_offsets": [4, 8]}}, {}, "begins at byte 4, where 8"),
    "gap": ({"a": {**GOOD, "shape": [1], "data_offsets": [4, 8]}}, {}, "begins at byte 4, where 0"),
    "hidden content": ({"a": GOOD}, {"content": bytes(100)}, "belong to none"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_refused_with_its_reason(case: str, tmp_path: Path) -> None:
    """A shared model would crash whoever loads it, or take all memory."""
    header, options, reason = HOSTILE[case]
    path = written(tmp_path / "f", header, **options)
    for read in (read_header, read_tensors, read_metadata):
        with pytest.raises(ValueError, match=reason):
            read(path)


def test_a_header_larger_than_any_model_needs_is_not_read(tmp_path: Path) -> None:
    """Two gigabytes of header would be parsed first, and found wrong then."""
    with (tmp_path / "f").open("wb") as file:
        file.write((2**31).to_bytes(8, "little"))
        file.truncate(2**31 + 100)  # sparse: takes no space
    with pytest.raises(ValueError, match="too large"):
        read_header(tmp_path / "f")


def test_both_tables_of_element_types_agree() -> None:
    assert {name: dtype.itemsize for name, dtype in DTYPES.items()} == dict(ELEMENT_BYTES)
