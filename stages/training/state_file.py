"""Nested state (dicts and lists of tensors and JSON values) in a folder: `state.json` and `tensors.safetensors`. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stages.ops.tensor_file import read_tensors, write_tensors

TENSOR_MARK = "$tensor"


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write `state` into `folder`; one tensor under several names is written once.

    Raises:
        TypeError: a value is neither a tensor nor JSON; the message has its path.
    """
    tensors: dict[str, Tensor] = {}
    written: dict[tuple[Any, ...], str] = {}

    def encode(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            place = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else (path,)
            if place not in written:
                written[place] = path
                tensors[path] = value
            return {TENSOR_MARK: written[place]}
        if isinstance(value, Mapping):
            if TENSOR_MARK in value or not all(isinstance(key, str) for key in value):
                raise TypeError(f"state {path!r} has keys that are not text, or the key {TENSOR_MARK!r}")
            return {key: encode(entry, f"{path}/{key}") for key, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return [encode(entry, f"{path}/{index}") for index, entry in enumerate(value)]
        if value is None or isinstance(value, (str, int, float, bool)):
            return value
        raise TypeError(
            f"state {path!r} is a {type(value).__name__}; expected a tensor, text, a number, None, a list or a dict"
        )

    encoded = encode(state, "")
    (folder / "state.json").write_text(json.dumps(encoded), encoding="utf-8")  # in its order: history.json keeps it
    write_tensors(folder / "tensors.safetensors", tensors)


def read_state(folder: Path) -> dict[str, Any]:
    """What `write_state` wrote; tuples come back as lists, tensors lie on the mapped file."""
    tensors = read_tensors(folder / "tensors.safetensors")

    def decode(value: Any) -> Any:
        if isinstance(value, dict):
            return tensors[value[TENSOR_MARK]] if TENSOR_MARK in value else {key: decode(entry) for key, entry in value.items()}
        return [decode(entry) for entry in value] if isinstance(value, list) else value

    decoded: dict[str, Any] = decode(json.loads((folder / "state.json").read_text(encoding="utf-8")))
    return decoded
