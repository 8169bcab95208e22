"""What a node will take and hold, by what nodes like it took and held. Where nothing like it was recorded it says so.

Nearest records decide: same stage, same model and data as far as both are known, on a GPU or not, with the fewest settings that
differ. Epochs and workers count apart: the seconds of a training with another number of them lie between the same and in
proportion.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.store.base import Store
from orchestrator.workflow.history import EFFORT, History, Subjects, Timing, effort_of, flat_settings
from orchestrator.workflow.plan import PlanNode
from orchestrator.workflow.spec import Resources

MAX_NEAREST = 20
MAX_COMPARED = 200
"""Of a stage, so many kinds of nodes are compared with every record; further ones with all of the same model and data."""

FAR = 3
"""From so many settings that differ, no record is nearer than another: all of the same model and data count."""


@dataclass(frozen=True)
class Estimate:
    """Seconds from `low_s` to `high_s`, in the middle `typical_s`; `num_records` is on how many attempts it rests."""

    low_s: float
    typical_s: float
    high_s: float
    num_records: int


@dataclass(frozen=True)
class PeakSeen:
    """The most that an attempt like this was seen to hold of a GPU that had `gpu_bytes`."""

    peak_bytes: int
    gpu_bytes: int


class Estimator:
    """Estimates for the nodes of one plan; each stage's history is read once, and equal nodes are looked up once."""

    def __init__(self, store: Store, nodes: Mapping[str, PlanNode]) -> None:
        """`nodes` by label are those of the plan; it may grow."""
        self.nodes = nodes
        self._history = History(store)
        self._subjects = Subjects()
        self._timings: dict[str, list[Timing]] = {}
        self._learned: dict[str, list[Timing]] = {}
        self._estimates: dict[object, Estimate | None] = {}
        self._num_compared: dict[str, int] = {}

    def estimate(self, node: PlanNode) -> Estimate | None:
        """Seconds that making the node will take; None where nothing like it was recorded."""
        subject, settings = self._subjects.of(node, self.nodes), flat_settings(node.identity)
        effort, resources = effort_of(node.settings), node.asked.resources
        held = (resources.cpus, resources.gpus > 0, resources.workers)
        kind = (node.spec.name, str(sorted(settings.items())), str(sorted(subject.items())), *held)
        if kind not in self._estimates:
            alike = [
                timing
                for timing in self._of_stage(node)
                if timing.seconds > 0 and (timing.gpus > 0) == (resources.gpus > 0) and _agree(timing.subject, subject)
            ]
            self._num_compared[node.spec.name] = number = self._num_compared.get(node.spec.name, 0) + 1
            nearest = _nearest(alike, settings, resources) if number <= MAX_COMPARED else alike
            self._estimates[kind] = _estimate(nearest[-MAX_NEAREST:], effort, workers=resources.workers)
        return self._estimates[kind]

    def gpu_peak(self, node: PlanNode) -> PeakSeen | None:
        """The most that nodes of the same stage, model, data and size of batch held of a GPU; None where none was recorded."""
        subject, batch = self._subjects.of(node, self.nodes), _batch_class(flat_settings(node.identity))
        seen = [
            timing
            for timing in self._of_stage(node)
            if timing.peak_gpu_bytes and _agree(timing.subject, subject) and _batch_class(timing.settings) == batch
        ]
        if not seen:
            return None
        most = max(seen, key=lambda timing: timing.peak_gpu_bytes)
        return PeakSeen(most.peak_gpu_bytes, most.gpu_bytes)

    def learn(self, stage: str, timing: Timing) -> None:
        """Count with what a run has just seen; where nothing of the stage was asked yet, it is read when it is."""
        self._learned.setdefault(stage, []).append(timing)

    def _of_stage(self, node: PlanNode) -> Sequence[Timing]:
        name = node.spec.name
        if name not in self._timings:
            self._timings[name] = self._history.read(node.spec)
        return [*self._timings[name], *self._learned.get(name, ())]


def _agree(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two subjects are the same as far as both are known."""
    return all(other.get(name, value) == value for name, value in one.items())


def _nearest(timings: Sequence[Timing], settings: Mapping[str, object], resources: Resources) -> list[Timing]:
    if not timings:
        return []
    distances = [_distance(timing, settings, resources) for timing in timings]
    least = min(distances)
    if least >= FAR:
        return list(timings)
    return [timing for timing, distance in zip(timings, distances, strict=True) if distance == least]


def _distance(timing: Timing, settings: Mapping[str, object], resources: Resources) -> int:
    names = (timing.settings.keys() | settings.keys()) - set(EFFORT)
    others = (timing.cpus != resources.cpus) + (timing.workers != resources.workers)
    return sum(bool(timing.settings.get(name) != settings.get(name)) for name in names) + others


def _estimate(timings: Sequence[Timing], effort: Mapping[str, float], *, workers: int) -> Estimate | None:
    if not timings:
        return None
    scaled = [(timing.seconds, timing.seconds * _ratio(timing.effort, effort) * timing.workers / workers) for timing in timings]
    return Estimate(
        low_s=min(min(pair) for pair in scaled),
        typical_s=statistics.median(pair[1] for pair in scaled),
        high_s=max(max(pair) for pair in scaled),
        num_records=len(timings),
    )


def _ratio(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    ratio = 1.0
    for name, value in now.items():
        if before.get(name, 0) > 0:
            ratio *= value / before[name]
    return ratio


def _batch_class(settings: Mapping[str, object]) -> int:
    """The size of the batch to a power of two, 0 for the stage's default."""
    found = [value for name, value in settings.items() if name.rpartition(".")[2] == "batch_size"]
    sizes = [value.bit_length() for value in found if isinstance(value, int)]
    return max(sizes, default=0)
