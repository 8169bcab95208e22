"""SR-STE: train through magnitude N:M masks drawn anew at every step, pulling what they leave out towards zero.

Every forward pass keeps the N largest magnitudes of each block of M; every weight, kept or not, receives the gradient of the
masked one (straight through), so a weight that grows may come back. What is not kept is pulled to zero besides, which makes
masks settle. The control for methods that learn their masks otherwise: same layers, same loop, no scores.

Source: Zhou et al. 2021, Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch, arXiv 2102.04010, eq. 9,
and the authors' code, which clips no gradients: here the pull is added after clipping, so that it neither shrinks with the
gradients nor makes them shrink. The paper updates by SGD; under AdamW the pull is part of the gradient and so goes through
its normalisation, as it does wherever the authors' layers meet another optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from stages.contract import StageContext, StageResult
from stages.models.nm_mask import apply_masks, make_weight_plain
from stages.ops.nm import magnitude_mask
from stages.ops.pattern import NMPattern
from stages.sparsify.layers import mask_metrics, receive_dense_model
from stages.sparsify.settings import SRSTESettings
from stages.training.hooks import TrainingHook
from stages.training.loop import train
from stages.training.model_artifact import deliver_model


class MagnitudeSparse(nn.Module):
    """Parametrization weight -> mask * weight, with the mask of the N largest magnitudes of each block at this moment.

    Forward: W~ = mask(W) * W.
    Backward, with g = dL/dW~: dL/dW = g, for every weight. `PullHook` adds lambda * (1 - mask) * W.

    Attributes:
        pattern: N and M.
        mask: of the latest forward pass, None before the first.
    """

    def __init__(self, pattern: NMPattern) -> None:
        super().__init__()
        self.pattern = pattern
        self.mask: Tensor | None = None

    def forward(self, weight: Tensor) -> Tensor:
        self.mask = magnitude_mask(weight, pattern=self.pattern)
        masked: Tensor = _StraightThrough.apply(weight, self.mask)  # type: ignore[no-untyped-call]
        return masked


class _StraightThrough(torch.autograd.Function):
    """mask * weight, whose gradient reaches every weight."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor) -> Tensor:
        del ctx
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        del ctx
        return gradients[0], None


class PullHook(TrainingHook):
    """Adds lambda * (1 - mask) * W to the gradient of every weight with a magnitude mask, after clipping.

    Attributes:
        sparse_decay: lambda, per unit of learning rate.
    """

    name = "sr_ste"

    def __init__(self, model: nn.Module, layers: Mapping[str, MagnitudeSparse], *, sparse_decay: float) -> None:
        self.sparse_decay = sparse_decay
        self._pairs = [(_stored_weight(model, name), sparse) for name, sparse in layers.items()]

    @torch.no_grad()
    def after_clipping(self, step: int) -> None:
        """Pull what the masks of this step's forward pass left out towards zero."""
        del step
        for weight, sparse in self._pairs:
            assert sparse.mask is not None
            if weight.grad is not None:
                weight.grad.add_(weight.masked_fill(sparse.mask, 0.0), alpha=self.sparse_decay)


def add_magnitude_masks(model: nn.Module, names: Sequence[str], *, pattern: NMPattern) -> dict[str, MagnitudeSparse]:
    """Give the named layers masks that follow their weights, in place; from now on the model is N:M sparse."""
    layers: dict[str, MagnitudeSparse] = {}
    for name in names:
        layers[name] = MagnitudeSparse(pattern)
        parametrize.register_parametrization(model.get_submodule(name), "weight", layers[name])
    return layers


def drop_magnitude_masks(model: nn.Module, layers: Mapping[str, MagnitudeSparse]) -> dict[str, Tensor]:
    """Take the masks away, in place, leaving mask * weight in plain layers, and return the masks as they were last."""
    masks: dict[str, Tensor] = {}
    for name, sparse in layers.items():
        masks[name] = magnitude_mask(_stored_weight(model, name), pattern=sparse.pattern)
        make_weight_plain(model.get_submodule(name))
    return masks


def _stored_weight(model: nn.Module, name: str) -> nn.Parameter:
    weight = model.get_submodule(name).parametrizations.weight.original  # type: ignore[union-attr]
    assert isinstance(weight, nn.Parameter)
    return weight


def run(context: StageContext) -> StageResult:
    """Train the input model to N:M sparsity; the output carries fixed masks.

    Raises:
        ValueError: a layer cannot take the pattern, the model carries transforms already, or a setting does not fit the data.
        TrainingDiverged: the loss or a weight stopped being finite.
    """
    settings = context.settings
    assert isinstance(settings, SRSTESettings)
    dense = receive_dense_model(context, stage="sparsify.sr_ste")
    model = dense.bundle.model
    layers = add_magnitude_masks(model, dense.names, pattern=dense.pattern)
    hook = PullHook(model, layers, sparse_decay=settings.sparse_decay)
    report = train(model, data=dense.data, settings=settings, context=context, hooks=(hook,), task=dense.task)
    model.cpu()
    bundle = apply_masks(dense.bundle, drop_magnitude_masks(model, layers), pattern=dense.pattern)
    metrics = {**dense.initial_metrics, **mask_metrics(bundle)}
    return deliver_model(bundle, context=context, report=report, metrics=metrics)
