"""Settings and descriptions of the `evaluate` stages. Torch-free, so that plans stay fast."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stages.contract import Port, StageSettings, StageSpec
from stages.data.settings import DATA_PORT, DataSettings
from stages.evaluate.diffusion_settings import STAGES as DIFFUSION_STAGES
from stages.evaluate.restoration_settings import STAGES as RESTORATION_STAGES
from stages.training.settings import SHAPE_METRICS


class ClassifierSettings(StageSettings):
    """Measure a classifier on the test images, and its speed on this machine."""

    data: DataSettings
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        (1, 64), min_length=1, description="images at a time whose latency is measured"
    )
    latency_seconds: float = Field(
        1.5, ge=0, le=600, description="seconds of the clock for all latencies together; 0: no latency is measured"
    )

    def data_identity(self) -> str | None:
        return self.data.identity()


class CompareSettings(StageSettings):
    """Lay evaluations side by side."""

    title: str = Field("Comparison", min_length=1, max_length=200, description="heading of the table")


CLASSIFIER_METRICS = (
    "top1_accuracy",
    "top1_accuracy_low",
    "top1_accuracy_high",
    "num_samples",
    *SHAPE_METRICS,
)
"""What `evaluate.classifier` always reports. With a baseline: `baseline_top1_accuracy`, `top1_drop` with its interval,
`size_ratio`, `gmacs_ratio`. With an exported file, accuracies, drop and sizes are those of files; `model_top1_accuracy` and
`exported_agreement` say how the model itself does. Parameters, gmacs and bops are always those of the model; so is
`gmacs_matching`, there for models that match tokens. With a packed file, `size_bytes` is the file's, and the rest that of the
model that comes out of it. Without either, `size_bytes` is that of the plain model's tensors in a safetensors file, all
transforms folded in: running statistics are in it, masks and frozen weights not.

Measurements beside a baseline: `latency_ratio_b<n>`, `neither_smaller_nor_faster`, and `trade_off` where a gain has a price.
None of them is in the evaluation's file, so `evaluate.compare` shows none."""

STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="evaluate.classifier",
        version=3,
        summary="Accuracy with its interval, bytes and latency, of an exported or packed file where there is one, beside a "
        "baseline; non-zeros and nominal compute of the model",
        settings=ClassifierSettings,
        implementation="stages.evaluate.classifier:run",
        inputs={
            "model": Port(kind="model"),
            "exported": Port(kind="exported", optional=True),
            "packed": Port(kind="packed", optional=True),
            "baseline": Port(kind="model", optional=True),
            **DATA_PORT,
        },
        output="evaluation",
        metrics=CLASSIFIER_METRICS,
        source="Interval: Wilson 1927, J. Am. Stat. Assoc. 22; paired difference: Newcombe 1998, Stat. Med. 17:2635, method 10",
        example={"data": "digits", "batch_sizes": [1, 16], "latency_seconds": 0.2},
        forecast="stages.evaluate.forecast:classifier",
        forecast_metrics=SHAPE_METRICS,
    ),
    StageSpec(
        name="evaluate.compare",
        version=2,
        summary="One table of several evaluations, with the best of each measure and the Pareto front",
        settings=CompareSettings,
        implementation="stages.evaluate.compare:run",
        inputs={"results": Port(kind="evaluation", many=True)},
        output="table",
        metrics=("num_rows", "best_top1_accuracy"),
        source="Pareto front: rows that no other row of the same file format beats or equals in every measure",
        example={"title": "Digits"},
    ),
    *DIFFUSION_STAGES,
    *RESTORATION_STAGES,
)
