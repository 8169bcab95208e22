"""What is known of an evaluation beforehand: counts of the model, and bytes where they are known."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from stages.contract import Forecast
from stages.evaluate.diffusion_settings import DiffusionSettings
from stages.evaluate.restoration_settings import RestorationSettings
from stages.evaluate.settings import ClassifierSettings
from stages.models.bundle import fold_bundle, weights_size
from stages.models.skeleton import Skeleton, measure_skeleton


def classifier(settings: ClassifierSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """Counts of the model; bytes of the exported or packed file where one is connected, else of the plain model's tensors."""
    del settings
    return _counted(inputs)


def _counted(inputs: Mapping[str, Forecast]) -> Forecast:
    metrics = {name: value for name, value in measure_skeleton(inputs["model"].model).items() if name != "size_bytes"}
    file = inputs.get("exported", inputs.get("packed"))
    if file is None:
        metrics["size_bytes"] = _plain_size(inputs["model"].model)
    elif "size_bytes" in file.metrics:
        metrics["size_bytes"] = file.metrics["size_bytes"]
    return Forecast(metrics=metrics)


def diffusion(settings: DiffusionSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """Counts of the denoiser at one timestep, and bytes as above."""
    del settings
    return _counted(inputs)


def restoration(settings: RestorationSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """Counts of the restorer, and bytes as above."""
    del settings
    return _counted(inputs)


@lru_cache(maxsize=4096)
def _plain_size(skeleton: Skeleton) -> int:
    return weights_size(fold_bundle(skeleton.build()))
