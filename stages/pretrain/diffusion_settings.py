"""Settings and descriptions of the stages that make denoisers. Imports no tensor library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from stages.contract import StageSettings, StageSpec
from stages.data.file_digests import combined_digest, file_digests
from stages.data.settings import DATA_PORT, DataSettings
from stages.data.source import LOCATION, absolute_path
from stages.ops.diffusion_folder import find_pipeline
from stages.training.settings import DENOISER_METRICS, SHAPE_METRICS, DenoiserTrainingSettings

TINY_DENOISER: Mapping[str, Any] = {
    "model": "unet_micro",
    "model_args": {
        "block_out_channels": [8, 8],
        "norm_num_groups": 4,
        "attention_head_dim": 4,
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
    },
    "data": {"name": "digits", "scaling": "symmetric"},
    "epochs": 1,
    "evaluate_every_epochs": 1,
}
"""Settings with which a denoiser trains in a second: the example of this stage and the input of others' examples."""


CLASS_CONDITIONAL = "draw by class: the model is told each image's label, and has as many classes as the data"
LABEL_DROPOUT_ALONE = "label_dropout is for models that draw by class; set class_conditional: true, or leave it out"


class DiffusionSettings(DenoiserTrainingSettings):
    """Train a denoiser. With the defaults `unet_micro` draws digits of 16x16 pixels."""

    model: str = Field(description="unet_micro, dit_micro, or UNet2DModel or DiTTransformer2DModel with all their arguments")
    model_args: Mapping[str, JsonValue] = Field(
        default_factory=dict, description="arguments of the network in diffusers, such as {block_out_channels: [64, 128]}"
    )
    num_timesteps: int = Field(1000, ge=2, le=100_000, description="timesteps of the noise schedule")
    noise_schedule: Literal["linear", "cosine"] = Field(
        "cosine", description="how noise grows over the timesteps: linear (arXiv 2006.11239) or cosine (arXiv 2102.09672)"
    )
    class_conditional: bool = Field(False, description=CLASS_CONDITIONAL)
    label_dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description='with class_conditional: share of the labels that training replaces by "no class", also in stages after '
        "this one, so that drawing can be guided (arXiv 2207.12598)",
    )
    epochs: int = Field(150, ge=1, le=100_000, description="passes over the training images")
    learning_rate: float = Field(2e-3, gt=0, le=100, description="largest learning rate of the schedule")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the learning rate rises")

    @model_validator(mode="after")
    def _dropout_of_labels_acts(self) -> Self:
        if self.label_dropout != type(self).model_fields["label_dropout"].default and not self.class_conditional:
            raise ValueError(LABEL_DROPOUT_ALONE)
        return self


class LoadDiffusionSettings(StageSettings):
    """Take a denoiser as it is, and measure it; nothing is trained."""

    data: DataSettings
    pipeline: Annotated[str, AfterValidator(absolute_path)] | None = Field(
        None,
        description="folder that diffusers' save_pretrained wrote of a pipeline with a UNet2DModel or DiTTransformer2DModel, "
        "with or without classes. Its content is in the key, not its place",
        json_schema_extra=LOCATION,
    )
    model: str | None = Field(None, description="in place of a pipeline: a model of pretrain.diffusion, with initial weights")
    model_args: Mapping[str, JsonValue] = Field(default_factory=dict, description="with `model`: arguments of its network")
    num_timesteps: int = Field(1000, ge=2, le=100_000, description="with `model`: timesteps of its noise schedule")
    noise_schedule: Literal["linear", "cosine"] = Field("cosine", description="with `model`: how noise grows with timesteps")
    class_conditional: bool = Field(False, description=f"with `model`: {CLASS_CONDITIONAL}")
    label_dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description='of a model that draws by class: share of the labels that later training replaces by "no class"',
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.pipeline is None) == (self.model is None):
            raise ValueError("set one of pipeline (a folder of diffusers) and model (initial weights)")
        if self.pipeline is not None and self.model_fields_set & {
            "model_args",
            "num_timesteps",
            "noise_schedule",
            "class_conditional",
        }:
            raise ValueError("a pipeline brings its own network and noise schedule; leave these settings out")
        is_default = self.label_dropout == type(self).model_fields["label_dropout"].default
        if self.model is not None and not (self.class_conditional or is_default):
            raise ValueError(LABEL_DROPOUT_ALONE)
        return self

    def data_identity(self) -> str | None:
        if self.pipeline is None:
            return self.data.identity()
        root = Path(self.pipeline)
        found = file_digests(root, find_pipeline(root).files)
        return f"{self.data.identity()};pipeline:{combined_digest(found)}"


STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="pretrain.diffusion",
        version=1,
        summary="Train a denoiser (U-Net or DiT of diffusers) to tell the noise in images, from its initial weights",
        settings=DiffusionSettings,
        implementation="stages.pretrain.training:run",
        output="model",
        inputs=DATA_PORT,
        metrics=DENOISER_METRICS,
        source="Ho, Jain, Abbeel 2020, arXiv 2006.11239; cosine schedule: Nichol and Dhariwal 2021, arXiv 2102.09672; DiT: "
        "Peebles and Xie 2022, arXiv 2212.09748; networks and schedules of diffusers",
        example=TINY_DENOISER,
        forecast="stages.pretrain.forecast:untrained",
        forecast_metrics=SHAPE_METRICS,
        data_parallel=True,
    ),
    StageSpec(
        name="pretrain.load_diffusion",
        version=1,
        summary="Take the denoiser of a diffusers pipeline folder, or one with initial weights, and measure it",
        settings=LoadDiffusionSettings,
        implementation="stages.pretrain.diffusion_load:load_diffusion",
        output="model",
        inputs=DATA_PORT,
        metrics=DENOISER_METRICS,
        source="none: carries no method; folders as diffusers' save_pretrained writes them",
        example={name: TINY_DENOISER[name] for name in ("model", "model_args", "data")},
    ),
)
