"""Settings and descriptions of the stages that train a given model further. Imports no tensor library."""

from __future__ import annotations

from pydantic import Field

from stages.contract import Port, StageSpec
from stages.data.settings import DATA_PORT
from stages.training.settings import (
    DENOISER_METRICS,
    MODEL_METRICS,
    RESTORER_METRICS,
    SHAPE_METRICS,
    CompiledTrainingSettings,
    DenoiserTrainingSettings,
    ImageTrainingSettings,
)


class FinetuneSettings(CompiledTrainingSettings):
    """Train a given model further with its transforms in place: a third of the usual epochs at half the learning rate."""

    epochs: int = Field(13, ge=1, le=100_000, description="passes over the training images")
    learning_rate: float = Field(1.5e-3, gt=0, le=100, description="largest learning rate of the schedule")


class DistillSettings(FinetuneSettings):
    """Train a given model further towards the outputs of a teacher."""

    temperature: float = Field(2.0, gt=0, le=100, description="both models' logits are divided by it; larger is softer")
    alpha: float = Field(0.5, ge=0, le=1, description="share of the teacher's loss; the rest is cross entropy with the labels")


class DiffusionFinetuneSettings(DenoiserTrainingSettings):
    """Train a given denoiser further with its transforms in place, by its own noise schedule."""

    epochs: int = Field(50, ge=1, le=100_000, description="passes over the training images")
    learning_rate: float = Field(1e-3, gt=0, le=100, description="largest learning rate of the schedule")


class RestorationFinetuneSettings(ImageTrainingSettings):
    """Train a given restorer further with its transforms in place."""

    epochs: int = Field(20, ge=1, le=100_000, description="passes over the training images")
    learning_rate: float = Field(1e-3, gt=0, le=100, description="largest learning rate of the schedule")


STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="finetune.classifier",
        version=1,
        summary="Train a classifier further; masks and other transforms stay",
        settings=FinetuneSettings,
        implementation="stages.finetune.training:finetune_classifier",
        output="model",
        inputs={"model": Port(kind="model"), **DATA_PORT},
        metrics=MODEL_METRICS,
        source="OneCycle: Smith and Topin 2017, arXiv 1708.07120; AdamW: Loshchilov and Hutter 2017, arXiv 1711.05101",
        example={"data": "digits", "epochs": 1},
        forecast="stages.finetune.forecast:trained_further",
        forecast_metrics=SHAPE_METRICS,
        data_parallel=True,
    ),
    StageSpec(
        name="finetune.distill",
        version=1,
        summary="Train a classifier further towards a teacher's outputs; masks and other transforms stay",
        settings=DistillSettings,
        implementation="stages.finetune.distill:finetune_distill",
        output="model",
        inputs={"model": Port(kind="model"), "teacher": Port(kind="model"), **DATA_PORT},
        metrics=(*MODEL_METRICS, "teacher_top1_accuracy"),
        source="Hinton, Vinyals, Dean 2015, arXiv 1503.02531",
        example={"data": "digits", "epochs": 1},
        forecast="stages.finetune.forecast:trained_further",
        forecast_metrics=SHAPE_METRICS,
        data_parallel=True,
    ),
    StageSpec(
        name="finetune.diffusion",
        version=1,
        summary="Train a denoiser further; masks and other transforms stay",
        settings=DiffusionFinetuneSettings,
        implementation="stages.finetune.training:finetune_denoiser",
        output="model",
        inputs={"model": Port(kind="model"), **DATA_PORT},
        metrics=DENOISER_METRICS,
        source="Ho, Jain, Abbeel 2020, arXiv 2006.11239",
        example={"data": {"name": "digits", "scaling": "symmetric"}, "epochs": 1},
        example_stages={"model": "pretrain.diffusion"},
        forecast="stages.finetune.forecast:trained_further",
        forecast_metrics=SHAPE_METRICS,
        data_parallel=True,
    ),
    StageSpec(
        name="finetune.restoration",
        version=2,
        summary="Train a restorer further; masks and other transforms stay",
        settings=RestorationFinetuneSettings,
        implementation="stages.finetune.training:finetune_restorer",
        output="model",
        inputs={"model": Port(kind="model"), **DATA_PORT},
        metrics=RESTORER_METRICS,
        source="absolute differences: Zhao et al. 2015, arXiv 1511.08861",
        example={"data": {"name": "digits", "scaling": "symmetric", "size": 16}, "epochs": 1},
        example_stages={"model": "pretrain.restoration"},
        forecast="stages.finetune.forecast:trained_further",
        forecast_metrics=SHAPE_METRICS,
        data_parallel=True,
    ),
)
