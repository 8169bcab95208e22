"""Running again on purpose, told from what stands by the record itself and by no clock."""

from __future__ import annotations

import pytest

from orchestrator import api
from orchestrator.engine import worker
from orchestrator.workflow.plan import Selection

NODES = "version: 1\nname: w\nnodes:\n  a: {stage: probe.echo, params: {value: 1}}\n"
AGAIN = Selection(rerun=("a",))


def record_run(workspace: api.Workspace) -> str:
    (record,) = workspace.artifacts.all_records()
    return record.run


@pytest.mark.parametrize("clock", ["2099-01-01T00:00:00.000Z", "2001-01-01T00:00:00.000Z"])
def test_a_rerun_makes_anew_what_a_machine_with_a_wrong_clock_has_made(run_text, workspace, monkeypatch, clock: str) -> None:
    """Somebody asked for it; that another machine's clock is an hour ahead must not turn it into a hit."""
    with monkeypatch.context() as patch:
        patch.setattr(worker, "now_text", lambda: clock)
        run_text(NODES)
    again = run_text(NODES, selection=AGAIN)
    assert again.status.nodes["a"].ending == "done"
    assert record_run(workspace) == again.run


@pytest.mark.parametrize("clock", ["2099-01-01T00:00:00.000Z", "2001-01-01T00:00:00.000Z"])
def test_two_reruns_at_once_share_whatever_their_clocks_say(run_text, plan_text, workspace, monkeypatch, clock: str) -> None:
    """Both asked for the same anew: the one that comes later uses what the other has just made."""
    run_text(NODES)
    late = plan_text(NODES, selection=AGAIN)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "now_text", lambda: clock)
        first = run_text(NODES, selection=AGAIN)
    second = api.submit(late, workspace=workspace, executor="inline")
    assert second.status.nodes["a"].ending == "shared"
    assert record_run(workspace) == first.run
