"""What a run learns of its nodes while it goes on: kept in the store's history, and heeded by what it still has to place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from orchestrator.engine.gpu_memory import GpuPeak
from orchestrator.engine.run_options import Event
from orchestrator.engine.units import Unit
from orchestrator.engine.work import Ending
from orchestrator.store.base import Store
from orchestrator.workflow.estimate import Estimator
from orchestrator.workflow.history import HistoryWriter
from orchestrator.workflow.plan import PlanNode
from stages.contract import Throttle

WRITE_EVERY_S = 30.0


class Learning:
    """Fed with the events of a run; `gpu_need` is asked by its scheduler."""

    def __init__(self, store: Store, *, run: str, began: str) -> None:
        self._nodes = _Nodes({})
        self._writer = HistoryWriter(store, run=run, began=began)
        self._estimator = Estimator(store, self._nodes)
        self._may_write = Throttle(WRITE_EVERY_S)
        self._may_write.ready()  # not at once: what ends in the first moments is written with the rest

    def watch(self, units: Mapping[str, Unit]) -> None:
        """The run's nodes; they may grow."""
        self._nodes.units = units

    def happened(self, events: Sequence[Event]) -> None:
        """Note what attempts took and held."""
        for event in events:
            is_made = event["type"] == "node_done" and event["ending"] == Ending.DONE.value
            if is_made or (event["type"] == "attempt_failed" and event.get("peak_gpu_bytes")):
                timing = self._writer.attempt_ended(
                    self._nodes[event["node"]],
                    self._nodes,
                    seconds=event["seconds"] if is_made else 0.0,
                    peak_gpu_bytes=event.get("peak_gpu_bytes", 0),
                    gpu_bytes=event.get("gpu_bytes", 0),
                )
                if timing.peak_gpu_bytes:
                    self._estimator.learn(self._nodes[event["node"]].spec.name, timing)
        if self._may_write.ready():
            self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.flush()

    def gpu_need(self, unit: Unit, _units: Mapping[str, Unit]) -> GpuPeak | None:
        """What nodes like this one were seen to hold of a GPU, in earlier runs and in this one."""
        seen = self._estimator.gpu_peak(unit.node)
        return GpuPeak(seen.peak_bytes, seen.gpu_bytes) if seen is not None else None


class _Nodes(Mapping[str, PlanNode]):
    """The nodes of units, by label, without a copy for each look."""

    def __init__(self, units: Mapping[str, Unit]) -> None:
        self.units = units

    def __getitem__(self, label: str) -> PlanNode:
        return self.units[label].node

    def __contains__(self, label: object) -> bool:
        return label in self.units

    def __iter__(self) -> Iterator[str]:
        return iter(self.units)

    def __len__(self) -> int:
        return len(self.units)
