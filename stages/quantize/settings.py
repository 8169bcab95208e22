"""Settings and descriptions of the `quantize` stages. Torch-free, so that plans stay fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from stages.contract import Port, StageSettings, StageSpec
from stages.data.settings import DATA_PORT, DataSettings
from stages.training.settings import MODEL_METRICS, SHAPE_METRICS, TrainingSettings

Bits = Literal[2, 3, 4, 8]


class QuantizerSettings(StageSettings):
    """Which layers are quantized, to how many bits, and by which images."""

    data: DataSettings
    weight_bits: Bits = Field(8, description="bits of a weight")
    activation_bits: Bits = Field(8, description="bits of an element of a layer's input")
    layer_bits: Mapping[str, Bits] = Field(
        default_factory=dict,
        description='bits of single layers, weights and inputs: name or pattern such as "*.fc2" -> bits; the last match counts',
    )
    unquantized_layers: tuple[str, ...] = Field((), description="layers left in floats: names or patterns")
    end_layers: Literal["same", "8bit", "float"] = Field(
        "same", description="bits of the first layer that runs and of the last: those of all others, 8, or floats"
    )

    def data_identity(self) -> str | None:
        return self.data.identity()


class QATSettings(QuantizerSettings, TrainingSettings):
    """Quantization-aware training with learned bounds: a third of the usual epochs at half the learning rate."""

    epochs: int = Field(13, ge=1, le=100_000, description="passes over the training images")
    learning_rate: float = Field(1.5e-3, gt=0, le=100, description="largest learning rate of the weights")
    weight_bits: Bits = Field(2, description="bits of a weight")
    activation_bits: Bits = Field(2, description="bits of an element of a layer's input")
    form: Literal["auto", "normalized", "dequantized"] = Field(
        "auto",
        description="values a layer computes with: in [-1, 1], in units of the weights, or the first only before a batch norm",
    )
    bounds_init: Literal["reference", "least_squares"] = Field(
        "reference",
        description="first bounds: 3 std of weights, min and 3 std / sqrt(1 - 2/pi) of inputs; or those that change both least",
    )
    bound_learning_rate: float = Field(
        1e-4, gt=0, le=1, description="largest learning rate of the bounds (Adam); follows the schedule of the weights"
    )


class LTSSettings(QATSettings):
    """LTS: quantization-aware training that freezes each weight once it has stayed close to its level."""

    threshold_mode: Literal["fixing", "linear_growth", "sine_growth"] = Field(
        "linear_growth", description="how the freezing threshold grows from the end of the freezing warm-up to the last step"
    )
    fixed_rate: float = Field(0.1, gt=0, le=1, description="threshold of mode fixing, in distances of two levels")
    distance_momentum: float = Field(
        0.99, ge=0, lt=1, description="m of the moving average of a weight's distance to its level; memory 1 / (1 - m) steps"
    )
    freeze_warmup: float = Field(0.2, ge=0, lt=1, description="share of the steps before anything freezes")
    skip_frozen: Literal["none", "layers", "rows"] = Field(
        "layers",
        description="weight gradients left out: none (the reference), of layers frozen whole, or also of rows frozen whole; "
        "what is left out gives nothing to the layer's weight bounds either",
    )

    @model_validator(mode="after")
    def _fixed_rate_acts(self) -> Self:
        # Set to its default it changes no key, and settings built out of others' name every field.
        if self.threshold_mode != "fixing" and self.fixed_rate != type(self).model_fields["fixed_rate"].default:
            raise ValueError(
                f"fixed_rate is {self.fixed_rate}, but with threshold_mode {self.threshold_mode} the threshold grows; leave "
                "fixed_rate out, or set threshold_mode: fixing"
            )
        return self

    @model_validator(mode="after")
    def _freezing_can_happen(self) -> Self:
        if self.freeze_warmup * self.epochs > self.epochs - 1 and self.freeze_warmup > 0 and self.epochs > 1:
            raise ValueError(
                f"freeze_warmup {self.freeze_warmup} of {self.epochs} epochs leaves less than one epoch in which weights can "
                "freeze; lower freeze_warmup or raise epochs, or use quantize.qat"
            )
        return self


class PTQSettings(QuantizerSettings):
    """Quantize without training: bounds from calibration images, those that change weights and inputs least."""

    calibration_samples: int = Field(
        256, ge=2, le=100_000, description="training images, drawn with the seed; a denoiser's are spread over its timesteps"
    )
    timestep_groups: int = Field(
        1, ge=1, le=1000, description="of a denoiser: groups of neighbouring timesteps with bounds of their own for inputs"
    )

    @property
    def form(self) -> Literal["dequantized"]:
        """Layers compute in the units of their weights: without training, no batch norm takes up another scale."""
        return "dequantized"

    @model_validator(mode="after")
    def _groups_are_calibrated(self) -> Self:
        if self.timestep_groups > self.calibration_samples:
            raise ValueError(f"timestep_groups {self.timestep_groups} is above calibration_samples {self.calibration_samples}")
        return self


LAYER_METRICS = ("num_quantized_layers", "num_normalized_layers", "num_dequantized_layers")

FORECAST_METRICS = (*SHAPE_METRICS, *LAYER_METRICS)
"""What is known before a stage of this kind runs."""

QAT_METRICS = (
    *MODEL_METRICS,
    "initial_top1_accuracy",
    *LAYER_METRICS,
    "max_levels",
    "levels_valid",
)
"""What every stage of this kind reports. `max_levels`: most distinct values of one layer's weights; `levels_valid`: no layer
has more than 2^bits."""

LTS_METRICS = (
    *QAT_METRICS,
    "frozen_fraction",
    "mean_frozen_fraction",
    "frozen_weights_fraction",
    "backward_cost_saved_accounted",
    "backward_cost_skipped",
    "backward_cost_saved_measured",
)
"""Three columns that are never mixed: `backward_cost_saved_accounted` is the published formula, f / 2 with f the mean share of
frozen parameters over training; `backward_cost_skipped` counts the multiply-accumulates that were really left out;
`backward_cost_saved_measured` is a paired timing at the end of training, a measurement."""

STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="quantize.lts",
        version=2,
        summary="Quantization-aware training that freezes weights which stay at their level, and skips their gradients",
        settings=LTSSettings,
        implementation="stages.quantize.lts:run",
        inputs={"model": Port(kind="model"), **DATA_PORT},
        output="model",
        metrics=LTS_METRICS,
        source="Zhong et al. 2022, Exploiting the Partly Scratch-off Lottery Ticket for Quantization-Aware Training, "
        "arXiv 2211.08544",
        example={"data": "digits", "epochs": 2, "weight_bits": 2, "activation_bits": 4},
        forecast="stages.quantize.forecast:quantized",
        forecast_metrics=FORECAST_METRICS,
        data_parallel=True,
    ),
    StageSpec(
        name="quantize.qat",
        version=2,
        summary="Quantization-aware training with learned bounds and without freezing: the control for LTS",
        settings=QATSettings,
        implementation="stages.quantize.qat:run",
        inputs={"model": Port(kind="model"), **DATA_PORT},
        output="model",
        metrics=QAT_METRICS,
        source="The quantizer of arXiv 2211.08544 (learned bounds, straight through); compare Esser et al. 2019, 1902.08153",
        example={"data": "digits", "epochs": 2, "weight_bits": 2, "activation_bits": 4},
        forecast="stages.quantize.forecast:quantized",
        forecast_metrics=FORECAST_METRICS,
        data_parallel=True,
    ),
    StageSpec(
        name="quantize.ptq",
        version=1,
        summary="Rounds to b bits without training, with bounds from calibration images; of denoisers, over the timesteps",
        settings=PTQSettings,
        implementation="stages.quantize.ptq:run",
        inputs={"model": Port(kind="model"), **DATA_PORT},
        output="model",
        metrics=QAT_METRICS,
        source="bounds of least squared error, ours; calibration over timesteps: arXiv 2211.15736 (PTQ4DM), arXiv 2302.04304 "
        "(Q-Diffusion); bounds by group of timesteps: compare arXiv 2306.02316",
        example={"data": "digits", "calibration_samples": 64},
        forecast="stages.quantize.forecast:quantized",
        forecast_metrics=FORECAST_METRICS,
    ),
)
