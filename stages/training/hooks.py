"""How a method acts inside the training loop without the loop knowing the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters that a hook trains by rules of their own.

    Args:
        name: unique among the groups of one training run.
        parameters: by unique name; where a parameter belongs to the model, by its name in the model.
        learning_rate_multiplier: times the learning rate of the schedule.
        weight_decay: of this group alone.
    """

    name: str
    parameters: Mapping[str, nn.Parameter] = field(repr=False)
    learning_rate_multiplier: float = 1.0
    weight_decay: float = 0.0


class TrainingHook:
    """Base of what a method does during training; every method does nothing by default.

    A hook may set `requires_grad` of a parameter to False at any time: from then on the parameter has no gradient, no
    weight decay and no momentum, and a resumed run keeps it so.
    """

    name: str = "hook"

    def parameter_groups(self, model: nn.Module) -> Sequence[ParameterGroup]:
        """Parameters that the hook adds or takes over from the model; asked once, before the first step."""
        del model
        return ()

    def names_not_averaged(self) -> frozenset[str]:
        """Names in the model's state dict that the moving average copies instead; its own parameters are always copied."""
        return frozenset()

    def before_step(self, step: int, epoch: float) -> None:
        """Called at the beginning of every optimizer step.

        Args:
            step: optimizer steps done so far.
            epoch: passes done so far, with fraction; `int(epoch)` is the number of the running epoch, from 0.
        """

    def before_forward(self) -> None:
        """Called before every forward pass in training: once or, with `accumulate_steps`, several times after `before_step`."""

    def before_update(self, step: int) -> None:
        """Called between the backward pass and clipping: gradients are there and may be changed."""

    def after_clipping(self, step: int) -> None:
        """Called between clipping and the optimizer's update, also where nothing is clipped: what is added here stays whole."""

    def after_step(self, step: int) -> None:
        """Called after every update, with the number of the step just done, counted from 0."""

    def state_dict(self) -> Mapping[str, Any]:
        """What the hook needs to go on after a kill, beyond the model's state dict: tensors and JSON values, nested."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        del state

    def metrics(self) -> Mapping[str, float]:
        """Figures to show while training runs and to keep in the history; they follow from settings and seed alone."""
        return {}
