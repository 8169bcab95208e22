"""Transforms: changes to a model's structure that a bundle names, so that loading can make them again.

A transform has two duties. `attach` makes the structure (buffers, parametrizations) so that the state dict round-trips;
`fold` turns it back into plain modules with the same outputs. How its state comes about (scores, schedules, calibration) is
the business of the stage that uses it. Transforms act in one fixed order: sparse mask, then fake quantization of what the
mask left, then token reduction.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

SPARSE_MASK = 10
FAKE_QUANTIZATION = 20
TOKEN_REDUCTION = 30

REGISTRY: dict[str, str] = {
    "fake_quant": "stages.models.fake_quant:TRANSFORM",
    "nm_mask": "stages.models.nm_mask:TRANSFORM",
    "token_reduction": "stages.models.token_reduction:TRANSFORM",
}
"""Transform name -> "package.module:object", imported where a bundle names it."""


class TransformSpec(BaseModel):
    """A transform as a bundle records it: enough to make its structure on a freshly built model."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    version: int = Field(ge=1)
    settings: Mapping[str, Any] = Field(default_factory=dict)


@runtime_checkable
class Transform(Protocol):
    """One kind of change to a model. Implementations keep no state: it lies in the model."""

    @property
    def name(self) -> str:
        """The name in the registry and in `model.json`."""

    @property
    def version(self) -> int:
        """Raised when the structure or its state changes meaning; other versions are refused."""

    @property
    def order(self) -> int:
        """SPARSE_MASK, FAKE_QUANTIZATION or TOKEN_REDUCTION."""

    def attach(self, model: nn.Module, settings: Mapping[str, Any]) -> None:
        """Make the structure, in place; raises ValueError naming the module it cannot handle."""

    def fold(self, model: nn.Module) -> None:
        """Turn the structure into plain modules with the same outputs, in place."""


def find_transform(name: str) -> Transform:
    """Import the transform called `name`; raises ValueError that lists the names there are."""
    if name not in REGISTRY:
        raise ValueError(f"unknown transform {name!r}; known: {', '.join(sorted(REGISTRY))}")
    module, _, attribute = REGISTRY[name].partition(":")
    transform = getattr(importlib.import_module(module), attribute)
    assert isinstance(transform, Transform)
    return transform


def attach_transforms(model: nn.Module, specs: Sequence[TransformSpec], *, acting: Sequence[TransformSpec] = ()) -> None:
    """Make the structure of every transform in `specs`, in place, in the order in which they act.

    Args:
        model: changed in place.
        specs: the transforms to attach.
        acting: the transforms that the model carries already.

    Raises:
        ValueError: a transform is unknown, is recorded in another version, comes twice, or comes out of order.
    """
    carried = list(acting)
    for spec in specs:
        _refuse_misfit(spec, after=carried)
        find_transform(spec.name).attach(model, spec.settings)
        carried.append(spec)


def fold_transforms(model: nn.Module, specs: Iterable[TransformSpec]) -> nn.Module:
    """A plain copy of `model` in evaluation mode with the same outputs: each transform folded, in the order they act.

    `model` is left as it is.
    """
    plain = copy.deepcopy(model).eval()
    for spec in specs:
        find_transform(spec.name).fold(plain)
    return plain


def _refuse_misfit(spec: TransformSpec, *, after: Sequence[TransformSpec]) -> None:
    transform = find_transform(spec.name)
    if spec.version != transform.version:
        raise ValueError(
            f"transform {spec.name!r} is recorded in version {spec.version}, this release has version {transform.version}; "
            "make the artifact again with this release"
        )
    for earlier in after:
        if earlier.name == spec.name:
            raise ValueError(f"the model already carries transform {spec.name!r}; start from the model before it")
        if find_transform(earlier.name).order > transform.order:
            raise ValueError(
                f"transform {spec.name!r} acts before {earlier.name!r}, which the model already carries; "
                f"apply {spec.name!r} first, then {earlier.name!r}"
            )
