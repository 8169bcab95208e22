"""Learning rate and momentum as pure functions of the step: nothing to save, nothing to restore. Knows no tensor library."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stages.training.settings import TrainingSettings

ONECYCLE_START = 1 / 25
ONECYCLE_END = 1e-4 / 25
ONECYCLE_MOMENTUM = (0.85, 0.95)


@dataclass(frozen=True)
class Rates:
    """What the optimizer uses in one step."""

    learning_rate: float
    momentum: float


def rates_at(step: int, *, total_steps: int, settings: TrainingSettings) -> Rates:
    """Learning rate and momentum of step `step`, counted from 0.

    onecycle: with p = warmup * total - 1 and cosine interpolation, lr/25 -> lr over steps 0..p, then lr -> lr/250,000 over
    p..total-1; momentum goes the other way between 0.95 and 0.85. The others rise linearly over warmup * total steps
    (lr * (step+1)/(warm steps)), then with x = share of the remaining steps done: cosine lr * (1 + cos(pi x)) / 2, linear
    lr * (1 - x), constant lr; steps lr / 10^n after n of the shares `decay_at` of all steps.

    Source: Smith and Topin 2017, arXiv 1708.07120; numbers as in `torch.optim.lr_scheduler.OneCycleLR`.
    Departs where the rise would be shorter than one step: it is left out.
    """
    if settings.schedule == "onecycle":
        return _onecycle(step, total_steps=total_steps, settings=settings)
    warm_steps = int(settings.warmup * total_steps)
    if step < warm_steps:
        factor = (step + 1) / warm_steps
    elif settings.schedule == "steps":
        factor = 0.1 ** sum(step >= round(share * total_steps, 9) for share in settings.decay_at)
    else:
        done = (step - warm_steps) / max(1, total_steps - warm_steps)
        factor = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}[settings.schedule]
    return Rates(settings.peak_learning_rate * factor, settings.momentum)


def _onecycle(step: int, *, total_steps: int, settings: TrainingSettings) -> Rates:
    low, high = ONECYCLE_MOMENTUM
    peak = settings.warmup * total_steps - 1
    if peak > 0 and step <= peak:
        done, start, end, momentum = step / peak, ONECYCLE_START, 1.0, (high, low)
    else:
        begin = max(peak, 0.0)
        done, start, end, momentum = (step - begin) / max(1e-9, total_steps - 1 - begin), 1.0, ONECYCLE_END, (low, high)
    return Rates(settings.peak_learning_rate * _cosine(start, end, done), _cosine(*momentum, done))


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(done, 1.0))) / 2
