"""Which layers of a model are quantized, to how many bits and in which form; attaching the quantizers and their first bounds.

The form follows from what comes after a layer. A batch norm takes up any scale, so there the reference form [-1, 1] serves;
a layer without one (every linear layer of a vision transformer, the classifier of a ResNet) would lose its scale and the
network with it, so it computes in the units of its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from stages.contract import TrainingDiverged
from stages.models.bundle import ModelBundle, apply_transform
from stages.models.fake_quant import (
    TRANSFORM,
    Layer,
    QuantizedInput,
    QuantizedWeight,
    float_weight,
    quantized_layers,
    weight_quantizer,
)
from stages.models.layer_kinds import UNSUPPORTED, is_remade
from stages.ops.quantizers import initial_weight_bounds, least_squares_bounds
from stages.quantize.settings import PTQSettings, QATSettings

FormChoice = Literal["auto", "normalized", "dequantized"]
BoundsInit = Literal["reference", "least_squares"]
EndLayers = Literal["same", "8bit", "float"]


def choose_layers(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    *,
    weight_bits: int,
    activation_bits: int,
    layer_bits: Mapping[str, int] | None = None,
    unquantized_layers: Sequence[str] = (),
    end_layers: EndLayers = "same",
    form: FormChoice = "auto",
) -> dict[str, dict[str, Any]]:
    """Bits and form of every convolution and linear layer: the settings `layers` of the transform `fake_quant`.

    Args:
        model: as it will be trained, before any quantizer; it is run once on `example`, in evaluation mode.
        example: a batch of images, or all that the model takes.
        weight_bits: 2, 3, 4 or 8.
        activation_bits: the same.
        layer_bits: bits of weights and inputs of single layers: name or shell pattern -> bits; the last match counts.
        unquantized_layers: names or patterns of layers to leave alone.
        end_layers: bits of the first layer and of the last: those of all others, 8, or none.
        form: by what follows the layer, or one form for all.

    Raises:
        ValueError: a pattern matches no layer; a layer is of a kind without a quantizer, does not run, or changes its weight
            before use; or nothing is left to quantize.
    """
    every = {name: layer for name, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d, *UNSUPPORTED))}
    overrides = dict(layer_bits or {})
    for text in (*overrides, *unquantized_layers):
        if not any(fnmatchcase(name, text) for name in every):
            raise ValueError(f"{text!r} matches no layer; layers: {', '.join(every)}")
    normed, ran = followed_by_batch_norm(model, example)
    ends = {ran[0], ran[-1]} if ran else set()
    chosen: dict[str, dict[str, Any]] = {}
    for name, layer in every.items():
        if any(fnmatchcase(name, text) for text in unquantized_layers) or (name in ends and end_layers == "float"):
            continue
        _refuse_unsupported(name, layer, has_run=name in ran)
        bits = [value for text, value in overrides.items() if fnmatchcase(name, text)]
        if not bits and name in ends and end_layers == "8bit":
            bits = [8]
        chosen[name] = {
            "weight_bits": bits[-1] if bits else weight_bits,
            "activation_bits": bits[-1] if bits else activation_bits,
            "form": ("normalized" if name in normed else "dequantized") if form == "auto" else form,
        }
    if not chosen:
        raise ValueError(f"no layer is left to quantize; layers: {', '.join(every) or 'none'}")
    return chosen


def layers_asked(
    model: nn.Module, example: Tensor | Sequence[Tensor], settings: QATSettings | PTQSettings
) -> dict[str, dict[str, Any]]:
    """`choose_layers` by the settings of a stage. Of `example` two images are enough, and no more are run."""
    return choose_layers(
        model,
        example[:2] if isinstance(example, Tensor) else [part[:2] for part in example],
        weight_bits=settings.weight_bits,
        activation_bits=settings.activation_bits,
        layer_bits=settings.layer_bits,
        unquantized_layers=settings.unquantized_layers,
        end_layers=settings.end_layers,
        form=settings.form,
    )


def followed_by_batch_norm(model: nn.Module, example: Tensor | Sequence[Tensor]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Run the model once and read off the autograd graph which layers' outputs go into batch norms and nowhere else.

    The graph is what really happened: it sees functional calls, shared layers and branches, needs no tracing of Python, and a
    layer whose output is also used elsewhere is not taken for one whose scale is absorbed.

    Returns:
        Names of such layers, and the names of all linear and convolution layers that ran, in the order of their first run.
    """
    outputs: dict[str, list[Any]] = {}

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def record(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
            outputs.setdefault(name, []).append(output.grad_fn)

        return model.get_submodule(name).register_forward_hook(record)

    handles = [watch(name) for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            images, *rest = _inputs(example)
            result = model(images.detach().clone().requires_grad_(), *rest)
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    users = _users_of_nodes(result.grad_fn)

    def only_normed(nodes: Sequence[Any]) -> bool:
        return all(users.get(node) and all("BatchNorm" in user.name() for user in users[node]) for node in nodes)

    return frozenset(name for name, nodes in outputs.items() if only_normed(nodes)), tuple(outputs)


def attach_quantizers(
    bundle: ModelBundle,
    images: Tensor | Sequence[Tensor],
    *,
    layers: Mapping[str, Mapping[str, Any]],
    freezes: bool,
    bounds_init: BoundsInit = "reference",
    timestep_groups: int = 1,
    trains: bool = True,
) -> ModelBundle:
    """Attach quantizers in place and set all bounds from one batch.

    Weights: +-3 std. Inputs: min(x) and 3 std(x) / sqrt(1 - 2/pi), of each layer's inputs as it runs, the layers before it
    quantized already, in training mode without gradient. As in the authors' code this moves the statistics of batch norms
    once.

    Args:
        bundle: not quantized yet; masks may be there.
        images: the batch, or all that the model takes.
        layers: from `choose_layers`.
        freezes: whether weights may freeze later.
        bounds_init: "reference": as above; "least_squares": those that change weights and inputs least.
        timestep_groups: bounds of each layer's input over a denoiser's schedule.
        trains: run the batch in training mode; without training to follow, in evaluation mode.

    Source: arXiv 2211.08544, the authors' code; "least_squares" is ours.
    """
    settings: dict[str, Any] = {"layers": {k: dict(v) for k, v in layers.items()}, "freezes": freezes}
    if timestep_groups > 1:
        settings["timestep_groups"] = timestep_groups
    bundle = apply_transform(bundle, TRANSFORM.name, settings)
    initialise_bounds(bundle.model, images, bounds_init=bounds_init, trains=trains)
    return bundle


def initialise_bounds(
    model: nn.Module, images: Tensor | Sequence[Tensor], *, bounds_init: BoundsInit = "reference", trains: bool = True
) -> None:
    """Set all bounds of a model's quantizers from one batch, in place; see `attach_quantizers`."""
    for layer in quantized_layers(model).values():
        quantizer, inputs = quantizers_of(layer)
        weight = float_weight(layer).detach()
        kept = weight if quantizer.mask is None else weight[quantizer.mask]
        if bounds_init == "reference":
            lower, upper = initial_weight_bounds(kept)
        else:
            lower, upper = least_squares_bounds(kept, bits=quantizer.bits, symmetric=True)
        with torch.no_grad():
            quantizer.lower.copy_(lower)
            quantizer.upper.copy_(upper)
        inputs.observes = bounds_init
    was_training = model.training
    with torch.no_grad():
        model.train(trains)(*_inputs(images))
    model.train(was_training)


def quantizers_of(layer: Layer) -> tuple[QuantizedWeight, QuantizedInput]:
    """The quantizers of a quantized layer's weight and of its input."""
    return cast("QuantizedWeight", weight_quantizer(layer)), cast("QuantizedInput", layer.input_quantizer)


def bound_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The bounds of every quantized layer, by name, four for each: they want a learning rate of their own, and no decay."""
    return {
        f"{name}.{part}.{end}": getattr(quantizer, end)
        for name, layer in quantized_layers(model).items()
        for part, quantizer in zip(("weight", "input"), quantizers_of(layer), strict=True)
        for end in ("lower", "upper")
    }


@torch.no_grad()
def refuse_crossed_bounds(model: nn.Module) -> None:
    """Raise `TrainingDiverged` with a layer's name where an upper bound is no longer above its lower one."""
    parts = [(name, part) for name, layer in quantized_layers(model).items() for part in quantizers_of(layer)]
    spans = torch.stack([(part.upper - part.lower).min() for _, part in parts])
    if not bool((spans > 0).all()):
        name, part = parts[int((~(spans > 0)).nonzero()[0, 0])]
        raise TrainingDiverged(
            f"the bounds of {name} have crossed: lower {part.lower.max():.3g}, upper {part.upper.min():.3g}; train the "
            "bounds with a lower learning rate (bound_learning_rate in a stage), by Adam and apart from the weights"
        )


def _inputs(example: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return (example,) if isinstance(example, Tensor) else example


def _users_of_nodes(last: Any) -> dict[Any, list[Any]]:
    """Every node of an autograd graph, with the nodes that use what it made."""
    users: dict[Any, list[Any]] = {last: []}
    waiting = [last]
    while waiting:
        node = waiting.pop()
        for source, _ in node.next_functions:
            if source is None:
                continue
            if source not in users:
                users[source] = []
                waiting.append(source)
            users[source].append(node)
    return users


def _refuse_unsupported(name: str, layer: nn.Module, *, has_run: bool) -> None:
    advice = "name it in unquantized_layers to leave it as it is"
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise ValueError(f"{name} is a {type(layer).__name__}; supported: Linear, Conv2d; {advice}")  # noqa: TRY004
    computes_plainly = type(layer).forward in (nn.Linear.forward, nn.Conv2d.forward)
    if not computes_plainly and "Conv2dSame" not in (kind.__name__ for kind in type(layer).__mro__):
        raise ValueError(f"{name} is a {type(layer).__name__}, which changes its weight before use; {advice}")
    if is_remade(layer):
        raise ValueError(
            f"{name} has a weight that is made of other tensors before each use (weight norm, spectral norm); {advice}"
        )
    if not has_run:
        raise ValueError(f"{name} did not run in a forward pass, so it has no inputs to set bounds from; {advice}")
