"""What is known of a model that is trained further: all that training does not change."""

from __future__ import annotations

from collections.abc import Mapping

from stages.contract import Forecast
from stages.models.skeleton import measure_skeleton
from stages.training.settings import TrainingSettings


def trained_further(settings: TrainingSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """Counts of the input model, with its transforms."""
    del settings
    skeleton = inputs["model"].model
    return Forecast(metrics=measure_skeleton(skeleton), model=skeleton)
