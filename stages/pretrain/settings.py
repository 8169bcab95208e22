"""Settings and descriptions of the stages that train a model from its initial weights. Imports no tensor library."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, JsonValue

from stages.contract import StageSpec
from stages.data.settings import DATA_PORT
from stages.training.settings import MODEL_METRICS, SHAPE_METRICS, TrainingSettings


class ClassifierSettings(TrainingSettings):
    """Train a classifier. The defaults bring `vit_micro` to about 0.98 on digits in about 20 s on one core."""

    model: str = Field(description="vit_micro, cnn_micro, resnet20, or a classification model of timm by name")
    model_args: Mapping[str, JsonValue] = Field(
        default_factory=dict,
        description="the model's own arguments, such as {depth: 6}; timm models also take pretrained: true",
    )


STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="pretrain.classifier",
        version=1,
        summary="Train an image classifier from its initial weights",
        settings=ClassifierSettings,
        implementation="stages.pretrain.classifier:pretrain_classifier",
        output="model",
        inputs=DATA_PORT,
        metrics=MODEL_METRICS,
        source="OneCycle: Smith and Topin 2017, arXiv 1708.07120; AdamW: Loshchilov and Hutter 2017, arXiv 1711.05101",
        example={"model": "cnn_micro", "data": "digits", "epochs": 1},
        forecast="stages.pretrain.forecast:classifier",
        forecast_metrics=SHAPE_METRICS,
    ),
)
