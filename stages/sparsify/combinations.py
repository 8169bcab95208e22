"""LBC's arithmetic inside a layer and inside the training loop: scored combinations and their removal.

Shapes: G blocks, M weights of a block, C = binom(M, N) combinations of a block, as in `stages.ops.nm`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from stages.models.nm_mask import make_weight_plain
from stages.ops.nm import (
    combination_gradient,
    from_blocks,
    incidence,
    initial_score,
    kept_combinations,
    remove_lowest,
    union_mask,
)
from stages.ops.pattern import NMPattern
from stages.training.hooks import ParameterGroup, TrainingHook


class ScoredCombinations(nn.Module):
    """Parametrization weight -> mask * weight, where the mask is the union of the combinations that are still there.

    Forward: W~ = mask * W with mask = (alive_GC @ B_CM > 0). Score values never scale the output.
    Backward, with g = dL/dW~: dL/dW = mask * g; dL/dalpha[b, c] = alive[b, c] * sum_j B[c, j] W[b, j] g[b, j], which is what
    a straight-through mask = sign of the sum of scores gives.

    Attributes:
        scores: alpha_GC float, starts at 1 / binom(M-1, N-1). A removed combination's score means nothing any more.
        removed: bool buffer (G, C); what is removed never comes back.
        mask: bool buffer of the weight's shape, always the union of what `removed` leaves.
        incidence: B_CM in the weight's element type.

    Source: Zhang et al. 2022, arXiv 2206.06662. Departs from the authors' code, where a score of 0 means "removed" and the mask
    is the sum of scores != 0: there, momentum brings removed scores back to life between steps, and alive scores of
    opposite sign can cancel to a false zero. A boolean has neither flaw and gives the same masks otherwise.
    """

    removed: Tensor
    mask: Tensor
    incidence: Tensor

    def __init__(self, weight: Tensor, pattern: NMPattern) -> None:
        super().__init__()
        self.pattern = pattern
        blocks = weight.numel() // pattern.m
        self.scores = nn.Parameter(weight.new_full((blocks, pattern.num_combinations), initial_score(pattern)))
        self.register_buffer("removed", torch.zeros_like(self.scores, dtype=torch.bool))
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))
        self.register_buffer("incidence", incidence(pattern).to(weight), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        arguments = (weight, self.scores, self.mask, self.removed, self.incidence)
        masked: Tensor = _MaskedWeight.apply(*arguments)  # type: ignore[no-untyped-call]
        return masked

    @torch.no_grad()
    def remove(self, count: int) -> None:
        """Remove the lowest combinations, so that `count` are gone from every block, and draw the mask anew."""
        self.removed.copy_(remove_lowest(self.scores, self.removed, count=count))
        self.mask.copy_(from_blocks(union_mask(self.removed, self.incidence), self.mask.shape))


class _MaskedWeight(torch.autograd.Function):
    """mask * weight, with the score gradient taken from the weight's own: no straight-through for the weight."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, _scores: Tensor, mask: Tensor, removed: Tensor, incidence_CM: Tensor) -> Tensor:
        ctx.save_for_backward(weight, mask, removed, incidence_CM)
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        weight, mask, removed, incidence_CM = ctx.saved_tensors
        wants_scores = ctx.needs_input_grad[1]
        scores_gradient = combination_gradient(weight, gradient, removed, incidence_CM) if wants_scores else None
        return gradient * mask, scores_gradient, None, None, None


class RemovalHook(TrainingHook):
    """Before every forward pass, removes combinations until as many are left as the schedule says for the running epoch."""

    name = "lbc"

    def __init__(
        self,
        layers: Mapping[str, ScoredCombinations],
        *,
        start: float,
        end: float,
        power: float,
        learning_rate_multiplier: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        self.layers = dict(layers)
        self.schedule = {"start": start, "end": end, "power": power}
        self.learning_rate_multiplier = learning_rate_multiplier
        self.weight_decay = weight_decay
        self.num_combinations = next(iter(self.layers.values())).pattern.num_combinations
        self._removed: int | None = None

    def parameter_groups(self, model: nn.Module) -> Sequence[ParameterGroup]:
        """The scores, with a learning rate and a weight decay of their own."""
        owned = {id(layer.scores) for layer in self.layers.values()}
        scores = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in owned}
        assert len(scores) == len(self.layers)
        return [
            ParameterGroup(
                name="lbc_scores",
                parameters=scores,
                learning_rate_multiplier=self.learning_rate_multiplier,
                weight_decay=self.weight_decay,
            )
        ]

    def kept(self, epoch: int) -> int:
        """Combinations left in every block during `epoch`."""
        return kept_combinations(epoch, num_combinations=self.num_combinations, **self.schedule)

    def before_step(self, step: int, epoch: float) -> None:
        """Remove what the running epoch asks for; when one combination is left, the scores rest for good.

        The number depends on the epoch alone and what is removed stays so: repeating the removal within an epoch, as the
        authors' code does, changes nothing, so it is done where the number changes.
        """
        del step
        count = self.num_combinations - self.kept(int(epoch))
        if count == self._removed:
            return
        for layer in self.layers.values():
            layer.remove(count)
            if count == self.num_combinations - 1:
                layer.scores.requires_grad_(False)
                layer.scores.grad = None
        self._removed = count

    def metrics(self) -> Mapping[str, float]:
        """Combinations left per block and share of weights under the masks."""
        covered = sum(int(layer.mask.count_nonzero()) for layer in self.layers.values())
        total = sum(layer.mask.numel() for layer in self.layers.values())
        return {
            "kept_combinations": float(self.num_combinations - (self._removed or 0)),
            "mask_density": covered / total,
        }


def add_scores(model: nn.Module, names: Sequence[str], *, pattern: NMPattern) -> dict[str, ScoredCombinations]:
    """Give the named layers scored combinations, in place; before any removal the model computes what it did."""
    layers: dict[str, ScoredCombinations] = {}
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        layers[name] = ScoredCombinations(layer.weight, pattern)
        parametrize.register_parametrization(layer, "weight", layers[name])
    return layers


def drop_scores(model: nn.Module, layers: Mapping[str, ScoredCombinations]) -> dict[str, Tensor]:
    """Take the scores away, in place, leaving mask * weight in plain layers, and return the masks."""
    for name in layers:
        make_weight_plain(model.get_submodule(name))
    return {name: layer.mask.clone() for name, layer in layers.items()}
