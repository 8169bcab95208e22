"""Settings and descriptions of the stages that a workflow begins with: a model from initial weights, or from trained ones.

Imports no tensor library.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from stages.contract import Port, StageSettings, StageSpec
from stages.data.file_digests import file_digests
from stages.data.settings import DATA_PORT, DataSettings
from stages.data.source import LOCATION
from stages.pretrain.diffusion_settings import STAGES as DIFFUSION_STAGES
from stages.pretrain.restoration_settings import STAGES as RESTORATION_STAGES
from stages.training.settings import MODEL_METRICS, SHAPE_METRICS, CompiledTrainingSettings


class ClassifierSettings(CompiledTrainingSettings):
    """Train a classifier. The defaults bring `vit_micro` to about 0.98 on digits in about 20 s on one core."""

    model: str = Field(description="vit_micro, cnn_micro, resnet20, or a classification model of timm by name")
    model_args: Mapping[str, JsonValue] = Field(
        default_factory=dict,
        description="the model's own arguments, such as {depth: 6}",
    )


KNOWN_METRICS = tuple(name for name in SHAPE_METRICS if name not in ("num_nonzero_parameters", "sparsity"))
"""What is known of a model that is not trained: its weights may hold zeros."""

Head = Annotated[
    Literal["keep", "new"],
    Field(
        description="keep: the weights' own classifier, whose classes must be as many as those of the data, in their order; "
        "new: one with initial weights that follow from the seed, to be trained"
    ),
]


def _file(path: str) -> str:
    if "://" in path:
        raise ValueError(f"{path} is no file of this machine; fetch it first, or start from an artifact (artifact:NAME)")
    return str(Path(path).expanduser().absolute())


class LoadSettings(StageSettings):
    """Take a model as it is, and measure it; nothing is trained."""

    data: DataSettings
    model: str = Field(
        description="a model of timm, with the tag of its weights as vit_small_patch16_224.augreg_in1k; hf-hub:OWNER/NAME; or, "
        "with other weights than pretrained ones, any model that pretrain.classifier knows"
    )
    model_args: Mapping[str, JsonValue] = Field(default_factory=dict, description="the model's own arguments")
    weights: Literal["pretrained", "file", "random"] = Field(
        "pretrained",
        description="pretrained: those of timm or of the hub by the model's name; file: those of `weights_file`; random: "
        "initial ones that follow from the seed, for methods that train from scratch",
    )
    weights_file: Annotated[str, AfterValidator(_file)] | None = Field(
        None,
        description=".safetensors, or .pth, .pt or .bin of tensors alone. Its content is in the key, not its place",
        json_schema_extra=LOCATION,
    )
    head: Head = "keep"

    @model_validator(mode="after")
    def _file_belongs_to_weights(self) -> Self:
        if (self.weights == "file") != (self.weights_file is not None):
            raise ValueError("weights: file and weights_file: PATH belong together; set both or neither")
        return self

    def data_identity(self) -> str | None:
        if self.weights_file is None:
            return self.data.identity()
        path = Path(self.weights_file)
        size_bytes, digest = file_digests(path.parent, [path.name])[path.name]
        return f"{self.data.identity()};weights:{size_bytes}:{digest}"


class TransferSettings(StageSettings):
    """Take a trained model to other images or other classes; nothing is trained."""

    data: DataSettings
    head: Head = "keep"


STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="pretrain.classifier",
        version=1,
        summary="Train an image classifier from its initial weights",
        settings=ClassifierSettings,
        implementation="stages.pretrain.training:run",
        output="model",
        inputs=DATA_PORT,
        metrics=MODEL_METRICS,
        source="OneCycle: Smith and Topin 2017, arXiv 1708.07120; AdamW: Loshchilov and Hutter 2017, arXiv 1711.05101",
        example={"model": "cnn_micro", "data": "digits", "epochs": 1},
        forecast="stages.pretrain.forecast:untrained",
        forecast_metrics=SHAPE_METRICS,
        data_parallel=True,
    ),
    StageSpec(
        name="pretrain.load",
        version=1,
        summary="Take a model with weights of timm or a hub by name, of a file, or initial ones, and measure it",
        settings=LoadSettings,
        implementation="stages.pretrain.load:load",
        output="model",
        inputs=DATA_PORT,
        metrics=MODEL_METRICS,
        source="none: carries no method; position embeddings are resized and input channels joined by timm",
        example={"model": "cnn_micro", "weights": "random", "data": "digits"},
        forecast="stages.pretrain.forecast:loaded",
        forecast_metrics=KNOWN_METRICS,
    ),
    StageSpec(
        name="pretrain.transfer",
        version=1,
        summary="Take a trained model to images of another size or to other classes, with a new classifier",
        settings=TransferSettings,
        implementation="stages.pretrain.load:transfer",
        output="model",
        inputs={"model": Port(kind="model"), **DATA_PORT},
        metrics=MODEL_METRICS,
        source="none: carries no method; position embeddings are resized by timm",
        example={"data": "digits", "head": "new"},
        forecast="stages.pretrain.forecast:transferred",
        forecast_metrics=KNOWN_METRICS,
    ),
    *DIFFUSION_STAGES,
    *RESTORATION_STAGES,
)
