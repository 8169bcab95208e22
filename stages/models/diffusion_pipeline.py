"""The denoiser of a diffusers pipeline folder, as an architecture with its weights. Nothing that could run code is read."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from stages.models.bundle import ModelBundle, build_bundle, load_state
from stages.models.denoisers import network_class
from stages.models.diffusion_folder import CONFIG, SCHEDULER, PipelineFolder
from stages.models.weights import read_weights
from stages.models.zoo import DENOISING, Architecture
from stages.ops.input_spec import InputSpec


def load_pipeline(folder: PipelineFolder, *, input_spec: InputSpec) -> ModelBundle:
    """The pipeline's network with its weights, for images like these.

    Raises:
        ValueError: the network draws other images, wants classes or prompts, or the weights are damaged or no tensors alone.
    """
    config = folder.json(f"{folder.component}/{CONFIG}")
    _refuse_misfit(folder, config, input_spec)
    from diffusers import DDPMScheduler

    known = inspect.signature(DDPMScheduler.__init__).parameters
    scheduler = {name: value for name, value in folder.json(SCHEDULER).items() if name in known and value is not None}
    architecture = Architecture(
        builder="diffusers",
        name=folder.network,
        arguments={"network": config, "scheduler": scheduler},
        input_spec=input_spec,
        task=DENOISING,
    )
    bundle = build_bundle(architecture, seed=0)
    path = folder.root / folder.component / folder.weights
    read_weights(path)  # refuses what holds more than tensors
    try:
        # Renames the tensors of pipelines that older releases wrote.
        network: Any = network_class(folder.network)
        loaded = network.from_pretrained(
            str(folder.root / folder.component),
            local_files_only=True,
            low_cpu_mem_usage=False,
            use_safetensors=folder.weights.endswith(".safetensors"),
        )
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"{path} does not fit the {folder.network} of its {CONFIG}: {str(error).splitlines()[0]}") from error
    load_state(bundle.model, {f"network.{name}": value for name, value in loaded.state_dict().items()}, where=str(path))
    return bundle


def _refuse_misfit(folder: PipelineFolder, config: Mapping[str, Any], spec: InputSpec) -> None:
    size = config.get("sample_size")
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    channels = (config.get("in_channels"), config.get("out_channels") or config.get("in_channels"))
    if channels != (spec.channels, spec.channels) or sides != (spec.height, spec.width):
        raise ValueError(
            f"{folder.root}: the network takes {channels[0]} channels of {sides[0]}x{sides[1]} and gives {channels[1]}; the "
            f"data have {spec.channels} of {spec.height}x{spec.width}. Take data of this shape (latents are not supported)"
        )
    is_conditional = (
        any(config.get(name) is not None for name in ("class_embed_type", "num_class_embeds"))
        if folder.network == "UNet2DModel"
        else config.get("num_embeds_ada_norm") != 1
    )
    if is_conditional:
        raise ValueError(f"{folder.root}: the network draws by class; only denoisers without classes are supported")
