"""Progress of running nodes: steps, pace and time left, from the files that workers append to."""

from __future__ import annotations

import io
import time

import pytest

from orchestrator import api
from orchestrator.report.live import LiveBlock
from orchestrator.report.progress import ProgressReader
from orchestrator.report.run_status import NodeStatus, RunStatus
from orchestrator.report.status_table import node_word, progress_text


def a_run(workspace: api.Workspace, *, num_nodes: int = 1) -> RunStatus:
    nodes = {
        f"node{index}": NodeStatus(f"node{index}", "node", "probe.sleep", f"{index:032x}", "running", attempt=1)
        for index in range(num_nodes)
    }
    return RunStatus(id="abcdefgh", created="", workflow="w", file="w.yaml", state="running", nodes=nodes, request={})


def report(workspace: api.Workspace, status: RunStatus, label: str, *, attempt: int, step: int, **metrics: float) -> None:
    folder = status.nodes[label].folder
    workspace.ledger.write_progress(status.id, folder, attempt=attempt, step=step, total=100, metrics=metrics)


def test_time_left_follows_the_pace_of_this_attempt(workspace: api.Workspace) -> None:
    status = a_run(workspace)
    reader = ProgressReader(workspace.ledger, status.id)
    assert reader.read(status) == {}
    report(workspace, status, "node0", attempt=1, step=10, loss=0.5)
    assert reader.read(status)["node0"].seconds_left is None
    time.sleep(0.1)
    report(workspace, status, "node0", attempt=1, step=20, loss=0.25)
    found = reader.read(status)["node0"]
    assert found.seconds_left is not None
    assert 0.7 < found.seconds_left < 4  # ten steps took a tenth of a second, eighty are left
    assert progress_text(found).startswith("step 20/100 (20%), loss 0.25, ")


def test_a_new_attempt_begins_anew(workspace: api.Workspace) -> None:
    status = a_run(workspace)
    reader = ProgressReader(workspace.ledger, status.id)
    report(workspace, status, "node0", attempt=1, step=90)
    reader.read(status)
    status.nodes["node0"].attempt = 2
    assert reader.read(status) == {}, "progress of the attempt before is no progress of this one"
    report(workspace, status, "node0", attempt=2, step=40)
    assert reader.read(status)["node0"].step == 40


def test_accuracy_stands_for_progress_before_loss(workspace: api.Workspace) -> None:
    status = a_run(workspace)
    report(workspace, status, "node0", attempt=1, step=1, loss=0.5, top1_accuracy=0.98765)
    assert ProgressReader(workspace.ledger, status.id).read(status)["node0"].metric == "top1 0.9877"


def test_the_live_block_never_outgrows_the_terminal(workspace: api.Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")  # a dumb terminal, as in CI, gets no live block
    status = a_run(workspace, num_nodes=100)
    file = io.StringIO()
    block = LiveBlock(file, ProgressReader(workspace.ledger, status.id), status, is_coloured=False)
    block.print(["DONE    a  1.0s"])
    block.close()
    text = file.getvalue()
    assert "DONE    a  1.0s" in text
    frame = text.split("run abcdefgh")[1]
    assert "more" in frame
    assert frame.count("RUN  ") < 24


def test_what_an_ended_run_never_reached_is_not_waiting(workspace: api.Workspace) -> None:
    status = a_run(workspace)
    node = status.nodes["node0"]
    status.end_without_word()
    assert node_word(node, status) == "CANCEL"
    status.state, node.state = "failed", "planned"
    assert node_word(node, status) == "SKIP"
    status.state, node.state, node.ending = "done", "done", "shared"
    assert node_word(node, status) == "SHARED"


@pytest.mark.parametrize("columns", ["120", "80"])
def test_where_gpus_are_the_live_block_tells_their_hours_and_memory(
    workspace: api.Workspace, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """Half an hour of two GPUs that was made, as long on one that failed, and 12 GiB in a node that runs."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", columns)
    status = a_run(workspace, num_nodes=3)
    for node in status.nodes.values():
        node.state = "planned"
    failure = {"error": "", "error_type": "", "trace": "", "ending": "lost", "attempt": 1, "seconds": 1800.0}
    status.apply([
        {"type": "node_started", "node": "node0", "attempt": 1, "gpus": 2.0},
        {"type": "node_done", "node": "node0", "seconds": 1800.0, "metrics": {}, "ending": "done"},
        {"type": "node_started", "node": "node1", "attempt": 1, "gpus": 1.0},
        {"type": "attempt_failed", "node": "node1", **failure},
        {"type": "node_failed", "node": "node1", **failure},
        {"type": "node_started", "node": "node2", "attempt": 1, "gpus": 0.5},
    ])  # fmt: skip
    workspace.ledger.write_progress(
        status.id, status.nodes["node2"].folder, attempt=1, step=40, total=100, metrics={"loss": 0.5}, gpu_bytes=12 * 2**30
    )
    file = io.StringIO()
    block = LiveBlock(file, ProgressReader(workspace.ledger, status.id), status, is_coloured=False)
    block.close()
    text = file.getvalue()
    assert "1.50 GPU-h" in text
    assert "12.0 GiB" in text
    assert "loss 0.5" in text
    found = ProgressReader(workspace.ledger, status.id).read(status)["node2"]
    assert progress_text(found) == "step 40/100 (40%), loss 0.5, GPU 12.0 GiB"


def test_without_gpus_nothing_is_said_of_them(workspace: api.Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    status = a_run(workspace)
    report(workspace, status, "node0", attempt=1, step=10, loss=0.5)
    file = io.StringIO()
    LiveBlock(file, ProgressReader(workspace.ledger, status.id), status, is_coloured=False).close()
    assert "GPU" not in file.getvalue()
