"""What every `sparsify` stage does around its method: take a model in, choose or refuse layers, describe the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn

from stages.contract import StageContext
from stages.data.base import Dataset, load_stage_data
from stages.models.bundle import ModelBundle
from stages.models.layer_kinds import UNSUPPORTED, is_remade
from stages.models.nm_mask import masked_layers, nm_summary
from stages.ops.pattern import NMPattern, parse_pattern
from stages.ops.seeding import prepare_process
from stages.sparsify.settings import NMSettings
from stages.training.model_artifact import receive_model
from stages.training.tasks.base import Score, Task, task_of


@dataclass(frozen=True, kw_only=True)
class DenseModel:
    """The model that a stage was given, on the stage's device, and which of its layers are to become sparse."""

    bundle: ModelBundle
    data: Dataset
    device: torch.device
    pattern: NMPattern
    names: tuple[str, ...]
    task: Task
    score: Score

    @property
    def initial_metrics(self) -> dict[str, float]:
        """How well it did before anything of it was taken away."""
        return {f"initial_{self.score.metric}": self.score.value}


def receive_dense_model(context: StageContext, *, stage: str) -> DenseModel:
    """Prepare the process, take the model in, choose its layers and measure it.

    Raises:
        ValueError: a layer cannot take the pattern, the model carries transforms already, or it does not fit the data.
    """
    device = prepare_process(context)
    settings = context.settings
    assert isinstance(settings, NMSettings)
    data = load_stage_data(context)
    bundle, pattern = receive_model(context, data, takes=None), parse_pattern(settings.n_m)
    refuse_transforms(bundle, stage=stage)
    names = select_layers(
        bundle.model, pattern=pattern, dense_layers=settings.dense_layers, on_indivisible=settings.on_indivisible
    )
    task = task_of(bundle)
    score = task.evaluate(bundle.model.to(device), data.test, device=device)
    return DenseModel(bundle=bundle, data=data, device=device, pattern=pattern, names=names, task=task, score=score)


def select_layers(
    model: nn.Module,
    *,
    pattern: NMPattern,
    dense_layers: Sequence[str] = (),
    on_indivisible: Literal["refuse", "dense"] = "refuse",
) -> tuple[str, ...]:
    """Names of the layers to make sparse: every convolution and linear layer but the first layer and the classifier.

    The first layer (stem convolution, patch embedding) has few inputs and the classifier few weights; the literature leaves
    both dense. A grouped convolution is cut along the inputs of one group, which is what it sums over.

    Args:
        model: plain, without transforms on its weights.
        pattern: N and M.
        dense_layers: further names, or patterns as the shell knows them, of layers to leave dense.
        on_indivisible: what to do with a layer whose inputs M does not divide.

    Raises:
        ValueError: a pattern in `dense_layers` matches no layer, a layer's inputs are not a multiple of M, a layer computes
            with its weight otherwise than a plain one, a layer of another kind holds weights, or nothing is left to make
            sparse.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    others = [name for name, layer in model.named_modules() if isinstance(layer, UNSUPPORTED)]
    for text in dense_layers:
        if not any(fnmatchcase(name, text) for name in (*layers, *others)):
            raise ValueError(f"dense_layers: {text!r} matches no layer; layers: {', '.join(layers)}")
    for name in others:
        if not any(fnmatchcase(name, text) for text in dense_layers):
            raise ValueError(
                f"{name} is a {type(model.get_submodule(name)).__name__}; its weights cannot be masked and would stay dense. "
                "Masks are for Linear and Conv2d; name it in dense_layers to leave it so"
            )
    always_dense = {*list(layers)[:1], *_classifier(model, layers)}
    chosen = [name for name in layers if name not in always_dense and not any(fnmatchcase(name, text) for text in dense_layers)]
    indivisible = [name for name in chosen if layers[name].weight.shape[1] % pattern.m]
    if indivisible and on_indivisible == "refuse":
        name = indivisible[0]
        groups = getattr(layers[name], "groups", 1)
        grouped = f" in each of its {groups} groups" if groups > 1 else ""
        more = f"; so have {len(indivisible) - 1} more layers" if len(indivisible) > 1 else ""
        raise ValueError(
            f"{name} has I = {layers[name].weight.shape[1]} inputs{grouped}, not a multiple of M = {pattern.m}{more}. "
            f"Leave such layers dense with `on_indivisible: dense`, name them in dense_layers, or choose another pattern"
        )
    chosen = [name for name in chosen if name not in indivisible]
    for name in chosen:
        if not _computes_plainly(layers[name]):
            raise ValueError(
                f"{name} is a {type(layers[name]).__name__}, which changes its weight before use, so zeros would not "
                "stay zeros; name it in dense_layers"
            )
        if is_remade(layers[name]):
            raise ValueError(
                f"{name} has a weight that is made of other tensors before each use (weight norm, spectral norm), so zeros "
                "would not stay zeros; name it in dense_layers"
            )
    if not chosen:
        raise ValueError(f"no layer is left to make {pattern} sparse; layers: {', '.join(layers) or 'none'}")
    return tuple(chosen)


def refuse_transforms(bundle: ModelBundle, *, stage: str) -> None:
    """Masks act before every other transform, so they go on a plain model; raises ValueError naming what is in the way."""
    if bundle.transforms:
        names = ", ".join(spec.name for spec in bundle.transforms)
        raise ValueError(
            f"{stage}: the model carries {names}; masks act before all of them, so start from the model before those"
        )


def mask_metrics(bundle: ModelBundle) -> dict[str, int | bool]:
    """What every stage of this kind reports of the masked model, read off the stored weights.

    Not off the masks, nor off what a layer computes with, which is mask * weight and so could not but be sparse.
    """
    weights: dict[str, tuple[Tensor, NMPattern]] = {}
    for name, mask in masked_layers(bundle.model).items():
        weight = bundle.model.get_submodule(name).parametrizations.weight.original  # type: ignore[union-attr]
        assert isinstance(weight, Tensor)
        weights[name] = weight, mask.pattern
    return {**nm_summary(weights), "num_sparse_layers": len(weights)}


def _classifier(model: nn.Module, layers: dict[str, nn.Linear | nn.Conv2d]) -> set[str]:
    """The layers of timm's classifier (several in distilled models), or else the last layer."""
    if not hasattr(model, "get_classifier"):
        return set(list(layers)[-1:])
    found = model.get_classifier()  # type: ignore[operator]
    heads = found if isinstance(found, tuple | list) else (found,)
    inside = {id(part) for head in heads if isinstance(head, nn.Module) for part in head.modules()}
    return {name for name, layer in layers.items() if id(layer) in inside}


def _computes_plainly(layer: nn.Module) -> bool:
    """Whether the forward pass uses the weight as it is; weight-standardising layers, for one, do not."""
    plain = (nn.Linear.forward, nn.Conv2d.forward)
    return type(layer).forward in plain or type(layer).__name__ == "Conv2dSame"
