"""The transform `nm_mask`: some layers use mask * weight, with a fixed mask that keeps N of every M inputs.

How a mask was found is the business of a `sparsify` method. Here it is only kept: gradients of masked weights are exactly 0
and the weights themselves are stored as 0, so that any later fine-tuning leaves the pattern as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from stages.models.bundle import ModelBundle, apply_transform
from stages.models.transforms import SPARSE_MASK
from stages.ops.nm import violating_blocks
from stages.ops.pattern import NMPattern, parse_pattern


class FixedMask(nn.Module):
    """Parametrization weight -> mask * weight, with d/dweight = mask * gradient.

    Attributes:
        mask: bool buffer, the weight's shape.
        pattern: the N:M that the mask keeps.
    """

    mask: Tensor

    def __init__(self, weight: Tensor, pattern: NMPattern) -> None:
        super().__init__()
        self.pattern = pattern
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


class NMMaskTransform:
    """Settings: `layers`, a mapping from the name of a linear or convolution layer to its pattern, such as "2:4"."""

    name = "nm_mask"
    version = 1
    order = SPARSE_MASK

    def attach(self, model: nn.Module, settings: Mapping[str, Any]) -> None:
        """Give every named layer a mask of ones; loading the state brings the real one."""
        modules = dict(model.named_modules())
        for name, text in settings["layers"].items():
            layer, pattern = modules.get(name), parse_pattern(text)
            if not isinstance(layer, nn.Linear | nn.Conv2d):
                found = type(layer).__name__ if layer is not None else "no such layer"
                raise ValueError(f"nm_mask: {name}: found {found}; supported: Linear, Conv2d")  # noqa: TRY004 - the setting is wrong
            if layer.weight.shape[1] % pattern.m:
                raise ValueError(f"nm_mask: {name} has I = {layer.weight.shape[1]} inputs, not a multiple of M = {pattern.m}")
            parametrize.register_parametrization(layer, "weight", FixedMask(layer.weight, pattern))

    def fold(self, model: nn.Module) -> None:
        """Multiply the masks into the weights and take them away; other changes of the same weights stay."""
        for layer in list(model.modules()):
            chain = _chain(layer)
            index = _mask_index(chain)
            if index is None:
                continue
            with torch.no_grad():
                chain.original.mul_(chain[index].mask)
            if len(chain) > 1:
                chain.pop(index)
            else:
                make_weight_plain(layer)


TRANSFORM = NMMaskTransform()


def masked_layers(model: nn.Module) -> dict[str, FixedMask]:
    """The masks in a model, by the name of their layer."""
    chains = {name: _chain(layer) for name, layer in model.named_modules()}
    places = {name: _mask_index(chain) for name, chain in chains.items()}
    return {name: chains[name][index] for name, index in places.items() if index is not None}


def apply_masks(bundle: ModelBundle, masks: Mapping[str, Tensor], *, pattern: NMPattern) -> ModelBundle:
    """Fix masks in a bundle's model, in place: weights outside become exactly 0 and stay so.

    Args:
        bundle: without masks so far.
        masks: layer name -> bool mask of its weight's shape, at most N True in every block of M.
        pattern: N and M.
    """
    masked = apply_transform(bundle, TRANSFORM.name, {"layers": dict.fromkeys(masks, str(pattern))})
    for name, fixed in masked_layers(masked.model).items():
        assert violating_blocks(masks[name], pattern=pattern) == 0
        fixed.mask.copy_(masks[name])
        with torch.no_grad():
            _chain(masked.model.get_submodule(name)).original.mul_(fixed.mask)
    return masked


def nm_summary(layers: Mapping[str, tuple[Tensor, NMPattern]]) -> dict[str, int | bool]:
    """Check weights against their patterns.

    Returns:
        num_nm_blocks: blocks looked at.
        num_violating_blocks: those with more than N non-zeros.
        nm_valid: there are blocks, and none violates its pattern.
    """
    blocks = sum(weight.numel() // pattern.m for weight, pattern in layers.values())
    violating = sum(violating_blocks(weight, pattern=pattern) for weight, pattern in layers.values())
    return {"num_nm_blocks": blocks, "num_violating_blocks": violating, "nm_valid": blocks > 0 and violating == 0}


def make_weight_plain(layer: nn.Module) -> None:
    """Replace a parametrized weight by a parameter with the value that it has now.

    A copied layer shares its generated class with the original, and torch takes a parametrization off the class, which
    would break the original: so the layer gets a class of its own first.
    """
    shared = type(layer)
    members = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    layer.__class__ = type(shared.__name__, shared.__bases__, members)
    parametrize.remove_parametrizations(layer, "weight")


def _chain(layer: nn.Module) -> Any:
    """The parametrizations of a layer's weight, first to act first; empty where there are none."""
    return layer.parametrizations.weight if parametrize.is_parametrized(layer, "weight") else ()  # type: ignore[union-attr]


def _mask_index(chain: Any) -> int | None:
    return next((index for index, part in enumerate(chain) if isinstance(part, FixedMask)), None)
