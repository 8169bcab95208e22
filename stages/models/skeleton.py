"""Skeletons: models before they have weights, from which forecasts are made. Knows no stage and no data.

Shapes, patterns, bits and token counts are those that the model will have; its weights mean nothing, but where a mask will
leave a weight out there is a 0. Masks keep the first N of every M: as many as any other mask of the pattern.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from stages.contract import Artifact, Forecast
from stages.models.bundle import ModelBundle, read_description, weights_size
from stages.models.measures import METRICS, measure_model
from stages.models.nm_mask import masked_layers
from stages.models.transforms import TransformSpec, attach_transforms
from stages.models.zoo import Architecture, build_network
from stages.ops.nm import from_blocks
from stages.ops.pattern import NMPattern

WEIGHT = 0.01
"""Of every parameter: trained ones are hardly ever exactly 0, initial ones often."""


@dataclass(frozen=True)
class Skeleton:
    """Architecture and transforms as one text. Equal texts are equal models to whoever counts, so counts are kept by it."""

    text: str

    def build(self) -> ModelBundle:
        """A model of this structure, to be changed at will."""
        architecture, transforms = _read(self.text)
        model = copy.deepcopy(_network(architecture.model_dump_json()))
        attach_transforms(model, transforms)
        for name, fixed in masked_layers(model).items():
            original = model.get_submodule(name).parametrizations.weight.original  # type: ignore[union-attr]
            assert isinstance(original, Tensor)
            fixed.mask.copy_(first_of_every_block(original, pattern=fixed.pattern))
            with torch.no_grad():
                original.mul_(fixed.mask)
        return ModelBundle(architecture=architecture, model=model.eval(), transforms=transforms)


def skeleton_of(architecture: Architecture, transforms: tuple[TransformSpec, ...] = ()) -> Skeleton:
    """The skeleton of a model with these transforms."""
    content = {
        "architecture": architecture.model_dump(mode="json"),
        "transforms": [spec.model_dump(mode="json") for spec in transforms],
    }
    return Skeleton(json.dumps(content, sort_keys=True, allow_nan=False))


def read_skeleton(model: Artifact) -> Skeleton:
    """The skeleton of a finished model, from its description alone."""
    description = read_description(model)
    return Skeleton(json.dumps({name: description[name] for name in ("architecture", "transforms")}, sort_keys=True))


def forecast_architecture(architecture: Architecture) -> Forecast:
    """What is known of a model without transforms."""
    skeleton = skeleton_of(architecture)
    return Forecast(metrics=measure_skeleton(skeleton), model=skeleton)


def forecast_model(bundle: ModelBundle, *, metrics: Mapping[str, float] | None = None) -> Forecast:
    """What is known of a model with the structure of `bundle`, and `metrics` beside it."""
    skeleton = skeleton_of(bundle.architecture, bundle.transforms)
    return Forecast(metrics={**measure_skeleton(skeleton), **(metrics or {})}, model=skeleton)


@lru_cache(maxsize=4096)
def measure_skeleton(skeleton: Skeleton) -> Mapping[str, float]:
    """What every model is measured by, and the bytes of its file of weights. Not to be changed: it is kept."""
    bundle = skeleton.build()
    found = measure_model(bundle)
    return {**{name: found[name] for name in METRICS}, "size_bytes": weights_size(bundle.model)}


def build_input(inputs: Mapping[str, Forecast], port: str = "model") -> ModelBundle:
    """The model that is forecast for an input, built."""
    skeleton = inputs[port].model
    assert isinstance(skeleton, Skeleton)
    return skeleton.build()


def first_of_every_block(weight: Tensor, *, pattern: NMPattern) -> Tensor:
    """A mask of the weight's shape that keeps the first N of every M inputs."""
    kept_M = torch.arange(pattern.m) < pattern.n
    return from_blocks(kept_M.repeat(weight.numel() // pattern.m, 1), weight.shape)


def _read(text: str) -> tuple[Architecture, tuple[TransformSpec, ...]]:
    content: Mapping[str, Any] = json.loads(text)
    transforms = tuple(TransformSpec.model_validate(entry) for entry in content["transforms"])
    return Architecture.model_validate(content["architecture"]), transforms


@lru_cache(maxsize=2)
def _network(architecture: str) -> nn.Module:
    """The plain network, not to be changed; initial weights of a large one take seconds."""
    model = build_network(Architecture.model_validate_json(architecture), seed=0)
    for parameter in model.parameters():
        nn.init.constant_(parameter, WEIGHT)
    return model
