"""What is known of a model that is trained further: all that training does not change."""

from __future__ import annotations

from collections.abc import Mapping

from stages.contract import Forecast
from stages.finetune.settings import FinetuneSettings
from stages.models.skeleton import measure_skeleton


def trained_further(settings: FinetuneSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """Counts of the input model, with its transforms."""
    del settings
    skeleton = inputs["model"].model
    return Forecast(metrics=measure_skeleton(skeleton), model=skeleton)
