"""Folders that diffusers' `save_pretrained` writes of a pipeline: which files tell the denoiser. Imports no tensor library."""

from __future__ import annotations

import json
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
TEXT = {"tokenizer", "text_encoder"}
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


@dataclass(frozen=True, kw_only=True)
class PipelineFolder:
    """The files of a pipeline that are read, relative to `root`; `component` is the folder of its network."""

    root: Path
    component: str
    network: str
    weights: str

    @property
    def files(self) -> tuple[str, ...]:
        """All that the denoiser follows from."""
        return (INDEX, f"{self.component}/{CONFIG}", f"{self.component}/{self.weights}", SCHEDULER)

    def json(self, name: str) -> dict[str, Any]:
        """The content of one of the files, without what diffusers notes down for itself (names that begin with _)."""
        return {key: value for key, value in _read(self.root / name).items() if not key.startswith("_")}


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
    entry = index[component] if component is not None else [None, None]
    network = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if component is None or network not in NETWORKS:
        found = f"its {component} is a {network}" if component else f"it has none of {', '.join(COMPONENTS)}"
        prompts = "; it draws what a text says, and prompts are not supported" if TEXT & index.keys() else ""
        raise ValueError(f"{root} ({index.get('_class_name', 'a pipeline')}): {found}{prompts}; {SUPPORTED}")
    weights = next((name for name in WEIGHTS if (root / component / name).is_file()), None)
    missing = [name for name in (f"{component}/{CONFIG}", SCHEDULER) if not (root / name).is_file()]
    if weights is None or missing:
        wanted = missing or [f"{component}/{name}" for name in WEIGHTS]
        raise ValueError(f"{root}: there is no {' or '.join(wanted)}; write the whole pipeline with save_pretrained")
    if network == "Transformer2DModel" and _read(root / component / CONFIG).get("norm_type") != "ada_norm_zero":
        raise ValueError(f"{root}: its {component} is a Transformer2DModel that is no DiT; {SUPPORTED}")
    return PipelineFolder(root=root, component=component, network=NETWORKS[network], weights=weights)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no mapping")  # noqa: TRY004 - the file is wrong, not a type
    return content
