"""What is known of a model before it is made. Only the shape of the data's images and its classes are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from stages.contract import Forecast
from stages.data.base import load_dataset
from stages.models.skeleton import build_input, forecast_architecture
from stages.pretrain.architectures import architecture_of
from stages.pretrain.settings import KNOWN_METRICS, LoadSettings, TransferSettings
from stages.training.settings import TrainingSettings


def untrained(settings: TrainingSettings | LoadSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """Counts of the network that the settings name; of a denoiser at one timestep.

    Nothing where another node makes the data, which tell the images' shape and the classes.
    """
    if "data" in inputs:
        return Forecast()
    return forecast_architecture(architecture_of(settings, load_dataset(settings.data)))


def loaded(settings: LoadSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """As for a network to be trained; but initial biases and scales are zeros, so how many there will be is not said."""
    return _without_zeros(untrained(settings, inputs))


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
