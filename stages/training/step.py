"""One optimizer step: forward and backward over a batch, in parts and in lower precision if asked to; then the update.

Knows no data, no epochs and no files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from stages.training.hooks import TrainingHook
from stages.training.optimizer import NamedOptimizer
from stages.training.parallel import ParallelGroup, running_statistics
from stages.training.settings import TrainingSettings
from stages.training.tasks.base import Objective

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class OptimizerStep:
    """Takes a batch and moves the parameters by it.

    Args:
        model: in training mode, on `device`.
        optimizer: over its parameters.
        settings: of the loop.
        hooks: called around the update.
        objective: mean loss of a batch.
        group: processes that each take their share of the batch.
        device: of the model.
        compiles: whether the forward pass goes through torch.compile.

    Raises:
        ValueError: float16 on a CPU.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: NamedOptimizer,
        settings: TrainingSettings,
        hooks: Sequence[TrainingHook],
        objective: Objective,
        group: ParallelGroup,
        device: torch.device,
        compiles: bool,
    ) -> None:
        if settings.precision == "float16" and device.type == "cpu":
            raise ValueError("precision float16 needs a GPU (resources: {gpus: 1}); on a CPU use bfloat16 or float32")
        self.model, self.optimizer, self.hooks, self.group = model, optimizer, hooks, group
        self.objective = objective
        self.forward = torch.compile(model) if compiles else model
        self.compiles = compiles
        self.num_parts = settings.accumulate_steps
        self.dtype = _AUTOCAST.get(settings.precision)
        self.device = device
        # Small float16 gradients would vanish: the loss is scaled up, and steps whose gradients overflow are left out.
        self.scaler = torch.amp.GradScaler(device.type) if settings.precision == "float16" else None

    def take(self, images: Tensor, labels: Tensor, *, step: int, wants_stop: bool) -> tuple[Tensor, Tensor | None]:
        """Do optimizer step `step`, counted from 0.

        Returns:
            The batch's mean loss, and whether any process wants to stop (above 0), both on the device and over all processes;
            the latter None for one process alone.
        """
        loss = self._backward(images, labels)
        stop: Tensor | None = None
        if self.group.size > 1:
            stop = torch.full_like(loss, float(wants_stop))
            gradients = [p.grad for p in self.optimizer.parameters.values() if p.grad is not None]
            self.group.average([loss, stop, *gradients, *running_statistics(self.model)])
        if self.scaler is None:
            self._update(step)
        else:
            self._update_unscaled(self.scaler, step)
        return loss, stop

    def _backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Gradients of the mean loss over the batch, which is the sum over its parts of their share of it."""
        total: Tensor | None = None
        for part, part_labels in zip(images.chunk(self.num_parts), labels.chunk(self.num_parts), strict=True):
            for hook in self.hooks:
                hook.before_forward()
            with self._autocast(), _explained() if self.compiles else nullcontext():
                loss = self.objective(self.forward, part, part_labels)
            if self.num_parts > 1:
                loss = loss * (len(part) / len(images))
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total

    def _update(self, step: int) -> None:
        for hook in self.hooks:
            hook.before_update(step)

        def after_clipping() -> None:
            for hook in self.hooks:
                hook.after_clipping(step)

        self.optimizer.update(after_clipping)
        for hook in self.hooks:
            hook.after_step(step)

    def _update_unscaled(self, scaler: Any, step: int) -> None:
        """As `_update`; where a gradient has overflowed, nothing moves and the next losses are scaled by less."""
        if self.optimizer.unscale(scaler):
            self._update(step)
        else:
            self.optimizer.forget_gradients()
        scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The scale of the loss, where it is scaled."""
        return {} if self.scaler is None else dict(self.scaler.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        if self.scaler is not None and state:
            self.scaler.load_state_dict(dict(state))

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.dtype is None else torch.autocast(self.device.type, dtype=self.dtype)


@contextmanager
def _explained() -> Iterator[None]:
    """What torch.compile says where its compiler is missing or fails, in a sentence."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RuntimeError(
            f"compile: torch.compile cannot compile this model here ({type(error).__name__}: {first}). It needs a C++ compiler "
            "(apt-get install g++, or the variable CXX) on a CPU and Triton on a GPU; or leave compile out"
        ) from error
