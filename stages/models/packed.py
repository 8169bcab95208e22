"""Packed models: one safetensors file in which N:M sparse and b-bit weights take the room that they need, and its loader.

A file holds the tensors of the folded model (no scores, no masks, no learned bounds of weights). Layout: `docs/formats.md`.
Knows no stage and no data.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.models.bundle import ModelBundle, fold_bundle, load_state
from stages.models.fake_quant import quantized_layers, weight_quantizer
from stages.models.nm_mask import masked_layers
from stages.models.transforms import TransformSpec, attach_transforms, fold_transforms
from stages.models.zoo import Architecture, build_network
from stages.ops.nm import from_blocks, to_blocks
from stages.ops.packing import (
    combination_bits,
    kept_positions,
    pack_bits,
    packed_size,
    rank_combinations,
    unpack_bits,
    unrank_combinations,
)
from stages.ops.pattern import NMPattern, parse_pattern
from stages.ops.quantizers import Form
from stages.ops.tensor_file import DTYPES, read_tensors, write_tensors

FORMAT = 1
DESCRIPTION, CODES, NUMBERS = "description", "codes", "numbers."

_NAME_OF = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Levels of a quantized weight: lower + k / (2^bits - 1) * (upper - lower), or 2 k / (2^bits - 1) - 1 where normalized."""

    bits: int
    form: Form
    lower: Tensor
    upper: Tensor

    def levels(self) -> Tensor:
        """All 2^bits values, rising, by the very operations that `stages.ops.quantizers.quantize_weight` uses."""
        level = torch.arange(2**self.bits).to(self.lower.dtype) / float(2**self.bits - 1)
        return 2 * level - 1 if self.form == "normalized" else self.lower + level * (self.upper - self.lower)


@dataclass(kw_only=True)
class _Streams:
    """What is being written or read: numbers by element type, and the bits of indices and levels."""

    numbers: dict[str, list[Tensor]] = field(default_factory=dict)
    codes: list[Tensor] = field(default_factory=list)

    def add_numbers(self, values: Tensor) -> None:
        self.numbers.setdefault(_NAME_OF[values.dtype], []).append(values.detach().cpu().reshape(-1))

    def tensors(self) -> dict[str, Tensor]:
        joined = {NUMBERS + name: torch.cat(parts) for name, parts in self.numbers.items()}
        return joined | ({CODES: torch.cat(self.codes)} if self.codes else {})


class _Reader:
    """Takes the streams' content in the order in which it was written."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.taken = dict.fromkeys(tensors, 0)

    def take(self, stream: str, count: int) -> Tensor:
        begin = self.taken[stream] if stream in self.tensors else 0
        part = self.tensors[stream][begin : begin + count] if stream in self.tensors else torch.empty(0)
        if len(part) != count:
            raise ValueError(f"packed file: stream {stream!r} ends early; {count} entries wanted from {begin}")
        self.taken[stream] = begin + count
        return part

    def codes(self, *, bits: int, count: int) -> Tensor:
        size = packed_size(count, bits=bits)
        stream = self.take(CODES, size) if size else torch.empty(0, dtype=torch.uint8)
        return unpack_bits(stream, bits=bits, count=count)

    def refuse_rest(self) -> None:
        rest = [name for name, tensor in self.tensors.items() if self.taken[name] != len(tensor)]
        if rest:
            raise ValueError(f"packed file: streams {', '.join(rest)} hold more than the description names")


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A packed model in memory: the tensors of its file, and what the description says of each tensor of the model."""

    tensors: Mapping[str, Tensor]
    entries: tuple[Mapping[str, Any], ...]


def write_packed(bundle: ModelBundle, path: Path) -> int:
    """Write the folded bundle as one packed file (see `pack`) and return its size in bytes."""
    return write_tensors(path, pack(bundle).tensors)


def pack(bundle: ModelBundle) -> Packed:
    """Pack the folded bundle; the same bundle gives the same bytes.

    Masked layers store N values and one combination number per block; quantized ones store level numbers; both together
    store level numbers of kept weights. Everything else is stored as it is. A layer whose values are not those that its
    transform promises (which no stage here makes) is stored as it is too, so the file is exact in any case.
    """
    state = fold_bundle(bundle).cpu().state_dict()
    masks, grids = masked_layers(bundle.model), _grids(bundle.model)
    streams = _Streams()
    entries: list[dict[str, Any]] = []
    written: dict[tuple[Any, ...], str] = {}
    for name in sorted(state):
        tensor = state[name]
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in written:
            entries.append({"name": name, "same_as": written[place]})
            continue
        written[place] = name
        layer = name.removesuffix(".weight") if name.endswith(".weight") else None
        fixed = masks.get(layer) if layer else None
        encoding = _encode(
            tensor,
            mask=fixed.mask.cpu() if fixed else None,
            pattern=fixed.pattern if fixed else None,
            grid=grids.get(layer) if layer else None,
            streams=streams,
        )
        entries.append({"name": name, "shape": list(tensor.shape), "dtype": _NAME_OF[tensor.dtype], **encoding})
    description = {
        "format": FORMAT,
        "architecture": bundle.architecture.model_dump(mode="json"),
        "transforms": [spec.model_dump(mode="json") for spec in bundle.transforms],
        "tensors": entries,
    }
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    packed = torch.frombuffer(bytearray(zlib.compress(text, 9)), dtype=torch.uint8)
    return Packed(tensors={DESCRIPTION: packed, **streams.tensors()}, entries=tuple(entries))


def read_description(path: Path) -> dict[str, Any]:
    """What the file says of itself: architecture, transforms, and name, shape and encoding of every tensor.

    Raises:
        ValueError: the file is no packed model, or of another format.
    """
    return _described(read_tensors(path), path)


def unpack_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of the folded model by name, as `write_packed` found them; needs no architecture.

    Raises:
        ValueError: the file is damaged or is no packed model.
    """
    tensors = read_tensors(path)
    description = _described(tensors, path)
    reader = _Reader({name: tensor for name, tensor in tensors.items() if name != DESCRIPTION})
    state: dict[str, Tensor] = {}
    for entry in description["tensors"]:
        same = entry.get("same_as")
        state[entry["name"]] = state[same] if same else _decode(entry, reader)
    reader.refuse_rest()
    return state


def load_packed(path: Path) -> nn.Module:
    """Build the plain model that a packed file holds, in evaluation mode, with the very weights that were packed.

    Raises:
        ValueError: the file is damaged, is no packed model, or does not fit the network that it names.
    """
    description = read_description(path)
    model = build_network(Architecture.model_validate(description["architecture"]), seed=0)
    specs = [TransformSpec.model_validate(entry) for entry in description["transforms"]]
    attach_transforms(model, specs)
    plain = fold_transforms(model, specs)
    load_state(plain, unpack_tensors(path), where=str(path))
    return plain.eval()


def _described(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    if DESCRIPTION not in tensors:
        raise ValueError(f"{path} is no packed model: it has no tensor {DESCRIPTION!r}; found: {', '.join(tensors) or 'none'}")
    try:
        description: dict[str, Any] = json.loads(zlib.decompress(tensors[DESCRIPTION].numpy().tobytes()))
    except (zlib.error, ValueError) as error:
        raise ValueError(f"{path}: the description of the packed model cannot be read: {error}") from error
    if description.get("format") != FORMAT:
        raise ValueError(f"{path} has packed format {description.get('format')!r}; this release reads format {FORMAT}")
    return description


def _encode(
    weight: Tensor, *, mask: Tensor | None, pattern: NMPattern | None, grid: Grid | None, streams: _Streams
) -> dict[str, Any]:
    """Add a tensor's content to the streams and say how: "n_m" and "grid" where they apply, nothing where it is raw."""
    values = weight.detach()
    said: dict[str, Any] = {}
    numbers: Tensor | None = None
    if mask is not None and pattern is not None and not bool(weight.masked_select(~mask).any()):
        positions_GN = kept_positions(to_blocks(mask, m=pattern.m), n=pattern.n)
        values = to_blocks(values, m=pattern.m).gather(1, positions_GN)
        numbers = rank_combinations(positions_GN, m=pattern.m)
        said["n_m"] = str(pattern)
    levels = _level_numbers(values, grid) if grid else None
    if numbers is not None and pattern is not None:
        streams.codes.append(pack_bits(numbers, bits=combination_bits(pattern)))
    if levels is not None and grid is not None:
        said["grid"] = {"bits": grid.bits, "form": grid.form}
        if grid.form == "dequantized":
            streams.add_numbers(torch.stack([grid.lower, grid.upper]))
        streams.codes.append(pack_bits(levels, bits=grid.bits))
    else:
        streams.add_numbers(values)
    return said


def _decode(entry: Mapping[str, Any], reader: _Reader) -> Tensor:
    shape, dtype = tuple(entry["shape"]), DTYPES[entry["dtype"]]
    stream = NUMBERS + entry["dtype"]
    pattern = parse_pattern(entry["n_m"]) if "n_m" in entry else None
    size = torch.Size(shape).numel()
    positions_GN = None
    if pattern is not None:
        numbers = reader.codes(bits=combination_bits(pattern), count=size // pattern.m)
        positions_GN = unrank_combinations(numbers, pattern)
    count = size if positions_GN is None else positions_GN.numel()
    if "grid" in entry:
        bits, form = entry["grid"]["bits"], entry["grid"]["form"]
        zero = torch.zeros((), dtype=dtype)
        lower, upper = reader.take(stream, 2).unbind() if form == "dequantized" else (zero, zero)
        levels = Grid(bits=bits, form=form, lower=lower, upper=upper).levels()
        values = levels[reader.codes(bits=bits, count=count)]
    else:
        values = reader.take(stream, count)
    if positions_GN is None or pattern is None:
        return values.reshape(shape).clone()
    blocks_GM = torch.zeros(len(positions_GN), pattern.m, dtype=dtype)
    return from_blocks(blocks_GM.scatter_(1, positions_GN, values.reshape(positions_GN.shape)), shape)


def _level_numbers(values: Tensor, grid: Grid) -> Tensor | None:
    """Which level each value is, or None where one is none of them exactly."""
    levels = grid.levels()
    numbers = torch.searchsorted(levels, values.contiguous()).clamp_(max=len(levels) - 1)
    return numbers if torch.equal(levels[numbers], values) else None


def _grids(model: nn.Module) -> dict[str, Grid]:
    found: dict[str, Grid] = {}
    for name, layer in quantized_layers(model).items():
        quantizer = weight_quantizer(layer)
        assert quantizer is not None
        lower, upper = quantizer.lower.detach().cpu(), quantizer.upper.detach().cpu()
        found[name] = Grid(bits=quantizer.bits, form=quantizer.form, lower=lower, upper=upper)
    return found
