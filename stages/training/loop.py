"""The one training loop: every stage that trains calls `train`. Knows no method, no store and no engine.

The state after a step is a function of (settings, seed, step) alone: order and shifts are drawn from the step's number, rates
are pure functions of it, and a saved state holds everything else. So a run that is killed and goes on from its last saved
state ends, on a CPU, with the same bits as one that was never disturbed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.contract import Cancelled, StageContext, Throttle, TrainingDiverged
from stages.data.augmentation import shift_images
from stages.data.base import Batch, Dataset
from stages.ops.seeding import prepare_process, random_state, restore_random_state, seed_generators
from stages.ops.seeds import derive_seed
from stages.training.averaging import WeightAverage
from stages.training.hooks import TrainingHook
from stages.training.losses import Loss
from stages.training.optimizer import NamedOptimizer
from stages.training.parallel import ParallelGroup
from stages.training.schedules import Rates, rates_at
from stages.training.settings import TrainingSettings
from stages.training.state_file import read_state, write_state
from stages.training.step import OptimizerStep
from stages.training.tasks.base import Objective, Score, Task
from stages.training.tasks.classification import TASK as CLASSIFICATION

REPORT_INTERVAL_S = 0.25
GPU_LOSS_WINDOW = 20
"""Steps between readings of the loss on a GPU: reading it makes the processor wait."""


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """What came of a training run. `seconds` and `images_per_s` were read off a clock and cover this attempt only."""

    num_steps: int
    score: Score
    history: tuple[Mapping[str, float], ...]
    seconds: float
    images_per_s: float
    resumed_from_step: int | None

    @property
    def final_loss(self) -> float:
        """Mean training loss of the last epoch."""
        return float(self.history[-1]["loss"])


def train(
    model: nn.Module,
    *,
    data: Dataset,
    settings: TrainingSettings,
    context: StageContext,
    hooks: Sequence[TrainingHook] = (),
    loss: Loss | None = None,
    task: Task = CLASSIFICATION,
    compiles: bool = False,
) -> TrainingReport:
    """Train `model` in place; where the context has a saved state, go on from there.

    As one of several processes (see `ParallelGroup`) it trains on its share of each batch; all end with the same model, and
    the first saves the states.

    Args:
        model: changed in place, moved to the context's device, left in evaluation mode there. With `ema_decay` it ends with
            the averaged weights.
        data: trained on its train split, measured on its test split.
        settings: of the loop.
        context: gives seed, device, threads, saved states, progress and cancellation.
        hooks: what methods do inside the loop, called in this order.
        loss: (images, logits, labels) -> loss, in place of the task's own objective.
        task: what the model is for: gives the objective, and measures the model.
        compiles: whether the forward and backward pass in training go through torch.compile.

    Raises:
        TrainingDiverged: the loss or a weight stopped being finite.
        Cancelled: the stage was asked to stop; the state was saved first.
        ValueError: a setting does not fit the data, the device or the number of processes.
        RuntimeError: the model is to be compiled and cannot be, or torch.distributed is missing.
    """
    settings.refuse_workers(context.world_size)
    if settings.batch_size > data.train.num_samples:
        raise ValueError(
            f"batch_size {settings.batch_size} is larger than the training split of {data.train.num_samples} images"
        )
    return _Run(
        model, data=data, settings=settings, context=context, hooks=hooks, loss=loss, task=task, compiles=compiles
    ).run()


@dataclass(kw_only=True)
class _Progress:
    """What a run has gathered so far; saved with the state."""

    step: int = 0
    epoch_loss: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


class _Run:
    """One training run: owns the optimizer, the average and the progress while `train` lasts."""

    def __init__(
        self,
        model: nn.Module,
        *,
        data: Dataset,
        settings: TrainingSettings,
        context: StageContext,
        hooks: Sequence[TrainingHook],
        loss: Loss | None,
        task: Task,
        compiles: bool,
    ) -> None:
        self.device = prepare_process(context)
        self.layout = torch.channels_last if settings.channels_last else torch.preserve_format
        self.model = model.to(device=self.device, memory_format=self.layout)  # type: ignore[call-overload]
        self.group = ParallelGroup(context, device=self.device)
        self.data = data
        self.settings = settings
        self.context = context
        self.hooks = tuple(hooks)
        self.task = task
        self.optimizer = NamedOptimizer(model, hooks=hooks, settings=settings)
        self.update = OptimizerStep(
            model, optimizer=self.optimizer, settings=settings, hooks=self.hooks, group=self.group, device=self.device,
            objective=task.objective(model, settings) if loss is None else _from_loss(loss), compiles=compiles,
        )  # fmt: skip
        self.group.copy_first([*model.state_dict().values(), *self.optimizer.hook_parameters.values()])
        self.average = self._make_average()
        self.progress = _Progress()
        self.steps_per_epoch = data.train.num_samples // settings.batch_size
        self.total_steps = self.steps_per_epoch * settings.epochs
        self.pending: list[Tensor] = []  # losses not yet read from the device
        self.read_every = 1 if self.device.type == "cpu" else GPU_LOSS_WINDOW
        self.wants_stop = False
        self.stop: Tensor | None = None  # above 0 on the device: one of several processes wants to
        self.rates = Rates(0.0, 0.0)
        spec = data.input_spec
        black = -torch.tensor(spec.mean) / torch.tensor(spec.std)
        self.black = black.to(self.device) if bool(black.any()) else None

    def run(self) -> TrainingReport:
        resumed_from = self._restore()
        report_due, save_due = Throttle(REPORT_INTERVAL_S), _SaveClock(self.settings)
        start_s, first_step = time.monotonic(), self.progress.step
        score: Score | None = None
        batches: Iterator[Batch] = iter(())
        self.model.train()
        while self.progress.step < self.total_steps:
            self._save_if_cancelled()
            if self.progress.step == first_step or self.progress.step % self.steps_per_epoch == 0:
                batches = self._batches()
            self._step(next(batches))
            step = self.progress.step
            epoch_done = step % self.steps_per_epoch == 0
            self._stop_together()
            if epoch_done:
                score = self._finish_epoch()
                self._report_epoch(self.progress.history[-1])
            elif report_due.ready():
                self._report()
            if step < self.total_steps and save_due.ready(step):
                self._save()
        seconds = time.monotonic() - start_s
        if self.average is not None:
            self.average.copy_to_model()
        if self.settings.channels_last:
            self.model.to(memory_format=torch.contiguous_format)
        self.model.eval()
        # A run resumed right after its last step has not measured anything yet.
        score = score or self.task.evaluate(self.model, self.data.test, device=self.device)
        return TrainingReport(
            num_steps=self.total_steps,
            score=score,
            history=tuple(self.progress.history),
            seconds=seconds,
            images_per_s=(self.total_steps - first_step) * self.settings.batch_size / max(seconds, 1e-9),
            resumed_from_step=resumed_from,
        )

    def _step(self, batch: Batch) -> None:
        settings, step = self.settings, self.progress.step
        self.rates = rates_at(step, total_steps=self.total_steps, settings=settings)
        self.optimizer.set_rates(self.rates)
        for hook in self.hooks:
            hook.before_step(step, step / self.steps_per_epoch)
        if self.group.size > 1:
            # Dropout draws anew in each process, and as a function of the step: a saved state need not hold it for all.
            seed_generators(derive_seed(self.context.seed, "step", step, self.group.rank))
        images = batch.images.to(self.device, non_blocking=True)
        labels = batch.labels.to(self.device, non_blocking=True)
        images = shift_images(
            images,
            pixels=settings.shift_pixels,
            probability=settings.shift_probability,
            seed=derive_seed(self.context.seed, "shift", step),
            fill=self.black,
            rank=self.group.rank,
            world_size=self.group.size,
        ).to(memory_format=self.layout)
        loss, self.stop = self.update.take(images, labels, step=step, wants_stop=self.wants_stop)
        self.pending.append(loss)
        if self.average is not None:
            self.average.update()
        self.progress.step = step + 1
        if len(self.pending) >= self.read_every:
            self._read_losses()

    def _batches(self) -> Iterator[Batch]:
        """What is left of the running epoch."""
        epoch, done = divmod(self.progress.step, self.steps_per_epoch)
        return self.data.train.batches(
            batch_size=self.settings.batch_size // self.group.size,
            shuffle_seed=derive_seed(self.context.seed, "order", epoch),
            first_batch=done,
            drop_last=True,
            rank=self.group.rank,
            world_size=self.group.size,
        )

    def _finish_epoch(self) -> Score | None:
        """Write the epoch's line of the history; on some epochs, and the last, measure the model."""
        self._read_losses()
        self._refuse_lost_weights()
        progress, settings = self.progress, self.settings
        epoch = progress.step // self.steps_per_epoch
        line = {
            "epoch": epoch,
            "loss": progress.epoch_loss / self.steps_per_epoch,
            "learning_rate": self.rates.learning_rate,
            **{name: float(value) for hook in self.hooks for name, value in hook.metrics().items()},
        }
        progress.epoch_loss = 0.0
        score: Score | None = None
        if epoch % settings.evaluate_every_epochs == 0 or epoch == settings.epochs:
            score = self._measure()
            line[score.metric] = score.value
        progress.history.append(line)
        _log(f"epoch {epoch}/{settings.epochs}", *(f"{name} {value:.5g}" for name, value in line.items() if name != "epoch"))
        return score

    def _measure(self) -> Score:
        if self.average is None:
            return self.task.evaluate(self.model, self.data.test, device=self.device)
        with self.average.applied():
            return self.task.evaluate(self.model, self.data.test, device=self.device)

    def _read_losses(self) -> None:
        """Bring pending losses from the device; raises `TrainingDiverged` with the first step whose loss is not finite."""
        if not self.pending:
            return
        losses = [self.pending[0].item()] if len(self.pending) == 1 else torch.stack(self.pending).tolist()
        first = self.progress.step - len(losses)
        self.pending.clear()
        for offset, value in enumerate(losses):
            if not math.isfinite(value):
                raise self._divergence(step=first + offset, found=f"the loss is {value}")
            self.progress.epoch_loss += value

    def _refuse_lost_weights(self) -> None:
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise self._divergence(step=self.progress.step - 1, found=f"{name} holds NaN or infinity")

    def _divergence(self, *, step: int, found: str) -> TrainingDiverged:
        rate = rates_at(step, total_steps=self.total_steps, settings=self.settings).learning_rate
        return TrainingDiverged(
            f"training diverged at step {step} of {self.total_steps} (epoch {step / self.steps_per_epoch:.2f}): {found}, "
            f"learning rate {rate:.3g}. Try a lower learning_rate (now {self.settings.peak_learning_rate:.3g} at its peak), "
            f"a longer warmup, or a smaller max_gradient_norm (now {self.settings.max_gradient_norm})"
        )

    def _report_epoch(self, line: Mapping[str, float]) -> None:
        """Report an epoch by its line of the history, with a score only where it was measured then."""
        metrics = {name: value for name, value in line.items() if name != "epoch"}
        self.context.report(step=self.progress.step, total=self.total_steps, metrics=metrics, epoch=int(line["epoch"]))

    def _report(self) -> None:
        """Report where the running epoch stands, with the score measured last."""
        history, metrics = self.progress.history, {"learning_rate": self.rates.learning_rate}
        done = self.progress.step % self.steps_per_epoch
        if not self.pending:
            metrics["loss"] = self.progress.epoch_loss / done
        elif history:
            metrics["loss"] = history[-1]["loss"]
        measured = [line[self.task.metric] for line in history if self.task.metric in line]
        if measured:
            metrics[self.task.metric] = measured[-1]
        for hook in self.hooks:
            metrics.update(hook.metrics())
        self.context.report(step=self.progress.step, total=self.total_steps, metrics=metrics)

    def _make_average(self) -> WeightAverage | None:
        if self.settings.ema_decay is None:
            return None
        names = {name for hook in self.hooks for name in hook.names_not_averaged()}
        return WeightAverage(self.model, decay=self.settings.ema_decay, copied=names | self.optimizer.hook_parameters.keys())

    def _save_if_cancelled(self) -> None:
        try:
            self.context.check_cancelled()
        except Cancelled:
            if self.group.size > 1:
                self.wants_stop = True  # the others learn of it with the next step, or would wait for this one for ever
                return
            if self.progress.step:
                self._save()
            raise

    def _stop_together(self) -> None:
        """Where one of several processes was asked to stop, all do, after the same step."""
        if self.stop is not None and self.progress.step % self.read_every == 0 and float(self.stop) > 0:
            self._save()
            raise Cancelled

    def _save(self) -> None:
        if not self.group.is_first:
            return
        self._read_losses()
        self._refuse_lost_weights()
        self.context.checkpoints.save(self.progress.step, self._write)

    def _write(self, folder: Path) -> None:
        progress = self.progress
        state: dict[str, Any] = {
            "step": progress.step,
            "total_steps": self.total_steps,
            "epoch_loss": progress.epoch_loss,
            "history": progress.history,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "hooks": [dict(hook.state_dict()) for hook in self.hooks],
            "random": random_state(),
            "loss_scale": self.update.state_dict(),
            "average": self.average.state_dict() if self.average else None,
        }
        write_state(folder, state)

    def _restore(self) -> int | None:
        latest = self.context.checkpoints.latest() if self.group.is_first else None
        folder = self.group.copy_files(latest and latest[1], to=self.context.scratch / "state")
        if folder is None:
            return None
        state = read_state(folder)
        if state["total_steps"] != self.total_steps or len(state["hooks"]) != len(self.hooks):
            raise ValueError(
                f"{folder} is the state of another run: {state['total_steps']} steps and {len(state['hooks'])} hooks, "
                f"expected {self.total_steps} and {len(self.hooks)}"
            )
        self.model.load_state_dict(state["model"], strict=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.update.load_state_dict(state.get("loss_scale", {}))
        for hook, hook_state in zip(self.hooks, state["hooks"], strict=True):
            hook.load_state_dict(hook_state)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.progress = _Progress(step=state["step"], epoch_loss=state["epoch_loss"], history=state["history"])
        restore_random_state(state["random"])
        for line in self.progress.history:
            self._report_epoch(line)
        _log(f"goes on from step {self.progress.step} of {self.total_steps}")
        return int(state["step"])


class _SaveClock:
    """Says when the next state is due: by steps, by minutes, or by whichever comes first."""

    def __init__(self, settings: TrainingSettings) -> None:
        self._every_steps = settings.checkpoint_every_steps
        self._every_s = None if settings.checkpoint_every_minutes is None else settings.checkpoint_every_minutes * 60
        self._last_s = time.monotonic()

    def ready(self, step: int) -> bool:
        by_step = self._every_steps is not None and step % self._every_steps == 0
        by_time = self._every_s is not None and time.monotonic() - self._last_s >= self._every_s
        if by_step or by_time:
            self._last_s = time.monotonic()
        return by_step or by_time


def _from_loss(loss: Loss) -> Objective:
    return lambda forward, images, labels: loss(images, forward(images), labels)


def _log(*words: str) -> None:
    print(*words, sep="  ", flush=True)  # noqa: T201 - what a stage prints is its log
