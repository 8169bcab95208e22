"""Which ready nodes may start now: our own account of what is held against what the machines offer.

Resources are counted here because the cluster's own figure lags behind, and machine by machine, because half of what a node
asks for on each of two is no place for it. Nodes that ask for the same are one queue, so that a plan of thousands costs no
scan; larger requests are looked at first, and one that has waited long is not overtaken.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.engine.executors.base import MachineShape
from orchestrator.workflow.spec import Resources

MAX_OVERTAKEN_S = 60.0
MAX_STRANDED_S = 300.0
"""So long may machines that a node needs be away (a preempted one comes back, an autoscaler starts another)."""
_EPSILON = 1e-9

Amounts = dict[str, float]
Request = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class _Place:
    """What one node holds, and of which machine."""

    machine: str
    amounts: Amounts


class Admission:
    """Queues of ready nodes, and an account of what runs on each machine."""

    def __init__(self, shapes: Sequence[MachineShape], *, max_at_once: int | None) -> None:
        self.max_at_once = max_at_once
        self._queues: dict[Request, OrderedDict[str, float | None]] = {}  # label: since when it is first and does not fit
        self._queue_of: dict[str, Request] = {}
        self._held: dict[str, _Place] = {}
        self._stranded_since: dict[Request, float] = {}
        self.update(shapes)

    def update(self, shapes: Sequence[MachineShape]) -> None:
        """Count with these machines from now on. What runs on one that is gone holds nothing; it will be told to have ended."""
        self.machines = tuple(shapes)
        self.shapes = {shape.name or str(number): shape_amounts(shape) for number, shape in enumerate(shapes)}
        self._free = {name: dict(amounts) for name, amounts in self.shapes.items()}
        for place in self._held.values():
            self._account(place, -1)

    def reason_infeasible(self, resources: Resources) -> str:
        """Why no machine could ever run this; empty if one can."""
        wanted = request_amounts(resources)
        if any(_fits(wanted, shape) for shape in self.shapes.values()):
            return ""
        offers = "; ".join(dict.fromkeys(_describe(shape) for shape in self.shapes.values())) or "no machine"
        return f"it asks for {_describe(wanted)}, and there is {offers}"

    @property
    def is_asked(self) -> bool:
        """Whether a node waits for a place."""
        return bool(self._queue_of)

    def stranded(self, now_s: float) -> list[str]:
        """Labels that are ready and that no machine could run any more since `MAX_STRANDED_S` seconds."""
        for amounts, queue in self._queues.items():
            if queue and not any(_fits(dict(amounts), shape) for shape in self.shapes.values()):
                self._stranded_since.setdefault(amounts, now_s)
            else:
                self._stranded_since.pop(amounts, None)
        late = [amounts for amounts, since_s in self._stranded_since.items() if now_s - since_s > MAX_STRANDED_S]
        return [label for amounts in late for label in self._queues[amounts]]

    def add(self, label: str, resources: Resources) -> None:
        """Queue a node that is ready."""
        amounts = tuple(sorted(request_amounts(resources).items()))
        if amounts not in self._queues:
            self._queues[amounts] = OrderedDict()
            self._queues = dict(sorted(self._queues.items(), key=lambda item: _weight(dict(item[0])), reverse=True))
        self._queues[amounts][label] = None
        self._queue_of[label] = amounts

    def withdraw(self, label: str) -> None:
        """Take a node that is ready out of its queue."""
        del self._queues[self._queue_of.pop(label)][label]

    def room_for(self, requests: Iterable[Resources]) -> int:
        """How many nodes with the largest of these requests the machines hold at once; at least 1."""
        places = [self._places(request_amounts(resources)) for resources in requests]
        return max(1, min([*places, *filter(None, [self.max_at_once])], default=1))

    def _places(self, wanted: Amounts) -> int:
        return sum(
            min(int((shape.get(name, 0.0) + _EPSILON) // amount) for name, amount in wanted.items())
            for shape in self.shapes.values()
        )

    def admit(self, now_s: float) -> list[str]:
        """Labels that start now, their resources taken."""
        admitted: list[str] = []
        for amounts, queue in self._queues.items():
            wanted = dict(amounts)
            while queue and self._has_place() and (machine := self._machine_for(wanted)) is not None:
                label, _ = queue.popitem(last=False)
                del self._queue_of[label]
                self._held[label] = _Place(machine, wanted)
                self._account(self._held[label], -1)
                admitted.append(label)
            if queue:
                label, since_s = next(iter(queue.items()))
                if since_s is None:
                    queue[label] = now_s
                elif now_s - since_s > MAX_OVERTAKEN_S:
                    break  # leave what becomes free to this one
        return admitted

    def release(self, label: str) -> None:
        """Give back what a node held."""
        self._account(self._held.pop(label), +1)

    def _has_place(self) -> bool:
        return self.max_at_once is None or len(self._held) < self.max_at_once

    def _machine_for(self, wanted: Amounts) -> str | None:
        """The machine with the least to spare that has room: large requests find room elsewhere, GPUs are left to who asks."""
        fitting = [
            (free.get("GPU", 0.0), free.get("CPU", 0.0), name) for name, free in self._free.items() if _fits(wanted, free)
        ]
        return min(fitting)[2] if fitting else None

    def _account(self, place: _Place, sign: int) -> None:
        free = self._free.get(place.machine)
        if free is not None:
            for name, amount in place.amounts.items():
                free[name] = free.get(name, 0.0) + sign * amount


def request_amounts(resources: Resources) -> Amounts:
    """The request by resource name, what is not asked for left out."""
    amounts = {"CPU": float(resources.cpus), "GPU": float(resources.gpus), "memory": float(resources.memory or 0)}
    return {name: amount for name, amount in {**amounts, **resources.custom}.items() if amount > 0}


def shape_amounts(shape: MachineShape) -> Amounts:
    """What a machine offers, by resource name."""
    return {"CPU": shape.cpus, "GPU": shape.gpus, "memory": float(shape.memory_bytes), **shape.custom}


def _fits(wanted: Amounts, free: Amounts) -> bool:
    return all(free.get(name, 0.0) + _EPSILON >= amount for name, amount in wanted.items())


def _weight(amounts: Amounts) -> tuple[float, float, float]:
    return (amounts.get("GPU", 0.0), amounts.get("CPU", 0.0), amounts.get("memory", 0.0))


def _describe(amounts: Amounts) -> str:
    texts = [
        f"{amount / 2**30:.1f} GiB of memory" if name == "memory" else f"{amount:g} {name}"
        for name, amount in amounts.items()
        if amount
    ]
    return ", ".join(texts) or "nothing"
