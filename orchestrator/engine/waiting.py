"""Nodes that are looked at again later: those that another run is making, and those that will be tried again after a wait.

Knows the store and leases, by which it tells what became of another run's work; decides nothing about what then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from orchestrator.engine.units import State, Unit
from orchestrator.store.artifacts import Record
from orchestrator.store.lease import Holder

FIRST_BUSY_WAIT_S = 0.03125
MAX_BUSY_WAIT_S = 1.0


class FinishedArtifacts(Protocol):
    """The look into a store: `Artifacts`, or a simulated one."""

    def find(self, stage: str, key: str, /) -> Record | None: ...


class OthersLeases(Protocol):
    """The look at what other runs hold: `Leases`, or simulated ones."""

    def holder(self, key: str, /) -> Holder | None: ...

    def stale_version(self, key: str, /) -> str: ...


class WaitingNodes:
    """Units by label, each with the moment at which it is due."""

    def __init__(self, *, artifacts: FinishedArtifacts, leases: OthersLeases, clock: Callable[[], float]) -> None:
        self._artifacts = artifacts
        self._leases = leases
        self._clock = clock
        self._units: dict[str, Unit] = {}

    def __bool__(self) -> bool:
        return bool(self._units)

    def delay(self, unit: Unit, delay_s: float) -> None:
        """Try it again after a wait."""
        self._put(unit, State.DELAYED, delay_s)

    def await_other(self, unit: Unit) -> None:
        """Look again soon whether the other run that makes it has made it; ever later where it takes long."""
        unit.busy_wait_s = min(MAX_BUSY_WAIT_S, (unit.busy_wait_s or FIRST_BUSY_WAIT_S) * 2)
        self._put(unit, State.BUSY, unit.busy_wait_s)

    def drop(self, label: str) -> None:
        """Wait no longer, if it did."""
        self._units.pop(label, None)

    def take_due(self) -> list[tuple[Unit, Record | None]]:
        """Units whose time has come, with what another run has made meanwhile; None: it is to be tried here."""
        now_s = self._clock()
        due: list[tuple[Unit, Record | None]] = []
        for unit in [unit for unit in self._units.values() if unit.wake_at <= now_s]:
            record = None
            if unit.state is State.BUSY:
                record = self._artifacts.find(unit.node.spec.name, unit.node.key)
                if record is None or unit.makes_anew(record):
                    record = None
                    unit.stale_lease = self._leases.stale_version(unit.node.key)
                    if not unit.stale_lease and self._leases.holder(unit.node.key) is not None:
                        self.await_other(unit)
                        continue
            del self._units[unit.label]
            due.append((unit, record))
        return due

    def timeout_s(self, most_s: float) -> float:
        """Seconds until the first is due, at most so many."""
        if not self._units:
            return most_s
        return min(most_s, max(0.0, min(unit.wake_at for unit in self._units.values()) - self._clock()))

    def _put(self, unit: Unit, state: State, delay_s: float) -> None:
        if unit.state is not state:
            unit.become(state)
        unit.wake_at = self._clock() + delay_s
        self._units[unit.label] = unit
