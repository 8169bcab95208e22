"""Weights from elsewhere: timm's by name, a hub's, or a file of tensors, put into a network and given another head."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from stages.models.bundle import load_state
from stages.models.zoo import Architecture, build_network, create_timm
from stages.ops.weights_file import refusal

Head = Literal["keep", "new"]


def load_named(architecture: Architecture, *, source: str, head: Head, seed: int) -> nn.Module:
    """The network with the pretrained weights that timm or a hub has under `source` (a name with a tag, or hf-hub:OWNER/NAME).

    Raises:
        ValueError: there are none of this name, they do not fit, or know another number of classes and `head` is "keep".
        RuntimeError: they cannot be had from here.
    """
    import timm

    if architecture.builder != "timm":
        raise ValueError(f"{architecture.name} is no model of timm, so there are no weights by its name; set weights: file")
    if ":" not in source:
        described = timm.get_pretrained_cfg(source)
        if described is None or not described.has_weights:
            raise ValueError(f"timm has no pretrained weights for {source}; set weights: file, or weights: random")
    num_known = _num_known(source)
    _refuse_other_classes(architecture, num_known, head=head, where=source)  # before anything is fetched
    try:
        return _timm_with_weights(architecture, {}, source=source, num_known=num_known, head=head, seed=seed)
    except RuntimeError as error:
        if "weights_only" not in str(error):
            raise
        kind = re.search(r"[Uu]nsupported globals?: ([\w.]+)", str(error))
        raise ValueError(
            refusal(f"the file of weights of {source}", kind[1] if kind else "of a kind that is not known")
        ) from error


def load_tensors(architecture: Architecture, state: Mapping[str, Tensor], *, head: Head, seed: int, where: str) -> nn.Module:
    """The network with these weights; position embeddings of timm's transformers are resized to the images.

    Raises:
        ValueError: the weights are of another architecture, or know another number of classes and `head` is "keep".
    """
    if architecture.builder == "timm":
        try:
            overlay = _overlay(architecture, state)
            num_known = overlay["num_classes"]
            loaded = _timm_with_weights(
                architecture, overlay, source=architecture.name, num_known=num_known, head=head, seed=seed
            )
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"{where} does not fit {architecture.name}: {_short(error)}") from error
        _refuse_other_classes(architecture, num_known, head=head, where=where)  # it is of this architecture, after all
        return loaded
    model = build_network(architecture, seed=seed)
    kept = dict(state)
    if head == "new":
        own = model.state_dict()
        kept |= {name: own[name] for name in head_tensors(model)}
    load_state(model, kept, where=where)
    return model


def head_tensors(model: nn.Module) -> tuple[str, ...]:
    """Names of the tensors of the last linear or convolution layer."""
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return tuple(f"{layers[-1]}.{name}" for name in model.get_submodule(layers[-1]).state_dict()) if layers else ()


def _timm_with_weights(
    architecture: Architecture, overlay: Mapping[str, Any], *, source: str, num_known: int, head: Head, seed: int
) -> nn.Module:
    """All else is the loading of timm: renamed tensors, position embeddings of another size, another number of channels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = create_timm(
            architecture, name=source, pretrained=True, num_classes=num_known, pretrained_cfg_overlay=dict(overlay)
        )
        if head == "new":
            cast("Any", model).reset_classifier(len(architecture.class_names))  # every classifier of timm has it
    return model


def _refuse_other_classes(architecture: Architecture, num_known: int, *, head: Head, where: str) -> None:
    num_classes = len(architecture.class_names)
    if num_known != num_classes and head == "keep":
        raise ValueError(
            f"the weights of {where} know {num_known} classes and the data have {num_classes}; set head: new for a new "
            "classifier on the trained network"
        )


def _num_known(source: str) -> int:
    import timm
    from timm.models import load_model_config_from_hf

    if source.startswith("hf-hub:"):
        return int(load_model_config_from_hf(source.removeprefix("hf-hub:"))[0]["num_classes"])
    return int(cast("Any", timm.get_pretrained_cfg(source)).num_classes)


def _overlay(architecture: Architecture, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What tells timm that the weights are these, how many classes they know and how many channels they take."""
    import timm

    described = timm.get_pretrained_cfg(architecture.name)
    overlay: dict[str, Any] = {"state_dict": dict(state)}
    classifier = getattr(described, "classifier", None)
    first = classifier[0] if isinstance(classifier, tuple | list) else classifier
    head = state.get(f"{first}.weight")
    overlay["num_classes"] = len(head) if head is not None else getattr(described, "num_classes", 1000)
    stem = getattr(described, "first_conv", None)
    weight = state.get(f"{stem[0] if isinstance(stem, tuple | list) else stem}.weight")
    if weight is not None and weight.ndim == 4:
        height, width = architecture.input_spec.height, architecture.input_spec.width
        overlay["input_size"] = (weight.shape[1], height, width)
    return overlay


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:600]
