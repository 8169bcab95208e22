"""What is known of a classifier before it is trained. Only the shape of the data's images and its classes are looked at."""

from __future__ import annotations

from collections.abc import Mapping

from stages.contract import Forecast
from stages.data.base import load_dataset
from stages.models.skeleton import forecast_architecture
from stages.models.zoo import find_architecture
from stages.pretrain.settings import ClassifierSettings


def classifier(settings: ClassifierSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """Counts of the network that the settings name; nothing where another node makes the data, which tell the classes."""
    if "data" in inputs:
        return Forecast()
    data = load_dataset(settings.data)
    architecture = find_architecture(
        settings.model, settings.model_args, input_spec=data.input_spec, class_names=data.class_names
    )
    return forecast_architecture(architecture)
