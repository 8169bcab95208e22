"""Settings and description of the stage that measures denoisers. Torch-free, so that plans stay fast."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from stages.contract import Port, StageSettings, StageSpec
from stages.data.settings import DATA_PORT, DataSettings, autoencoder_identity
from stages.data.source import LOCATION, absolute_path
from stages.training.settings import SHAPE_METRICS


class DiffusionSettings(StageSettings):
    """Draw images with a denoiser and measure how near they are to real ones, and how long it takes."""

    data: DataSettings
    num_samples: int = Field(1024, ge=2, le=1_000_000, description="images drawn for the distance, with the node's seed")
    sampler: Literal["ddim", "ddpm"] = Field(
        "ddim", description="ddim: deterministic, good with few steps (arXiv 2010.02502); ddpm: new noise at each step"
    )
    num_steps: int = Field(25, ge=1, le=100_000, description="evaluations of the model for each image")
    guidance_scale: float = Field(
        1.0,
        ge=1,
        le=100,
        description="of a model that draws by class: how far its prediction is pushed away from that without a class "
        "(arXiv 2207.12598); 1: not at all, above it the model runs twice a step",
    )
    batch_size: int = Field(128, ge=1, le=4096, description="images at a time")
    grid_side: int = Field(8, ge=1, le=64, description="rows and columns of images in samples.png, class by class")

    autoencoder: Annotated[str, AfterValidator(absolute_path)] | None = Field(
        None,
        description="of a model that draws latents: folder of the pipeline whose autoencoder decodes them; `data` are "
        "the images. Its content is in the key, not its place",
        json_schema_extra=LOCATION,
    )

    def data_identity(self) -> str | None:
        images = self.data.identity()
        return images if self.autoencoder is None else f"{images};{autoencoder_identity(self.autoencoder)}"


TINY_DIGITS: dict[str, Any] = {"name": "digits", "scaling": "symmetric"}

DIFFUSION_METRICS = (
    "frechet_distance",
    "frechet_distance_real",
    "noise_mse",
    "num_samples",
    "num_steps",
    "class_accuracy",
    *SHAPE_METRICS,
)
"""`frechet_distance` is that of the drawn images to the training images; `frechet_distance_real` that of the test images, which
no model has to beat. Both from the classifier's features. `class_accuracy`, there for models that draw by class, is the share
of the drawn images that the classifier puts into the class asked for. Measurement: `seconds_per_image`, in batches of
`batch_size`; of latents without decoding them, which is `decoding_seconds_per_image`."""

STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="evaluate.diffusion",
        version=2,
        summary="Draws images with a denoiser: Fréchet distance in a classifier's features, a grid of samples, bytes, seconds; "
        "by class: how many are of the class asked for",
        settings=DiffusionSettings,
        implementation="stages.evaluate.diffusion:run",
        inputs={
            "model": Port(kind="model"),
            "classifier": Port(kind="model"),
            "exported": Port(kind="exported", optional=True),
            "packed": Port(kind="packed", optional=True),
            **DATA_PORT,
        },
        output="evaluation",
        metrics=DIFFUSION_METRICS,
        source="Heusel et al. 2017, arXiv 1706.08500 (distance, here in the features of a classifier of these data); samplers: "
        "arXiv 2010.02502 (DDIM), arXiv 2006.11239 (DDPM); guidance: arXiv 2207.12598",
        example={"data": TINY_DIGITS, "num_samples": 16, "num_steps": 2, "grid_side": 2},
        example_inputs={"classifier": {"data": TINY_DIGITS}, "model": {"class_conditional": True}},
        example_stages={"model": "pretrain.diffusion"},
        forecast="stages.evaluate.forecast:diffusion",
        forecast_metrics=SHAPE_METRICS,
    ),
)
