"""What training, compression and export ask of a task, and how to find one. Knows no method.

To add a task: a file with a `TASK`, and its line in `REGISTRY`, or an entry point of the group `orchestrator.tasks` (name = the
task's, value = "package.module:TASK"); and a network whose architecture names it (docs/adding-a-task.md).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from stages.data.base import Batch, Split
from stages.models.bundle import ModelBundle
from stages.training.settings import TrainingSettings

Objective = Callable[[Callable[..., Tensor], Tensor, Tensor], Tensor]
"""(forward pass of the model, images, labels) -> mean loss over the batch."""

REGISTRY: dict[str, str] = {
    "classification": "stages.training.tasks.classification:TASK",
    "image_to_image": "stages.training.tasks.restoration:TASK",
    "denoising": "stages.training.tasks.denoising:TASK",
}
"""Task -> "package.module:object", imported where a model is for it."""

ENTRY_POINT_GROUP = "orchestrator.tasks"


@dataclass(frozen=True, kw_only=True)
class Score:
    """How a model does on a split: `total` over `count` images. `total` is a whole number where it counts those done right."""

    metric: str
    total: float
    count: int

    @property
    def value(self) -> float:
        """Mean over the images."""
        return self.total / self.count

    @property
    def metrics(self) -> dict[str, float | int]:
        """What a stage reports of it."""
        right = {"num_correct": self.total} if isinstance(self.total, int) else {}
        return {self.metric: self.value, **right, "num_test": self.count}


@runtime_checkable
class Task(Protocol):
    """One task. Implementations keep no state."""

    @property
    def name(self) -> str:
        """As architectures name it."""

    @property
    def metric(self) -> str:
        """Name of the figure that `evaluate` gives."""

    def objective(self, model: nn.Module, settings: TrainingSettings) -> Objective:
        """What training minimises. It may draw from torch's own generator, whose state is saved with a run's.

        Raises:
            ValueError: a setting means nothing to the task.
        """

    def inputs(self, model: nn.Module, batch: Batch, *, seed: int) -> tuple[Tensor, ...]:
        """What the model is run on for these images and labels, to calibrate or to check it: the same for the same seed."""

    def evaluate(self, model: nn.Module, split: Split, *, device: str | torch.device = "cpu") -> Score:
        """How well the model does on `split`, in evaluation mode; the model's mode is put back afterwards."""


def find_task(name: str) -> Task:
    """Import the task called `name`.

    Raises:
        ValueError: there is none of this name, with the names there are, or what is called so is no task.
    """
    if name in REGISTRY:
        module, _, attribute = REGISTRY[name].partition(":")
        task = getattr(importlib.import_module(module), attribute)
    else:
        plugins = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
        if name not in plugins:
            raise ValueError(
                f"unknown task {name!r}; known: {', '.join(sorted({*REGISTRY, *plugins}))}. Install the package that adds it "
                f"(entry points {ENTRY_POINT_GROUP})"
            )
        task = plugins[name].load()
    if not isinstance(task, Task):
        members = "name, metric, objective, inputs and evaluate"
        raise ValueError(f"the task {name!r} is a {type(task).__name__}; expected {members}, as docs/adding-a-task.md says")  # noqa: TRY004
    return task


def task_of(bundle: ModelBundle) -> Task:
    """The task that a model is for."""
    return find_task(bundle.architecture.task)


def refuse_other_tasks(bundle: ModelBundle, *, stage: str, takes: str = "classification") -> None:
    """Raise ValueError where a stage takes models for one task and this one is for another."""
    found = bundle.architecture.task
    if found != takes:
        raise ValueError(f"{stage} takes models for {takes}; {bundle.architecture.name} is one for {found}")
