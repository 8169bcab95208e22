"""Losses of classification. Shapes: B images, K classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(images, logits_BK, labels_B) -> mean loss over the batch."""


def cross_entropy_loss(*, label_smoothing: float) -> Loss:
    """Cross entropy against (1 - s) * one-hot + s / K, with s = `label_smoothing`.

    Source: Szegedy et al. 2015, arXiv 1512.00567, section 7.
    """

    def loss(images: Tensor, logits_BK: Tensor, labels_B: Tensor) -> Tensor:
        del images
        return functional.cross_entropy(logits_BK.float(), labels_B, label_smoothing=label_smoothing)

    return loss


def soft_target_loss(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over the batch; T^2 keeps its gradient's scale.

    Args:
        student_BK: logits, float.
        teacher_BK: logits, float; no gradient flows to it.
        temperature: T, above 0.

    Example:
        >>> logits = torch.tensor([[1.0, 2.0, 3.0]])
        >>> float(soft_target_loss(logits, logits + 5.0, temperature=2.0).abs() < 1e-6)
        1.0

    Source: Hinton, Vinyals, Dean 2015, arXiv 1503.02531, section 2.
    """
    student = functional.log_softmax(student_BK.float() / temperature, dim=1)
    teacher = functional.log_softmax(teacher_BK.detach().float() / temperature, dim=1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def distillation_loss(teacher: nn.Module, *, temperature: float, alpha: float, label_smoothing: float) -> Loss:
    """Mix two losses: alpha * soft targets of `teacher` + (1 - alpha) * cross entropy with the labels.

    The teacher is set to evaluation mode and sees exactly the images that the student sees, shifts included.

    Source: Hinton, Vinyals, Dean 2015, arXiv 1503.02531, section 2.
    """
    teacher.eval().requires_grad_(False)
    hard_loss = cross_entropy_loss(label_smoothing=label_smoothing)

    def loss(images: Tensor, logits_BK: Tensor, labels_B: Tensor) -> Tensor:
        with torch.no_grad():
            teacher_BK = teacher(images)
        soft = soft_target_loss(logits_BK, teacher_BK, temperature=temperature)
        return alpha * soft + (1 - alpha) * hard_loss(images, logits_BK, labels_B)

    return loss
