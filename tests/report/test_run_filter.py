"""Which runs `ls` reads, and how many at once."""

from __future__ import annotations

import threading

from orchestrator.report.run_filter import parse_where, select_runs
from orchestrator.report.run_status import RunStatus
from orchestrator.store.ledger import RunRequest

REQUESTS = [RunRequest(id=f"r{number}", created="2026-01-01T00:00:00Z", content={"workflow": "w"}) for number in range(8)]


def status(run: str, state: str = "done") -> RunStatus:
    return RunStatus(id=run, created="", workflow="w", file="w.yaml", state=state, nodes={}, request={})


def test_runs_are_read_at_once_where_requests_travel() -> None:
    """A list of twenty runs would wait for sixty requests, one after the other."""
    together = threading.Barrier(4, timeout=60)

    def read(run: str) -> RunStatus:
        together.wait()
        return status(run)

    runs, has_more = select_runs(REQUESTS, [], read, limit=4, width=4)
    assert [run.id for run in runs] == ["r0", "r1", "r2", "r3"]
    assert has_more


def test_runs_that_are_chosen_by_their_events_come_in_order_up_to_the_limit() -> None:
    """Read at once, they must not come as they are answered."""
    failed = {"r1", "r4", "r6"}
    for width in (1, 3):
        runs, has_more = select_runs(
            REQUESTS, parse_where("status=failed"), lambda run: status(run, "failed" if run in failed else "done"),
            limit=2, width=width,
        )  # fmt: skip
        assert [run.id for run in runs] == ["r1", "r4"]
        assert has_more
