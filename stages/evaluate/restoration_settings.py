"""Settings and description of the stage that measures restorers. Torch-free, so that plans stay fast."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from stages.contract import Port, StageSettings, StageSpec
from stages.data.settings import DATA_PORT, DataSettings
from stages.training.settings import SHAPE_METRICS


class RestorationSettings(StageSettings):
    """Restore the test images and measure how near they are to what they were."""

    data: DataSettings
    batch_size: int = Field(64, ge=1, le=4096, description="images at a time")
    num_shown: int = Field(
        8, ge=1, le=256, description="images in samples.png, evenly spread: as they came, restored, as they were"
    )

    def data_identity(self) -> str | None:
        return self.data.identity()


TINY_DIGITS: dict[str, Any] = {"name": "digits", "scaling": "symmetric", "size": 16}

STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="evaluate.restoration",
        version=2,
        summary="PSNR and SSIM of restored images beside those of images left as they came, bytes, seconds per image",
        settings=RestorationSettings,
        implementation="stages.evaluate.restoration:run",
        inputs={
            "model": Port(kind="model"),
            "exported": Port(kind="exported", optional=True),
            "packed": Port(kind="packed", optional=True),
            **DATA_PORT,
        },
        output="evaluation",
        metrics=(
            *(f"{name}{suffix}" for suffix in ("", "_input") for name in ("psnr_db", "psnr_db_per_image", "ssim")),
            *("num_samples", *SHAPE_METRICS),
        ),
        source="SSIM: Wang, Bovik, Sheikh, Simoncelli 2004, IEEE Transactions on Image Processing 13(4)",
        example={"data": TINY_DIGITS, "num_shown": 2},
        example_stages={"model": "pretrain.restoration"},
        forecast="stages.evaluate.forecast:restoration",
        forecast_metrics=SHAPE_METRICS,
    ),
)
