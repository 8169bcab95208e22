"""How well a model does on a split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from stages.data.base import Split


@dataclass(frozen=True, kw_only=True)
class Top1:
    """Images whose highest logit is that of their label."""

    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """Share of correct images, 0 to 1."""
        return self.correct / self.total


def evaluate_top1(model: nn.Module, split: Split, *, batch_size: int = 512, device: str | torch.device = "cpu") -> Top1:
    """Classify every image of `split` in evaluation mode; the model's mode is put back afterwards."""
    was_training = model.training
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=device)
    total = 0
    with torch.no_grad():
        for images, labels in split.batches(batch_size=batch_size):
            predicted = model(images.to(device)).argmax(dim=1)
            correct += (predicted == labels.to(device)).sum()
            total += len(labels)
    model.train(was_training)
    return Top1(correct=int(correct), total=total)
