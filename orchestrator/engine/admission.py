"""Which ready nodes may start now: our own account of what is held against what the machines offer.

Resources are counted here because the cluster's own figure lags behind. Nodes that ask for the same are one queue, so that
a plan of thousands costs no scan; larger requests are looked at first, and one that has waited long is not overtaken.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from orchestrator.engine.executors.base import MachineShape
from orchestrator.workflow.spec import Resources

MAX_OVERTAKEN_S = 60.0
_EPSILON = 1e-9

Amounts = dict[str, float]
Request = tuple[tuple[str, float], ...]


class Admission:
    """Queues of ready nodes and an account of what runs. One account for all machines; each request fits one of them."""

    def __init__(self, shapes: Sequence[MachineShape], *, max_at_once: int | None) -> None:
        self.machines = tuple(shapes)
        self.shapes = [_shape_amounts(shape) for shape in shapes]
        self.max_at_once = max_at_once
        self._free: Amounts = {}
        for shape in self.shapes:
            for name, amount in shape.items():
                self._free[name] = self._free.get(name, 0.0) + amount
        self._queues: dict[Request, OrderedDict[str, float | None]] = {}  # label: since when it is first and does not fit
        self._queue_of: dict[str, Request] = {}
        self._held: dict[str, Amounts] = {}

    def reason_infeasible(self, resources: Resources) -> str:
        """Why no machine could ever run this; empty if one can."""
        wanted = request_amounts(resources)
        if any(_fits(wanted, shape) for shape in self.shapes):
            return ""
        offers = "; ".join(_describe(shape) for shape in self.shapes) or "no machine"
        return f"it asks for {_describe(wanted)}, and there is {offers}"

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
            min(int((shape.get(name, 0.0) + _EPSILON) // amount) for name, amount in wanted.items()) for shape in self.shapes
        )

    def admit(self, now_s: float) -> list[str]:
        """Labels that start now, their resources taken."""
        admitted: list[str] = []
        for amounts, queue in self._queues.items():
            wanted = dict(amounts)
            while queue and self._has_place() and _fits(wanted, self._free):
                label, _ = queue.popitem(last=False)
                del self._queue_of[label]
                self._take(label, wanted)
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
        for name, amount in self._held.pop(label).items():
            self._free[name] += amount

    def _has_place(self) -> bool:
        return self.max_at_once is None or len(self._held) < self.max_at_once

    def _take(self, label: str, wanted: Amounts) -> None:
        self._held[label] = wanted
        for name, amount in wanted.items():
            self._free[name] -= amount


def request_amounts(resources: Resources) -> Amounts:
    """The request by resource name, what is not asked for left out."""
    amounts = {"CPU": float(resources.cpus), "GPU": float(resources.gpus), "memory": float(resources.memory or 0)}
    return {name: amount for name, amount in {**amounts, **resources.custom}.items() if amount > 0}


def _shape_amounts(shape: MachineShape) -> Amounts:
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
