"""The task of classifiers: cross entropy with the labels, measured by top-1 accuracy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stages.data.base import Batch, Split
from stages.training.evaluation import evaluate_top1
from stages.training.losses import cross_entropy_loss
from stages.training.settings import TrainingSettings
from stages.training.tasks.base import Objective, Score


class Classification:
    """(B, channels, H, W) -> logits (B, classes)."""

    name = "classification"
    metric = "top1_accuracy"

    def objective(self, model: nn.Module, settings: TrainingSettings) -> Objective:
        """Cross entropy with the settings' label smoothing."""
        del model
        loss = cross_entropy_loss(label_smoothing=settings.label_smoothing)

        def objective(forward: Callable[..., Tensor], images: Tensor, labels: Tensor) -> Tensor:
            return loss(images, forward(images), labels)

        return objective

    def inputs(self, model: nn.Module, batch: Batch, *, seed: int) -> tuple[Tensor, ...]:
        """The images."""
        del model, seed
        return (batch.images,)

    def evaluate(self, model: nn.Module, split: Split, *, device: str | torch.device = "cpu") -> Score:
        """Share of the images whose highest logit is that of their label."""
        top1 = evaluate_top1(model, split, device=device)
        return Score(metric=self.metric, total=top1.correct, count=top1.total)


TASK = Classification()
