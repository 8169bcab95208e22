"""Settings and descriptions of the `sparsify` stages. Torch-free, so that plans stay fast."""

from __future__ import annotations

from math import ceil
from typing import Literal, Self

from pydantic import Field, model_validator

from stages.contract import Port, StageSettings, StageSpec
from stages.data.settings import DATA_PORT, DataSettings
from stages.ops.pattern import PatternText, parse_pattern
from stages.training.settings import MODEL_METRICS, OPERATIONAL, SHAPE_METRICS, TrainingSettings

MAX_SCORE_MEMORY = 10.0
"""Scores per weight (C / M) above which `sparsify.lbc` wants a yes: 2:4 has 1.5, 4:8 has 8.75, 4:16 has 113.75."""


class NMSettings(StageSettings):
    """Which weights become N:M sparse: the same words for every method of this kind."""

    data: DataSettings
    n_m: PatternText = Field("2:4", description='pattern "N:M": N of every M weights along the reduction axis stay')
    dense_layers: tuple[str, ...] = Field(
        (), description='layers left dense besides the first and the classifier: names or patterns such as "blocks.0.*"'
    )
    on_indivisible: Literal["refuse", "dense"] = Field(
        "refuse", description="a layer whose number of inputs M does not divide: stop with its name, or leave it dense"
    )


class LBCSettings(NMSettings, TrainingSettings):
    """LBC: train weights and combination scores together and remove the lowest combinations along a schedule."""

    epochs: int = Field(30, ge=1, le=100_000, description="passes over the training images, removal and what follows it")
    removal_start: float = Field(
        0.0, ge=0, lt=1, description="share of the epochs before the removal curve starts (t_i / epochs)"
    )
    removal_end: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="share of the epochs after which every block is exactly N:M (t_f / epochs); the authors: ResNet 0.5 in "
        "their instructions, 0.67 as their code's default, DeiT 0.67",
    )
    removal_power: float = Field(
        3.0,
        gt=0,
        le=16,
        description="exponent p of the removal curve; larger removes more at the start; the authors: ResNet 3, DeiT 4",
    )
    score_learning_rate_multiplier: float = Field(
        1.0, gt=0, le=1000, description="times the learning rate of the weights; the authors: 1"
    )
    score_weight_decay: float = Field(
        1e-4,
        ge=0,
        le=10,
        description="weight decay of the scores, per unit of learning rate; the authors: the weights', ResNet 1e-4, DeiT 0.05",
    )
    allow_large_score_memory: bool = Field(
        False,
        description="allow patterns with more than 10 scores per weight, such as 4:16 with 113.75",
        json_schema_extra=OPERATIONAL,
    )

    @property
    def first_removal_epoch(self) -> float:
        """t_i, in epochs."""
        return round(self.removal_start * self.epochs, 9)

    @property
    def last_removal_epoch(self) -> float:
        """t_f, in epochs."""
        return round(self.removal_end * self.epochs, 9)

    @model_validator(mode="after")
    def _schedule_fits_the_training(self) -> Self:
        if self.removal_start >= self.removal_end:
            raise ValueError(f"removal_start is {self.removal_start} and removal_end {self.removal_end}; expected start < end")
        if ceil(self.last_removal_epoch) > self.epochs - 1:
            raise ValueError(
                f"removal_end {self.removal_end} ends at epoch {self.last_removal_epoch:g}, but the last of {self.epochs} "
                f"epochs is number {self.epochs - 1}: none of exact {self.n_m} is left; lower removal_end or raise epochs"
            )
        return self

    @model_validator(mode="after")
    def _scores_fit_in_memory(self) -> Self:
        pattern = parse_pattern(self.n_m)
        scores_per_weight = pattern.num_combinations / pattern.m
        if scores_per_weight > MAX_SCORE_MEMORY and not self.allow_large_score_memory:
            raise ValueError(
                f"{self.n_m} has {pattern.num_combinations} combinations, {scores_per_weight:g} scores per weight (limit "
                f"{MAX_SCORE_MEMORY:g}), and optimizer state beside them; choose a smaller M, or set allow_large_score_memory"
            )
        return self


class SRSTESettings(NMSettings, TrainingSettings):
    """SR-STE: train through magnitude masks drawn anew at every step; gradients reach every weight."""

    epochs: int = Field(30, ge=1, le=100_000, description="passes over the training images")
    sparse_decay: float = Field(
        2e-4,
        ge=0,
        le=1,
        description="pull to zero on weights outside of the mask (lambda), added to their gradient, not clipped",
    )


class MagnitudeSettings(NMSettings):
    """One-shot magnitude masks, without training; the accuracy is measured on the test images of `data`."""

    def data_identity(self) -> str | None:
        return self.data.identity()


METRICS = (*MODEL_METRICS, "initial_top1_accuracy", "num_nm_blocks", "num_violating_blocks", "nm_valid", "num_sparse_layers")
"""What every stage of this kind reports; `initial_top1_accuracy` is that of the model it was given."""

FORECAST_METRICS = (*SHAPE_METRICS, "num_nm_blocks", "num_sparse_layers")
"""What is known of it before."""

STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="sparsify.lbc",
        version=2,
        summary="Learns the best N:M combination of every block while training, removing the lowest-scored step by step",
        settings=LBCSettings,
        implementation="stages.sparsify.lbc:run",
        inputs={"model": Port(kind="model"), **DATA_PORT},
        output="model",
        metrics=METRICS,
        source="Zhang et al. 2022, Learning Best Combination for Efficient N:M Sparsity, arXiv 2206.06662",
        example={"data": "digits", "n_m": "2:4", "epochs": 2},
        forecast="stages.sparsify.forecast:sparse",
        forecast_metrics=FORECAST_METRICS,
        data_parallel=True,
    ),
    StageSpec(
        name="sparsify.sr_ste",
        version=2,
        summary="Trains through magnitude N:M masks drawn anew at every step: the straight-through control for learned masks",
        settings=SRSTESettings,
        implementation="stages.sparsify.sr_ste:run",
        inputs={"model": Port(kind="model"), **DATA_PORT},
        output="model",
        metrics=METRICS,
        source="Zhou et al. 2021, Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch, arXiv 2102.04010",
        example={"data": "digits", "n_m": "2:4", "epochs": 2},
        forecast="stages.sparsify.forecast:sparse",
        forecast_metrics=FORECAST_METRICS,
        data_parallel=True,
    ),
    StageSpec(
        name="sparsify.magnitude",
        version=1,
        summary="Keeps the N largest weights of every block of M at once, without training: the control for learned masks",
        settings=MagnitudeSettings,
        implementation="stages.sparsify.magnitude:run",
        inputs={"model": Port(kind="model"), **DATA_PORT},
        output="model",
        metrics=METRICS,
        source="Mishra et al. 2021, Accelerating Sparse Deep Neural Networks, arXiv 2104.08378 (one-shot step)",
        example={"data": "digits", "n_m": "2:4"},
        forecast="stages.sparsify.forecast:sparse",
        forecast_metrics=FORECAST_METRICS,
    ),
)
