"""Groups of neighbouring timesteps of a denoiser, and to which of them the images of a running forward pass belong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


class Clock:
    """Tells layers inside of a denoiser which timesteps the running forward pass is for; the denoiser sets it."""

    def __init__(self, num_timesteps: int) -> None:
        self.num_timesteps = num_timesteps
        self.timesteps: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Clock:
        copied = memo[id(self)] = Clock(self.num_timesteps)  # without the tensor, which may belong to a trace
        return copied


@dataclass(frozen=True)
class TimestepGroups:
    """`number` groups of equally many timesteps each; group 0 has the least noise."""

    clock: Clock
    number: int

    def index(self, value: Tensor) -> Tensor:
        """The group of each image of `value`, a layer's input with the batch as first dimension.

        Raises:
            ValueError: the layer does not see one entry for each image.
        """
        timesteps = self.clock.timesteps
        assert timesteps is not None
        if value.shape[0] != timesteps.shape[0]:
            raise ValueError(
                f"timestep_groups: a layer sees {value.shape[0]} entries for {timesteps.shape[0]} images; name it in "
                "unquantized_layers, or keep one group"
            )
        return timesteps * self.number // self.clock.num_timesteps


def timestep_groups(model: nn.Module, number: int) -> TimestepGroups | None:
    """The groups of a denoiser's schedule, None for a single one; raises ValueError where the model has no timesteps."""
    if number == 1:
        return None
    clock = getattr(model, "clock", None)
    if not isinstance(clock, Clock):
        raise ValueError(f"timestep_groups is {number}, but a {type(model).__name__} has no timesteps; it is for denoisers")  # noqa: TRY004
    return TimestepGroups(clock, number)
