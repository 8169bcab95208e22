"""What makes an artifact, in a canonical form, and the key that is its digest. Pure: no files, no clock, no defaults.

The encoder refuses what it does not know, with the place of the culprit: a key must never rest on `repr`, on `hash()` or on
the order of a dictionary, since those differ between processes and versions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Literal, get_args, get_origin

from blake3 import blake3
from pydantic import BaseModel

from stages.contract import StageSettings, StageSpec

KEY_LENGTH = 32
"""Hex digits of a key: 128 bits, so that two of 10^12 artifacts collide with probability 10^-15."""


class NotEncodable(ValueError):
    """A value that has no canonical form; the message names its place."""


def canonical_value(value: Any, *, place: str = "") -> Any:
    """The value as plain JSON data with text keys; raises NotEncodable with the place of what has no canonical form."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Enum):
        return canonical_value(value.value, place=place)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotEncodable(f"{place or 'value'}: {value} has no canonical form; only finite numbers can be part of a key")
        return 0.0 if value == 0 else float(value)
    if isinstance(value, BaseModel):
        return canonical_settings(value, place=place)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise NotEncodable(f"{place or 'value'}: key {key!r} is not a text")
        return {key: canonical_value(value[key], place=f"{place}.{key}" if place else key) for key in sorted(value)}
    if isinstance(value, (set, frozenset)):
        raise NotEncodable(f"{place or 'value'}: a set has no order; write a list")
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [canonical_value(item, place=f"{place}[{index}]") for index, item in enumerate(value)]
    raise NotEncodable(f"{place or 'value'}: a {type(value).__name__} has no canonical form")


def canonical_settings(settings: BaseModel, *, place: str = "") -> dict[str, Any]:
    """The settings that differ from their defaults, by name, without the operational ones.

    A default stays out, so that a new knob keeps old artifacts; a field marked `json_schema_extra={"operational": True}`
    (how often to checkpoint) changes how the work is done and not what comes out.
    """
    fields = type(settings).model_fields
    result = {}
    for name in sorted(fields):
        value = getattr(settings, name)
        if _is_operational(fields[name].json_schema_extra):
            continue
        if _names_its_class(fields[name].annotation) or (
            name in settings.model_fields_set and value != fields[name].get_default(call_default_factory=True)
        ):
            result[name] = canonical_value(value, place=f"{place}.{name}" if place else name)
    return result


def _is_operational(extra: Any) -> bool:
    return isinstance(extra, dict) and extra.get("operational") is True


def _names_its_class(annotation: Any) -> bool:
    """A field that can hold one value only tells alternatives of a union apart: left out, two of them would look alike."""
    return get_origin(annotation) is Literal and len(get_args(annotation)) == 1


def artifact_identity(
    spec: StageSpec, *, settings: StageSettings, seed: int, inputs: Mapping[str, str | Sequence[str]], workers: int = 1
) -> dict[str, Any]:
    """All that makes the artifact: stage, version, settings, seed, data, the keys of its inputs, and workers where several."""
    identity = {
        "stage": spec.name,
        "version": spec.version,
        "settings": canonical_settings(settings),
        "seed": seed,
        "data": settings.data_identity(),
        "inputs": {port: value if isinstance(value, str) else list(value) for port, value in sorted(inputs.items())},
    }
    return identity | ({"workers": workers} if workers > 1 else {})


def encode(value: Any) -> bytes:
    """The one byte string of a canonical value: JSON with sorted keys, no spaces, shortest exact floats."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def artifact_key(identity: Mapping[str, Any]) -> str:
    """The key of an artifact made by `identity` (see `artifact_identity`)."""
    return blake3(encode(identity)).hexdigest(length=KEY_LENGTH // 2)
