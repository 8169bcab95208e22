"""The task of restoration: give back the image that was there before it was degraded, measured by PSNR.

    loss = mean |model(degraded(x)) - x|,   PSNR = 10 log10(1 / mean (model(degraded(x)) - x)^2) in dB

with the mean of PSNR taken over all values of all images, from 0 to 1 and clamped there as a screen would: cutting images into
squares changes nothing, and squares without detail, each of a very high PSNR, do not hide the others. The model says how
images are degraded (`degraded`). Absolute differences train to as high a PSNR as squared ones, or a higher one (Zhao et al.
2015, arXiv 1511.08861).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.data.base import Batch, Split
from stages.ops.image_quality import psnr_of, squared_error
from stages.training.settings import TrainingSettings
from stages.training.tasks.base import Objective, Score

BATCH_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class _ErrorScore(Score):
    """`total` of the images' mean squared errors."""

    @property
    def value(self) -> float:
        """PSNR of their mean, dB."""
        return float(psnr_of(torch.tensor(self.total / self.count, dtype=torch.float64)))


class Restoration:
    """(B, channels, H, W) degraded images -> (B, channels, H, W) restored ones."""

    name = "image_to_image"
    metric = "psnr_db"

    def objective(self, model: nn.Module, settings: TrainingSettings) -> Objective:
        """Mean absolute difference to the images themselves."""
        if "label_smoothing" in settings.model_fields_set and settings.label_smoothing:
            raise ValueError(f"label_smoothing is {settings.label_smoothing}, but restoration knows no labels; leave it out")
        degraded = degraded_by(model)

        def objective(forward: Callable[..., Tensor], images: Tensor, labels: Tensor) -> Tensor:
            del labels
            return functional.l1_loss(forward(degraded(images)).float(), images)

        return objective

    def inputs(self, model: nn.Module, batch: Batch, *, seed: int) -> tuple[Tensor, ...]:
        """The images, degraded."""
        del seed
        return (degraded_by(model)(batch.images),)

    def evaluate(self, model: nn.Module, split: Split, *, device: str | torch.device = "cpu") -> Score:
        """PSNR of the mean error over all images."""
        degraded, was_training = degraded_by(model), model.training
        model.eval()
        total, count = 0.0, 0
        with torch.no_grad():
            for batch in split.batches(batch_size=BATCH_SIZE):
                images = batch.images.to(device)
                total += float(squared_error(to_unit(model, model(degraded(images))), to_unit(model, images)).sum())
                count += len(images)
        model.train(was_training)
        return _ErrorScore(metric=self.metric, total=total, count=count)


TASK = Restoration()


def degraded_by(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """How a model for restoration degrades images."""
    return cast("Callable[[Tensor], Tensor]", cast("Any", model).degraded)


def to_unit(model: nn.Module, images: Tensor) -> Tensor:
    """Values as they were before the data's scaling, from 0 to 1."""
    scaling = cast("Any", model)
    mean, std = (torch.tensor(values, device=images.device).reshape(1, -1, 1, 1) for values in (scaling.mean, scaling.std))
    return (images * std + mean).clamp(0, 1)
