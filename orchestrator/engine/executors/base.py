"""The narrow edge between the scheduler and wherever nodes run. An executor runs what it is given and reports endings; it
decides nothing: no retries, no order, no admission.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.engine.work import Outcome, Work
from orchestrator.workflow.spec import Resources

UNBOUNDED_BYTES = 2**60
"""Memory of a machine of which nobody has said how much it has."""


@dataclass(frozen=True, kw_only=True)
class MachineShape:
    """What one machine offers. `name` tells it from others of the same shape.

    One that `is_expected` is not there yet: an autoscaler will start it for whoever waits for a place.
    """

    name: str = ""
    is_expected: bool = False
    cpus: float
    gpus: float = 0
    memory_bytes: int = 0
    gpu_memory_bytes: int = 0  # of each GPU; 0: not known
    custom: Mapping[str, float] = field(default_factory=dict)


class Executor(Protocol):
    """Runs nodes. `max_at_once` bounds how many, whatever their resources; None means that only resources do."""

    name: str
    max_at_once: int | None
    dashboard: tuple[str, str]
    """Address of a page that shows the machines, once started, and the file with the token it asks for; else empty."""

    def start(self) -> tuple[MachineShape, ...]:
        """Make ready and say what machines there are; raises ClusterError."""

    def machines(self) -> tuple[MachineShape, ...]:
        """What machines there are now: the very same tuple as long as none has come or gone."""

    def submit(self, work: Work, resources: Resources) -> None:
        """Begin an attempt; returns at once."""

    def poll(self, timeout_s: float, *, meanwhile: Callable[[], None]) -> list[tuple[Work, Outcome]]:
        """Attempts that have ended, waiting up to `timeout_s` for the first; raises ClusterError if the machines are gone.

        An executor that runs a node inside this very call calls `meanwhile` now and then, where the node may be stopped; it
        may come back as `cancel`. Others ignore it.
        """

    def show(self, count_states: Callable[[], Mapping[str, int]], *, is_final: bool = False) -> None:
        """Where the nodes stand, a few times a second, for whoever watches the machines (Ray's metrics)."""

    def cancel(self, label: str) -> None:
        """Ask the node's stage to stop at its next safe point."""

    def kill(self, label: str) -> None:
        """End the node's process; its attempt then ends as LOST."""

    def close(self) -> None:
        """Stop everything; leaves no process behind."""
