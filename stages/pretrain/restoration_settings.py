"""Settings and description of the stage that makes restorers. Imports no tensor library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, JsonValue

from stages.contract import StageSpec
from stages.data.settings import DATA_PORT
from stages.training.settings import RESTORER_METRICS, SHAPE_METRICS, ImageTrainingSettings

TINY_RESTORER: Mapping[str, Any] = {
    "model": "vdsr_micro",
    "model_args": {"width": 8, "depth": 3},
    "data": {"name": "digits", "scaling": "symmetric", "size": 16},
    "epochs": 1,
}
"""Settings with which a restorer trains in a second: the example of this stage and the input of others' examples."""


class RestorationSettings(ImageTrainingSettings):
    """Train a network for super-resolution: it is shown images that were shrunk and enlarged, and tells what they lack."""

    model: str = Field(description="vdsr_micro (six layers of width 32), or vdsr (the paper's twenty of width 64)")
    model_args: Mapping[str, JsonValue] = Field(default_factory=dict, description="width and depth of the network")
    scale: int = Field(2, ge=2, le=8, description="by which images are shrunk; must divide their height and width")
    epochs: int = Field(60, ge=1, le=100_000, description="passes over the training images")
    learning_rate: float = Field(2e-3, gt=0, le=100, description="largest learning rate of the schedule")


STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="pretrain.restoration",
        version=2,
        summary="Train a network for super-resolution from its initial weights",
        settings=RestorationSettings,
        implementation="stages.pretrain.training:run",
        output="model",
        inputs=DATA_PORT,
        metrics=RESTORER_METRICS,
        source="Kim, Lee, Lee 2015, arXiv 1511.04587 (VDSR); absolute differences: Zhao et al. 2015, arXiv 1511.08861",
        example=TINY_RESTORER,
        forecast="stages.pretrain.forecast:untrained",
        forecast_metrics=SHAPE_METRICS,
        data_parallel=True,
    ),
)
