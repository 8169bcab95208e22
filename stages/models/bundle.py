"""The model as it travels between stages: what was built, what was changed in it, and the weights.

A bundle on disk is `model.json` (architecture, transforms, tied tensors) and `weights.safetensors` (parameters, buffers,
the transforms' state). Loading builds the architecture, makes each transform's structure and loads the state strictly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.contract import Artifact
from stages.models.transforms import TransformSpec, attach_transforms, find_transform, fold_transforms
from stages.models.zoo import Architecture, build_network
from stages.ops.input_spec import InputSpec
from stages.ops.tensor_file import file_size, read_tensors, write_tensors

__all__ = [
    "Architecture",
    "InputSpec",
    "ModelBundle",
    "TransformSpec",
    "apply_transform",
    "build_bundle",
    "fold_bundle",
    "load_bundle",
    "read_description",
    "save_bundle",
    "weights_size",
]

FORMAT = 1
DESCRIPTION_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True, kw_only=True)
class ModelBundle:
    """A network with its description; `transforms` are those attached to `model`, in the order in which they act."""

    architecture: Architecture
    model: nn.Module
    transforms: tuple[TransformSpec, ...] = ()

    def has_transform(self, name: str) -> bool:
        """Whether the model carries the transform called `name`."""
        return any(spec.name == name for spec in self.transforms)


def build_bundle(architecture: Architecture, *, seed: int) -> ModelBundle:
    """A new model with initial weights that follow from `seed`, without transforms."""
    return ModelBundle(architecture=architecture, model=build_network(architecture, seed=seed))


def apply_transform(bundle: ModelBundle, name: str, settings: Mapping[str, Any]) -> ModelBundle:
    """Attach one more transform to the bundle's model, in place, and return the bundle that records it.

    Raises:
        ValueError: the transform is unknown, is there already, acts before one that is there, or cannot handle the model.
    """
    spec = TransformSpec(name=name, version=find_transform(name).version, settings=dict(settings))
    attach_transforms(bundle.model, [spec], acting=bundle.transforms)
    return replace(bundle, transforms=(*bundle.transforms, spec))


def fold_bundle(bundle: ModelBundle) -> nn.Module:
    """A plain copy of the bundle's model, in evaluation mode, with all transforms folded in and the same outputs."""
    return fold_transforms(bundle.model, bundle.transforms)


def save_bundle(bundle: ModelBundle, folder: Path) -> int:
    """Write the bundle's two files into `folder` and return their size in bytes.

    Tied tensors (one tensor under several names) are written once, under the first name; `model.json` lists the others.

    Raises:
        ValueError: a tensor holds NaN or infinity, or overlaps another without being the same tensor.
    """
    state, tied = _split_tied(bundle.model.state_dict())
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"tensor {name!r} holds NaN or infinity; a model with such weights is not saved")
    description = {
        "format": FORMAT,
        "architecture": bundle.architecture.model_dump(mode="json"),
        "transforms": [spec.model_dump(mode="json") for spec in bundle.transforms],
        "tied": tied,
    }
    text = json.dumps(description, indent=2, sort_keys=True, allow_nan=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION_FILE).write_text(text, encoding="utf-8")
    return len(text.encode()) + write_tensors(folder / WEIGHTS_FILE, state)


def load_bundle(source: Artifact | Path, *, device: str | torch.device = "cpu") -> ModelBundle:
    """Build what `model.json` describes and load its weights strictly; the model is in evaluation mode.

    Args:
        source: an artifact of kind "model", or a folder with the bundle's two files.
        device: where the model's tensors shall lie.

    Raises:
        ValueError: the format or a transform is unknown, or the weights do not fit; the message has the tensors' names.
    """
    description, weights_path = read_description(source), _file_of(source, WEIGHTS_FILE)
    architecture = Architecture.model_validate(description["architecture"])
    specs = tuple(TransformSpec.model_validate(entry) for entry in description["transforms"])
    model = build_network(architecture, seed=0)
    attach_transforms(model, specs)
    state = read_tensors(weights_path)
    state.update({alias: state[name] for alias, name in description["tied"].items()})
    load_state(model, state, where=str(weights_path))
    return ModelBundle(architecture=architecture, model=model.to(device).eval(), transforms=specs)


def read_description(source: Artifact | Path) -> dict[str, Any]:
    """What `model.json` says: architecture, transforms and tied tensors; raises ValueError where the format is unknown."""
    path = _file_of(source, DESCRIPTION_FILE)
    description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if description.get("format") != FORMAT:
        raise ValueError(f"{path} has format {description.get('format')!r}; this release reads format {FORMAT}")
    return description


def weights_size(model: nn.Module) -> int:
    """Bytes of the file of weights that `save_bundle` would write; shapes decide it."""
    return file_size(_split_tied(model.state_dict())[0])


def load_state(model: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Copy `state` into the model's tensors; every name, shape and element type has to be the same.

    torch's own strict loading casts element types silently, which would round weights.
    """
    own = model.state_dict()
    problems = [f"missing {name}" for name in sorted(own.keys() - state.keys())]
    problems += [f"unexpected {name}" for name in sorted(state.keys() - own.keys())]
    for name in sorted(own.keys() & state.keys()):
        expected, found = own[name], state[name]
        if expected.shape != found.shape or expected.dtype != found.dtype:
            problems.append(f"{name} is {tuple(found.shape)} {found.dtype}, expected {tuple(expected.shape)} {expected.dtype}")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{where} does not fit the model: {'; '.join(problems[:5])}{more}")
    model.load_state_dict(dict(state), strict=True)


def _file_of(source: Artifact | Path, name: str) -> Path:
    return source / name if isinstance(source, Path) else source.file(name)


def _split_tied(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors to write, and the other names of those that have several."""
    first_of: dict[tuple[Any, ...], str] = {}
    written: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    for name in sorted(state):
        tensor = state[name]
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in first_of:
            tied[name] = first_of[place]
        else:
            first_of[place] = name
            written[name] = tensor
    return written, tied
