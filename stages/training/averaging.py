"""The exponential moving average of a model's weights. Knows no optimizer and no data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """average <- average + (1 - d) * (weight - average), with d = min(decay, (1 + t) / (10 + t)) at update t = 0, 1, ...

    Floating-point parameters and buffers (batch-norm statistics) are averaged; whole numbers, masks and the names given as
    `copied` are not averaged but stay the model's own, since the average of scores and masks means nothing.

    Source: Polyak and Juditsky 1992; the rising decay as in TensorFlow's `ExponentialMovingAverage(num_updates=...)`.
    """

    def __init__(self, model: nn.Module, *, decay: float, copied: AbstractSet[str]) -> None:
        state = model.state_dict()
        self.names = [name for name, tensor in state.items() if tensor.is_floating_point() and name not in copied]
        self._weights = [state[name] for name in self.names]
        self._averages = [weight.detach().clone() for weight in self._weights]
        self._decay = decay
        self.num_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the model's present weights."""
        decay = min(self._decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)
        self.num_updates += 1

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Make the average the model's weights."""
        for weight, average in zip(self._weights, self._averages, strict=True):
            weight.copy_(average)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside the `with` block, its own again after it."""
        own = [weight.detach().clone() for weight in self._weights]
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, value in zip(self._weights, own, strict=True):
                    weight.copy_(value)

    def state_dict(self) -> dict[str, object]:
        """Averages by name and the number of updates."""
        return {"num_updates": self.num_updates, "averages": dict(zip(self.names, self._averages, strict=True))}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take back what `state_dict` gave."""
        averages, num_updates = state["averages"], state["num_updates"]
        assert isinstance(averages, Mapping)
        assert isinstance(num_updates, int)
        for name, average in zip(self.names, self._averages, strict=True):
            value = averages[name]
            assert isinstance(value, Tensor)
            average.copy_(value)
        self.num_updates = num_updates
