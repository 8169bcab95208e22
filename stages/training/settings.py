"""Every knob of training, shared by all stages that train. Imports no tensor library, so that planning stays quick.

A field marked `operational` changes when something is saved or shown, never what comes out; identity leaves it out.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from stages.contract import StageSettings
from stages.data.settings import DataSettings

OPERATIONAL: dict[str, Any] = {"operational": True}

SHAPE_METRICS = (
    "num_parameters",
    "num_nonzero_parameters",
    "sparsity",
    "gmacs",
    "gmacs_effective",
    "bops",
    "size_bytes",
)
"""What follows from the structure of a model, so that it is known before the model is made."""

MODEL_METRICS = ("top1_accuracy", *SHAPE_METRICS)
"""What every stage that makes a classifier reports."""

DENOISER_METRICS = ("noise_mse", *SHAPE_METRICS)
"""What every stage that makes a denoiser reports: the squared error of its prediction on the test images (`denoising`)."""

RESTORER_METRICS = ("psnr_db", *SHAPE_METRICS)
"""What every stage that makes a network for restoration reports: its PSNR on the test images (`image_to_image`)."""


class TrainingSettings(StageSettings):
    """What the training loop needs; the defaults suit small models on small images."""

    data: DataSettings
    epochs: int = Field(40, ge=1, le=100_000, description="passes over the training images")
    batch_size: int = Field(64, ge=1, description="images per optimizer step; an incomplete last batch is left out")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="update rule")
    learning_rate: float = Field(3e-3, gt=0, le=100, description="largest learning rate of the schedule")
    learning_rate_batch_size: int | None = Field(
        None,
        ge=1,
        description="learning_rate is meant for batches of so many images and grows in proportion to batch_size (Goyal et al. "
        "2017, arXiv 1706.02677); none: it is used as it is, whatever the batch",
    )
    schedule: Literal["onecycle", "cosine", "linear", "constant", "steps"] = Field(
        "onecycle",
        description="onecycle: cosine rise from a 25th, cosine fall to near 0; others: linear rise, then fall to 0, stay, or "
        "fall to a tenth at each of decay_at",
    )
    decay_at: tuple[float, ...] = Field(
        (),
        description="schedule steps: shares of the training after which the learning rate falls to a tenth, as [0.3, 0.6, 0.9]",
    )
    warmup: float = Field(0.3, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    momentum: float = Field(
        0.9,
        ge=0,
        lt=1,
        description="of sgd, or beta1 of adamw; not to be set with onecycle, which moves it itself between 0.95 and 0.85",
    )
    weight_decay: float = Field(
        0.05, ge=0, le=10, description="of tensors with 2 or more dimensions, per unit of learning rate"
    )
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="probability spread evenly over all classes")
    max_gradient_norm: float | None = Field(
        1.0, gt=0, description="gradients are scaled down to this L2 norm; none: not clipped"
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="the result is the moving average of the weights with this decay; none: the last weights"
    )
    shift_pixels: int = Field(1, ge=0, le=64, description="largest random shift of a training image, pixels")
    shift_probability: float = Field(0.5, ge=0, le=1, description="share of the training images that are shifted")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of matrix products; weights stay float32; float16 needs a GPU and scales the loss"
    )
    channels_last: bool = Field(
        False, description="images and weights of convolutions lie in memory pixel by pixel: faster on GPUs with 16 bits"
    )
    accumulate_steps: int = Field(
        1,
        ge=1,
        description="parts of a batch that are computed one after the other before the one update, which takes less memory; "
        "batch norms see a part at a time",
    )
    evaluate_every_epochs: int = Field(1, ge=1, description="epochs between measurements on the test images in history.json")
    checkpoint_every_steps: int | None = Field(
        None, ge=1, description="optimizer steps between saved states; none: by time alone", json_schema_extra=OPERATIONAL
    )
    checkpoint_every_minutes: float | None = Field(
        2.0, gt=0, description="minutes between saved states; none: by steps alone", json_schema_extra=OPERATIONAL
    )

    @model_validator(mode="after")
    def _momentum_acts(self) -> Self:
        # Set to its default it changes no key, and settings built out of others' name every field.
        if self.schedule == "onecycle" and self.momentum != type(self).model_fields["momentum"].default:
            raise ValueError(
                f"momentum is {self.momentum}, but schedule onecycle moves momentum itself, between 0.95 and 0.85; leave "
                "momentum out, or choose another schedule"
            )
        return self

    @model_validator(mode="after")
    def _steps_are_given(self) -> Self:
        if (self.schedule == "steps") != bool(self.decay_at):
            raise ValueError(
                f"schedule is {self.schedule} and decay_at {list(self.decay_at)}; schedule: steps and decay_at belong together"
            )
        if list(self.decay_at) != sorted(set(self.decay_at)) or not all(0 < share < 1 for share in self.decay_at):
            raise ValueError(f"decay_at is {list(self.decay_at)}; expected rising shares between 0 and 1, as [0.3, 0.6, 0.9]")
        return self

    @model_validator(mode="after")
    def _parts_are_equal(self) -> Self:
        if self.batch_size % self.accumulate_steps:
            raise ValueError(
                f"accumulate_steps {self.accumulate_steps} does not divide batch_size {self.batch_size} into equal parts"
            )
        return self

    @property
    def peak_learning_rate(self) -> float:
        """The largest learning rate of the schedule."""
        base = self.learning_rate_batch_size
        return self.learning_rate if base is None else self.learning_rate * self.batch_size / base

    def refuse_workers(self, workers: int) -> None:
        """Each process takes the same number of images of a batch, in `accumulate_steps` equal parts."""
        if self.batch_size % (workers * self.accumulate_steps):
            parts = f" in {self.accumulate_steps} parts each (accumulate_steps)" if self.accumulate_steps > 1 else ""
            raise ValueError(f"batch_size {self.batch_size} cannot be shared equally by {workers} workers{parts}")

    def data_identity(self) -> str | None:
        return self.data.identity()


class CompiledTrainingSettings(TrainingSettings):
    """Of training without a method that changes from step to step what is computed."""

    compile: bool = Field(
        False, description="training goes through torch.compile: minutes at the start, then faster; needs a compiler"
    )


class ImageTrainingSettings(CompiledTrainingSettings):
    """Of networks that give images: weights do not decay, and images are shown as they are."""

    weight_decay: float = Field(0.0, ge=0, le=10, description="of tensors with 2 or more dimensions, per unit of learning rate")
    shift_pixels: int = Field(0, ge=0, le=64, description="largest random shift of a training image, pixels")

    @model_validator(mode="after")
    def _labels_play_no_part(self) -> Self:
        if "label_smoothing" in self.model_fields_set and self.label_smoothing:
            raise ValueError(f"label_smoothing is {self.label_smoothing}, but these networks are not trained to tell labels")
        return self


class DenoiserTrainingSettings(ImageTrainingSettings):
    """Of denoisers: what they draw is that of averaged weights, and to measure them takes long."""

    ema_decay: float | None = Field(
        0.995, gt=0, lt=1, description="the result is the moving average of the weights with this decay; none: the last weights"
    )
    shift_pixels: int = Field(0, ge=0, le=64, description="largest random shift of a training image, pixels; it is drawn too")
    evaluate_every_epochs: int = Field(10, ge=1, description="epochs between measurements on the test images in history.json")
