"""The denoiser of a diffusers pipeline folder, as an architecture with its weights. Nothing that could run code is read."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from stages.models.bundle import ModelBundle, build_bundle, load_state
from stages.models.denoisers import LABEL_DROPOUT
from stages.models.zoo import DENOISING, Architecture
from stages.ops.diffusers_network import load_network, network_class
from stages.ops.diffusion_folder import SCHEDULER, PipelineFolder
from stages.ops.input_spec import InputSpec


def load_pipeline(
    folder: PipelineFolder, *, input_spec: InputSpec, class_names: tuple[str, ...], label_dropout: float = LABEL_DROPOUT
) -> ModelBundle:
    """The pipeline's network with its weights, for images like these; one that draws by class knows the classes of the data.

    Raises:
        ValueError: the network draws other images or classes, its schedule is of another kind, or the weights are damaged or
            no tensors alone.
    """
    config = _known_settings(folder)
    _refuse_misfit(folder, config, input_spec)
    arguments: dict[str, Any] = {"network": config, "scheduler": _noise_schedule(folder, are_latents=input_spec.are_latents)}
    is_conditional = _draws_by_class(folder, config)
    if is_conditional:
        _refuse_other_classes(folder, config, len(class_names))
        arguments["label_dropout"] = label_dropout
    elif label_dropout != LABEL_DROPOUT:
        raise ValueError(f"{folder.root}: the network draws without classes, so there are no labels; leave label_dropout out")
    architecture = Architecture(
        builder="diffusers",
        name=folder.network,
        arguments=arguments,
        input_spec=input_spec,
        class_names=class_names if is_conditional else (),
        task=DENOISING,
    )
    bundle = build_bundle(architecture, seed=0)
    if is_conditional and bundle.model.no_class is None and label_dropout != LABEL_DROPOUT:
        raise ValueError(
            f'{folder.root}: the network has no class for "no class", so none can be left out; leave label_dropout out'
        )
    state = {f"network.{name}": value for name, value in load_network(folder).state_dict().items()}
    load_state(bundle.model, state, where=str(folder.folder / folder.weights))
    return bundle


def _known_settings(folder: PipelineFolder) -> dict[str, Any]:
    """The network's settings; those of other releases are left out where they say nothing."""
    config = folder.json(folder.config_file)
    known = inspect.signature(network_class(folder.network).__init__).parameters
    foreign = sorted(name for name, value in config.items() if name not in known and value)
    if foreign:
        raise ValueError(f"{folder.root}: {folder.config_file} sets {foreign}, which a {folder.network} does not know")
    return {name: value for name, value in config.items() if name in known}


def _noise_schedule(folder: PipelineFolder, *, are_latents: bool) -> dict[str, Any]:
    """Arguments of diffusers' DDPMScheduler that give the noise of the pipeline's schedule."""
    from diffusers import DDPMScheduler

    config = folder.json(SCHEDULER)
    if "beta_start" not in config and config.get("trained_betas") is None:
        raise ValueError(
            f"{folder.root}: {SCHEDULER} has no betas; supported are schedules that mix in noise by betas, as those of "
            "DDPMScheduler, DDIMScheduler and PNDMScheduler"
        )
    known = inspect.signature(DDPMScheduler.__init__).parameters
    found = {name: value for name, value in config.items() if name in known and value is not None}
    if are_latents:
        found.setdefault("clip_sample", False)  # DDPMScheduler's own default is for pixels, from -1 to 1
    if str(found.get("variance_type", "")).startswith("learned"):
        found["variance_type"] = "fixed_small"  # what the network tells of it is left out
    return found


def _draws_by_class(folder: PipelineFolder, config: Mapping[str, Any]) -> bool:
    if folder.network == "UNet2DModel":
        return any(config.get(name) is not None for name in ("class_embed_type", "num_class_embeds"))
    return bool(config.get("num_embeds_ada_norm", 1000) != 1)


def _refuse_other_classes(folder: PipelineFolder, config: Mapping[str, Any], num_classes: int) -> None:
    """Raise ValueError where the network's classes are not those of the data; a U-Net may have one more, "no class"."""
    if config.get("class_embed_type") == "identity":
        raise ValueError(f"{folder.root}: class_embed_type is identity: the network takes a vector for each image, not a class")
    if folder.network == "UNet2DModel":
        number = config["num_class_embeds"] if config.get("class_embed_type") is None else None
        fits = number is None or number in (num_classes, num_classes + 1)
    else:
        number = config.get("num_embeds_ada_norm", 1000)
        fits = number == num_classes
    if not fits:
        raise ValueError(
            f"{folder.root}: the network draws {number} classes; the data have {num_classes}. Take the data that it was "
            "trained on: class i of the network is class i of the data"
        )


def _refuse_misfit(folder: PipelineFolder, config: Mapping[str, Any], spec: InputSpec) -> None:
    if folder.decodes and not spec.are_latents:
        raise ValueError(
            f"{folder.root}: the pipeline draws latents, which its autoencoder decodes, and the data are pixels. Encode them "
            "with a data.encode node (pipeline: this folder), connect it (inputs: {data: NODE}) and set data: {name: packed}"
        )
    size = config.get("sample_size")
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    channels = (config.get("in_channels"), config.get("out_channels") or config.get("in_channels"))
    fitting = (spec.channels, 2 * spec.channels)  # the second half, where there is one, is the learned variance
    if channels[0] != spec.channels or channels[1] not in fitting or sides != (spec.height, spec.width):
        raise ValueError(
            f"{folder.root}: the network takes {channels[0]} channels of {sides[0]}x{sides[1]} and gives {channels[1]}; the "
            f"data have {spec.channels} of {spec.height}x{spec.width}. Take data of this shape"
        )
