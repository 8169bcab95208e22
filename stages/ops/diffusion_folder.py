"""Folders that diffusers' `save_pretrained` writes: which files tell a pipeline's denoiser, and which its autoencoder.

Imports no tensor library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INDEX, CONFIG = "model_index.json", "config.json"
SCHEDULER = "scheduler/scheduler_config.json"
COMPONENTS = ("unet", "transformer")
NETWORKS = {
    "UNet2DModel": "UNet2DModel",
    "DiTTransformer2DModel": "DiTTransformer2DModel",
    "Transformer2DModel": "DiTTransformer2DModel",
}
"""Class of a network as a pipeline names it -> class that is loaded; older releases called a DiT a Transformer2DModel."""
SUPPORTED = "pipelines with a UNet2DModel or a DiTTransformer2DModel, with classes or without, are supported"
AUTOENCODER_COMPONENTS = ("vae", "vqvae", "movq")
AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny", "VQModel")
TEXT = {"tokenizer", "text_encoder"}
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


@dataclass(frozen=True, kw_only=True)
class NetworkFolder:
    """The files of a network, relative to `root`; `component` is its folder in there, `network` its class in diffusers."""

    root: Path
    component: str
    network: str
    weights: str

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.root / self.component

    @property
    def config_file(self) -> str:
        """Its settings, relative to `root`."""
        return (Path(self.component) / CONFIG).as_posix()

    @property
    def files(self) -> tuple[str, ...]:
        """All that the network follows from, relative to `root`."""
        return (self.config_file, (Path(self.component) / self.weights).as_posix())

    def json(self, name: str) -> dict[str, Any]:
        """The content of one of the files, without what diffusers notes down for itself (names that begin with _)."""
        return {key: value for key, value in _read(self.root / name).items() if not key.startswith("_")}


@dataclass(frozen=True, kw_only=True)
class PipelineFolder(NetworkFolder):
    """A pipeline's denoiser and its schedule. `decodes`: the pipeline has an autoencoder, so its denoiser draws latents."""

    decodes: bool

    @property
    def files(self) -> tuple[str, ...]:
        """All that the denoiser follows from, relative to `root`."""
        return (INDEX, *super().files, SCHEDULER)


def find_pipeline(root: Path) -> PipelineFolder:
    """Look into a folder of a pipeline.

    Raises:
        ValueError: it is none, a file is missing or damaged, or its network is none that can be loaded here.
    """
    if not (root / INDEX).is_file():
        raise ValueError(
            f"{root} is no pipeline of diffusers: it has no {INDEX}; write one with pipeline.save_pretrained(FOLDER)"
        )
    index = _read(root / INDEX)
    component = next((name for name in COMPONENTS if name in index), None)
    network = _class_of(index, component)
    if component is None or network not in NETWORKS:
        found = f"its {component} is a {network}" if component else f"it has none of {', '.join(COMPONENTS)}"
        prompts = "; it draws what a text says, and prompts are not supported" if TEXT & index.keys() else ""
        raise ValueError(f"{root} ({index.get('_class_name', 'a pipeline')}): {found}{prompts}; {SUPPORTED}")
    weights = _find_weights(root, component, others=(SCHEDULER,))
    if network == "Transformer2DModel" and _read(root / component / CONFIG).get("norm_type") != "ada_norm_zero":
        raise ValueError(f"{root}: its {component} is a Transformer2DModel that is no DiT; {SUPPORTED}")
    decodes = any(_class_of(index, name) is not None for name in AUTOENCODER_COMPONENTS)
    return PipelineFolder(root=root, component=component, network=NETWORKS[network], weights=weights, decodes=decodes)


def find_autoencoder(root: Path) -> NetworkFolder:
    """Look into a folder of a pipeline, or of an autoencoder alone.

    Raises:
        ValueError: it is none, a file is missing or damaged, or its autoencoder is none that can be loaded here.
    """
    if (root / INDEX).is_file():
        index = _read(root / INDEX)
        component = next((name for name in AUTOENCODER_COMPONENTS if _class_of(index, name)), None)
        if component is None:
            raise ValueError(
                f"{root} ({index.get('_class_name', 'a pipeline')}) has no autoencoder: none of "
                f"{', '.join(AUTOENCODER_COMPONENTS)}; it draws pixels, and needs no latents"
            )
        network = _class_of(index, component)
    elif (root / CONFIG).is_file():
        component, network = "", _read(root / CONFIG).get("_class_name")
    else:
        raise ValueError(
            f"{root} is no pipeline of diffusers and no autoencoder: it has neither {INDEX} nor {CONFIG}; write one with "
            "save_pretrained(FOLDER)"
        )
    if network not in AUTOENCODERS:
        raise ValueError(f"{root}: its autoencoder is of class {network}; supported: {', '.join(AUTOENCODERS)}")
    return NetworkFolder(root=root, component=component, network=network, weights=_find_weights(root, component))


def _class_of(index: Mapping[str, Any], component: str | None) -> str | None:
    """Class of a part of a pipeline; None where it has none."""
    entry = index.get(component) if component is not None else None
    return entry[1] if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str) else None


def _find_weights(root: Path, component: str, *, others: tuple[str, ...] = ()) -> str:
    """The file of a network's weights; raises ValueError naming what is missing of it or of the `others`."""
    folder = Path(component)
    weights = next((name for name in WEIGHTS if (root / folder / name).is_file()), None)
    missing = [name for name in ((folder / CONFIG).as_posix(), *others) if not (root / name).is_file()]
    if weights is None or missing:
        wanted = missing or [(folder / name).as_posix() for name in WEIGHTS]
        raise ValueError(f"{root}: there is no {' or '.join(wanted)}; write the whole folder with save_pretrained")
    return weights


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no mapping")  # noqa: TRY004 - the file is wrong, not a type
    return content
