"""What is known of a model before it is made. Only the shape of the data's images and its classes are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from stages.contract import Forecast
from stages.data.base import load_dataset
from stages.models.denoisers import find_denoiser
from stages.models.restorers import find_restorer
from stages.models.skeleton import build_input, forecast_architecture
from stages.models.zoo import find_architecture
from stages.pretrain.diffusion_settings import DiffusionSettings
from stages.pretrain.restoration_settings import RestorationSettings
from stages.pretrain.settings import KNOWN_METRICS, ClassifierSettings, LoadSettings, TransferSettings


def classifier(settings: ClassifierSettings | LoadSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """Counts of the network that the settings name; nothing where another node makes the data, which tell the classes."""
    if "data" in inputs:
        return Forecast()
    data = load_dataset(settings.data)
    architecture = find_architecture(
        settings.model, settings.model_args, input_spec=data.input_spec, class_names=data.class_names
    )
    return forecast_architecture(architecture)


def loaded(settings: LoadSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """As for a network to be trained; but initial biases and scales are zeros, so how many there will be is not said."""
    return _without_zeros(classifier(settings, inputs))


def transferred(settings: TransferSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """Counts of the input's network for the images and classes of these data."""
    if "data" in inputs:
        return Forecast()
    data = load_dataset(settings.data)
    architecture = build_input(inputs).architecture
    return _without_zeros(
        forecast_architecture(architecture.model_copy(update={"input_spec": data.input_spec, "class_names": data.class_names}))
    )


def _without_zeros(found: Forecast) -> Forecast:
    return replace(found, metrics={name: value for name, value in found.metrics.items() if name in KNOWN_METRICS})


def diffusion(settings: DiffusionSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """Counts of the denoiser that the settings name, at one timestep; nothing where another node makes the data."""
    if "data" in inputs:
        return Forecast()
    architecture = find_denoiser(
        settings.model,
        settings.model_args,
        input_spec=load_dataset(settings.data).input_spec,
        num_timesteps=settings.num_timesteps,
        schedule=settings.noise_schedule,
    )
    return forecast_architecture(architecture)


def restoration(settings: RestorationSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """Counts of the restorer that the settings name; nothing where another node makes the data."""
    if "data" in inputs:
        return Forecast()
    spec = load_dataset(settings.data).input_spec
    return forecast_architecture(find_restorer(settings.model, settings.model_args, input_spec=spec, scale=settings.scale))
