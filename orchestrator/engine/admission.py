"""Which ready nodes may start now: our own account of what is held against what the machines offer.

Resources are counted here because the cluster's own figure lags behind, and machine by machine, because half of what a node
asks for on each of two is no place for it. Nodes that ask for the same are one queue, so that a plan of thousands costs no
scan; larger requests are looked at first, and one that has waited long is not overtaken.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.floor import GPU, Floor, Place, request_amounts, weight
from orchestrator.workflow.spec import Resources

MAX_OVERTAKEN_S = 60.0
MAX_STRANDED_S = 300.0
"""So long may machines that a node needs be away (a preempted one comes back, an autoscaler starts another)."""

Request = tuple[int, tuple[tuple[str, float], ...]]
"""Workers, and what each of them asks for, by resource name."""


class Admission:
    """Queues of ready nodes, and an account of what runs on each machine.

    `max_at_once` bounds how many run, `max_gpus` how many GPUs they hold; None where only the machines do.
    """

    def __init__(self, shapes: Sequence[MachineShape], *, max_at_once: int | None, max_gpus: float | None = None) -> None:
        self.max_at_once = max_at_once
        self.max_gpus = max_gpus
        self._queues: dict[Request, OrderedDict[str, float | None]] = {}  # label: since when it is first and does not fit
        self._queue_of: dict[str, Request] = {}
        self._held: dict[str, Place] = {}
        self._held_gpus = 0.0
        self._stranded_since: dict[Request, float] = {}
        self.update(shapes)

    def update(self, shapes: Sequence[MachineShape]) -> None:
        """Count with these machines from now on. What runs on one that is gone holds nothing; it will be told to have ended."""
        self.machines = tuple(shapes)
        self.floor = Floor(shapes)
        for place in self._held.values():
            self.floor.account(place, -1)

    def reason_infeasible(self, resources: Resources) -> str:
        """Why no machine could ever run this; empty if one can."""
        wanted, workers = request_amounts(resources), resources.workers
        if workers > 1 and self.max_at_once == 1:
            return f"it asks for {workers} workers, and there is one process; run it on Ray (--executor ray), or set workers: 1"
        if self.max_gpus is not None and (gpus := workers * wanted.get(GPU, 0.0)) > self.max_gpus:
            return f"it asks for {gpus:g} GPU, and this run may use {self.max_gpus:g} (--max-gpus)"
        return self.floor.reason_infeasible(wanted, workers=workers)

    @property
    def is_asked(self) -> bool:
        """Whether a node waits for a place."""
        return bool(self._queue_of)

    def stranded(self, now_s: float) -> list[str]:
        """Labels that are ready and that no machine could run any more since `MAX_STRANDED_S` seconds."""
        for request, queue in self._queues.items():
            workers, amounts = request
            if queue and not self.floor.could_give(dict(amounts), workers=workers):
                self._stranded_since.setdefault(request, now_s)
            else:
                self._stranded_since.pop(request, None)
        late = [request for request, since_s in self._stranded_since.items() if now_s - since_s > MAX_STRANDED_S]
        return [label for request in late for label in self._queues[request]]

    def add(self, label: str, resources: Resources) -> None:
        """Queue a node that is ready."""
        request = (resources.workers, tuple(sorted(request_amounts(resources).items())))
        if request not in self._queues:
            self._queues[request] = OrderedDict()
            self._queues = dict(sorted(self._queues.items(), key=lambda item: _weight(item[0]), reverse=True))
        self._queues[request][label] = None
        self._queue_of[label] = request

    def withdraw(self, label: str) -> None:
        """Take a node that is ready out of its queue."""
        del self._queues[self._queue_of.pop(label)][label]

    def room_for(self, requests: Iterable[Resources]) -> int:
        """How many nodes with the largest of these requests the machines hold at once; at least 1."""
        wanted = [(resources.workers, request_amounts(resources)) for resources in requests]
        bounds = [self.floor.places_for(amounts) // workers for workers, amounts in wanted]
        if self.max_gpus is not None:
            bounds += [int(self.max_gpus // (workers * amounts[GPU])) for workers, amounts in wanted if GPU in amounts]
        return max(1, min([*bounds, *filter(None, [self.max_at_once])], default=1))

    def admit(self, now_s: float) -> list[str]:
        """Labels that start now, their resources taken."""
        admitted: list[str] = []
        for (workers, amounts), queue in self._queues.items():
            wanted = dict(amounts)
            gpus = workers * wanted.get(GPU, 0.0)
            while queue and self._may_take(gpus) and (place := self.floor.take(wanted, workers=workers)) is not None:
                label, _ = queue.popitem(last=False)
                del self._queue_of[label]
                self._held[label] = place
                self._held_gpus += gpus
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
        place = self._held.pop(label)
        self._held_gpus -= sum(each.amounts.get(GPU, 0.0) for each in place.each)
        self.floor.account(place, +1)

    def _may_take(self, gpus: float) -> bool:
        if self.max_at_once is not None and len(self._held) >= self.max_at_once:
            return False
        return self.max_gpus is None or self._held_gpus + gpus <= self.max_gpus + 1e-9


def _weight(request: Request) -> tuple[float, ...]:
    workers, amounts = request
    return tuple(workers * amount for amount in weight(dict(amounts)))
