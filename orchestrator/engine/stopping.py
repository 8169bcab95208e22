"""Asking stages to stop, and ending those that do not: a run that is cancelled, a node past its timeout or that nobody wants.

Every stage is asked first and has the grace time to save; then its process is ended. Starts nothing and decides no state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from orchestrator.engine.executors.base import Executor
from orchestrator.engine.units import Unit


class Stopping:
    """Stops through the executor. `cancelled_at`: since when the whole run is being stopped, None while it is not."""

    def __init__(
        self,
        executor: Executor,
        *,
        clock: Callable[[], float],
        grace_s: float,
        grace_asked_s: Callable[[], float | None],
        is_cancel_asked: Callable[[], bool],
    ) -> None:
        self.cancelled_at: float | None = None
        self._executor = executor
        self._clock = clock
        self._grace_s = grace_s
        self._grace_asked_s = grace_asked_s
        self._is_cancel_asked = is_cancel_asked
        self._has_killed = False

    def heed_cancel(self, running: Mapping[str, Unit]) -> bool:
        """Ask all to stop once the run is to be cancelled, and end them when the grace is over; true the first time."""
        is_new = self.cancelled_at is None and self._is_cancel_asked()
        if is_new:
            self.cancelled_at = self._clock()
            for label in running:
                self._executor.cancel(label)
        if self.cancelled_at is not None and not self._has_killed:
            asked_s = self._grace_asked_s()
            if self._clock() - self.cancelled_at > (self._grace_s if asked_s is None else asked_s):
                self._has_killed = True
                for label in running:
                    self._executor.kill(label)
        return is_new

    def drop(self, unit: Unit) -> None:
        """Nobody wants what the unit is making."""
        unit.unwanted_at = self._clock()
        self._executor.cancel(unit.label)

    def stop_overdue(self, running: Iterable[Unit]) -> None:
        """Ask what is past its timeout, and end what was asked and does not stop."""
        now_s = self._clock()
        for unit in running:
            timeout_s = unit.node.asked.timeout
            if timeout_s is None and unit.unwanted_at is None:
                continue
            if timeout_s is not None and unit.stop_asked_at is None and now_s - unit.started_at > timeout_s:
                unit.stop_asked_at = now_s
                self._executor.cancel(unit.label)
            asked_at = [at for at in (unit.stop_asked_at, unit.unwanted_at) if at is not None]
            if asked_at and now_s - min(asked_at) > self._grace_s:
                self._executor.kill(unit.label)
