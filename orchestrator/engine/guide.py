"""What adds nodes to a run while it goes on, as the scheduler sees it: a search that proposes trials, for instance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from orchestrator.engine.scheduler import Scheduler


class Guide(Protocol):
    """Looks at a run and steers it. Called in the scheduler's own thread only, never from within itself."""

    def advance(self, scheduler: Scheduler) -> bool:
        """Add nodes, abandon groups, note what happened; called on every turn, so cheap where nothing has changed.

        Returns whether more may come, or is still to be recorded: the run does not end while this is true (unless it was
        stopped or has failed). Where nodes were added or have ended since the last call the next one follows at once, else
        within a quarter of a second. While a run is stopping it is called to record what ends; what is added is not started.
        """

    def look(self, scheduler: Scheduler) -> None:
        """Abandon groups, and nothing else: called from inside a stage that runs in the scheduler's thread."""


class NoGuide:
    """Adds nothing: the run is its first plan."""

    def advance(self, scheduler: Scheduler) -> bool:  # noqa: ARG002 - the protocol's
        return False

    def look(self, scheduler: Scheduler) -> None:
        """Want nothing stopped."""
