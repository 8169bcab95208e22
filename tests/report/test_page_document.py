"""The data of a report: true of runs that are done, failed, stopped, still going on, or found everything there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator import api
from orchestrator.engine.scheduler import RunOptions
from orchestrator.report.page.attempts import lanes, run_attempts
from orchestrator.report.page.curves import thinned
from orchestrator.report.page.document import report_document
from orchestrator.report.page.sources import read_sources
from orchestrator.report.page.text_forms import csv_form, markdown
from orchestrator.report.sweep_table import cost_text
from orchestrator.store.ledger import now_text
from tests.cli.cli_calls import CHAIN, LOSING

FAILING = """
version: 1
name: failing
nodes:
  fine: {stage: probe.echo, params: {value: 1}}
  broken: {stage: probe.fail, inputs: {inputs: [fine]}, params: {failures: 9}}
  below: {stage: probe.echo, inputs: {inputs: [broken]}}
"""

SEARCH = """
version: 1
name: searching
nodes:
  base: {stage: probe.echo, params: {value: 0.5}}
  search:
    sweep:
      trials: 6
      sampler: random
      objectives: {score.value: maximize, draw.value: minimize}
      constraints: [{metric: score.value, min: 0.2}, {metric: draw.value, max_drop: 2, versus: base.value}]
      space: {score.value: {uniform: [0, 1]}, draw.value: {choice: [1, 2, 3]}}
    nodes:
      draw: {stage: probe.echo, inputs: {inputs: [base]}}
      score: {stage: probe.echo, inputs: {inputs: [draw]}}
  after: {stage: probe.echo, inputs: {inputs: [search.best.score]}}
"""


def document_of(workspace: api.Workspace, run: str) -> dict[str, Any]:
    document = report_document(read_sources(workspace.store, run, now=now_text()))
    json.dumps(document, allow_nan=False)
    return document


class Meanwhile(api.Watcher):
    """Reads the report when the first node is done; asks the run to stop where it is told to."""

    def __init__(self, workspace: api.Workspace, *, stops: bool = False) -> None:
        self.workspace, self.stops, self.seen = workspace, stops, None

    def happened(self, events, status) -> None:
        if self.seen is None and any(event["type"] == "node_done" for event in events):
            self.seen = document_of(self.workspace, status.id)
            if self.stops:
                self.workspace.ledger.ask_to_cancel(status.id)


def test_a_done_run_says_what_it_made_and_how_to_fetch_it(run_text, workspace):
    result = run_text(CHAIN)
    document = document_of(workspace, result.run)
    assert document["run"]["state"] == "done"
    assert [node["word"] for node in document["nodes"]] == ["DONE"] * 4
    (file,) = document["verdict"]["files"]
    assert file["label"] == "last"
    assert file["command"] == f"orchestrator artifacts get {file['key'][:8]} ./last"
    assert document["graph"]["edges"] == [["first", "middle"], ["middle", "last"]]
    middle = next(node for node in document["graph"]["nodes"] if node["node"] == "middle")
    assert middle["words"] == {"DONE": 2}
    assert [each["label"] for each in document["lineage"]][-1] == "last"
    assert document["reproduce"]["command"] == "orchestrator submit w.yaml --executor inline"
    assert document["reproduce"]["text"].strip() == CHAIN.strip()
    assert document["failures"]["attempts"] == []


def test_the_seconds_of_the_report_are_those_of_the_ledger(run_text, workspace):
    result = run_text(CHAIN)
    cost = document_of(workspace, result.run)["cost"]
    spent_s = sum(node.seconds for node in result.status.nodes.values())
    assert cost["spent_s"] == pytest.approx(spent_s)
    assert cost["wasted_s"] == cost["avoided_by_hits_s"] == cost["avoided_by_sharing_s"] == 0
    again = document_of(workspace, run_text(CHAIN).run)["cost"]
    assert again["spent_s"] == 0
    assert again["avoided_by_hits_s"] == pytest.approx(spent_s, abs=1e-3)
    assert again["saving"] == 1.0


def test_gpu_seconds_are_those_of_all_workers(plan_text, workspace):
    text = (
        "version: 1\nname: w\nnodes:\n"
        "  a: {stage: pretrain.classifier, params: {model: cnn_micro, data: digits}, resources: {workers: 4, gpus: 1}}\n"
    )
    run = api.enqueue(plan_text(text), workspace=workspace, address="http://head:8265")
    done = {"type": "node_done", "node": "a", "ending": "done", "seconds": 10.0, "metrics": {}}
    started = {"type": "node_started", "node": "a", "attempt": 1, "gpus": 4.0}
    workspace.ledger.write(run, [{"type": "run_started"}, started, done, {"type": "run_finished", "state": "done"}])
    assert document_of(workspace, run)["cost"]["gpu_spent_s"] == 40.0


def test_what_two_nodes_share_is_paid_once_and_avoided_once(run_text, workspace):
    twins = "version: 1\nname: twins\nnodes:\n  one: {stage: probe.echo}\n  other: {stage: probe.echo}\n"
    cost = document_of(workspace, run_text(twins).run)["cost"]
    assert {row["node"]: (row["made"], row["shared"]) for row in cost["nodes"]} == {"one": (1, 0), "other": (0, 1)}
    assert cost["avoided_by_sharing_s"] == pytest.approx(cost["spent_s"], abs=1e-3)


def test_a_failed_run_shows_the_error_the_log_and_what_was_blocked(run_text, workspace):
    result = run_text(FAILING)
    document = document_of(workspace, result.run)
    assert document["run"]["state"] == "failed"
    (failure,) = document["failures"]["attempts"]
    assert failure["label"] == "broken"
    assert failure["error_type"] == "RuntimeError"
    assert failure["class"] == "user_error"
    assert document["run"]["go_on"] == "orchestrator submit w.yaml --executor inline"
    assert failure["place"].endswith(".py:" + failure["place"].rpartition(":")[2])
    assert failure["command"] == f"orchestrator logs {result.run} broken --attempt 1"
    assert document["failures"]["blocked"] == ["below"]
    assert [node["word"] for node in document["nodes"]] == ["DONE", "FAIL", "SKIP"]
    assert next(row for row in document["cost"]["nodes"] if row["node"] == "broken")["failed"] == 1


def test_attempts_that_were_tried_again_are_told_and_wasted(run_text, workspace):
    text = FAILING.replace("failures: 9", "failures: 1").replace(
        "inputs: {inputs: [fine]},", "inputs: {inputs: [fine]}, retry: {attempts: 2, on_error: true, backoff: 1ms},"
    )
    document = document_of(workspace, run_text(text).run)
    assert document["run"]["state"] == "done"
    assert [each["will_retry"] for each in document["failures"]["attempts"]] == [True]
    attempts = [each for lane in document["timeline"] for each in lane["attempts"] if each["node"] == "broken"]
    assert [(each["attempt"], each["state"]) for each in attempts] == [(1, "failed"), (2, "done")]


def test_a_running_run_is_shown_as_it_stands(run_text, workspace):
    watcher = Meanwhile(workspace)
    run_text(CHAIN, watcher=watcher)
    assert watcher.seen["run"]["state"] == "running"
    assert [node["word"] for node in watcher.seen["nodes"]] == ["DONE", "WAIT", "WAIT", "WAIT"]


def test_a_cancelled_run_says_so_and_keeps_what_was_finished(run_text, workspace):
    result = run_text(CHAIN, watcher=Meanwhile(workspace, stops=True))
    document = document_of(workspace, result.run)
    assert document["run"]["state"] == "cancelled"
    assert document["nodes"][0]["word"] == "DONE"
    assert document["nodes"][-1]["word"] in ("CANCEL", "SKIP")


def test_a_report_before_a_sweep_has_begun_has_no_trials(run_text, workspace):
    watcher = Meanwhile(workspace)
    run_text(SEARCH, watcher=watcher)
    assert watcher.seen["sweeps"] == []
    words = {node["node"]: node["word"] for node in watcher.seen["graph"]["nodes"]}
    assert words["search"] == "WAIT"


def test_the_trials_of_a_sweep_are_those_that_the_command_line_shows(run_text, workspace):
    result = run_text(SEARCH)
    document = document_of(workspace, result.run)
    (sweep,) = document["sweeps"]
    told = result.status.sweeps["search"]
    assert sweep["best"] == told.best
    assert sweep["cost"] == cost_text(told.spent_s, told.avoided_s)
    assert len(sweep["trials"]) == 6
    plot = sweep["plot"]
    assert plot["y"] == "score.value"
    assert [panel["x"] for panel in plot["panels"]] == ["draw.value"]
    kinds = {int(number): kind for number, kind in plot["kinds"].items()}
    assert kinds[told.best] == "best"
    assert {number for number, kind in kinds.items() if kind in ("best", "front")} == set(told.front)
    assert {number for number, kind in kinds.items() if kind == "off"} == {
        trial.number for trial in told.trials.values() if trial.violated
    }
    (limit_y,) = [limit for limit in plot["panels"][0]["limits"] if limit["axis"] == "y"]
    assert limit_y == {"axis": "y", "value": 0.2, "is_lowest": True}
    (limit_x,) = [limit for limit in plot["panels"][0]["limits"] if limit["axis"] == "x"]
    assert limit_x["value"] == 2.5


def test_one_objective_is_drawn_over_the_trials_with_its_limit(run_text, workspace):
    document = document_of(workspace, run_text(SEARCH.replace(", draw.value: minimize", "")).run)
    (panel,) = document["sweeps"][0]["plot"]["panels"]
    assert panel["x"] is None
    assert panel["limits"] == [{"axis": "y", "value": 0.2, "is_lowest": True}]


def test_a_run_that_found_everything_there_reports_it_all_the_same(run_text, workspace):
    run_text(SEARCH)
    document = document_of(workspace, run_text(SEARCH).run)
    assert document["run"]["counts"].endswith("hits")
    assert document["timeline"] == []
    assert len(document["sweeps"][0]["trials"]) == 6
    assert document["verdict"]["sweeps"][0]["best"] is not None


def test_the_report_reads_a_store_that_was_copied_elsewhere(run_text, workspace, tmp_path):
    run = run_text(SEARCH).run
    before = document_of(workspace, run)
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    shutil.rmtree(tmp_path / "store")
    after = document_of(api.open_workspace(str(tmp_path / "copy")), run)
    for document in (before, after):
        del document["as_of"], document["run"]["store"]
    assert after == before


def test_a_failed_search_and_its_trials_are_told(run_text, workspace):
    document = document_of(workspace, run_text(LOSING, options=RunOptions(keep_going=True)).run)
    assert document["failures"]["sweeps"][0]["sweep"] == "search"
    assert document["verdict"]["sweeps"][0]["state"] == "failed"
    assert any(attempt["label"].startswith("search/") for attempt in document["failures"]["attempts"])


def test_epochs_of_a_node_become_a_thinned_curve(run_text, workspace, monkeypatch):
    def trains(context):
        for epoch in range(1, 1001):
            context.report(step=epoch, total=1000, metrics={"loss": 1 / epoch, "top1_accuracy": epoch / 1000}, epoch=epoch)
        history = [{"epoch": epoch, "loss": 1 / epoch} for epoch in range(1, 1001)]
        (context.output / "history.json").write_text(json.dumps(history))
        from stages.contract import StageResult

        return StageResult(metrics={"value": 1})

    monkeypatch.setattr("stages.probe.echo.echo", trains)
    document = document_of(workspace, run_text("version: 1\nname: n\nnodes:\n  a: {stage: probe.echo}\n").run)
    (curve,) = document["methods"]["curves"]
    assert curve["figure"] == "loss"
    (series,) = curve["series"]
    assert len(series["points"]) == 300
    assert series["points"][0] == [1.0, 1.0]
    assert series["points"][-1] == [1000.0, 0.001]


def test_thinning_keeps_the_ends_and_the_peak():
    points = [(float(x), 5.0 if x == 437 else 0.0) for x in range(1000)]
    kept = thinned(points, limit=50)
    assert len(kept) == 50
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert (437.0, 5.0) in kept
    assert thinned(points[:20], limit=50) == points[:20]


def test_attempts_of_one_process_share_a_lane_and_unknown_ones_never_overlap():
    def at(second, **event):
        return {"time": f"2026-01-01T00:00:{second:02d}.000Z", "key": "", **event}

    events = [
        at(0, type="run_started"),
        at(0, type="node_started", node="a", attempt=1),
        at(1, type="node_started", node="b", attempt=1),
        at(3, type="node_done", node="a", ending="done", seconds=3.0, metrics={}, host="h", process_id=7),
        at(3, type="node_started", node="c", attempt=1),
        at(4, type="node_cancelled", node="b"),
        at(9, type="node_done", node="c", ending="done", seconds=6.0, metrics={}, host="h", process_id=7),
        at(9, type="node_started", node="d", attempt=1),
    ]
    attempts = run_attempts(events, now="2026-01-01T00:00:20.000Z", is_live=True)
    assert [(each.label, each.seconds, each.state) for each in attempts] == [
        ("a", 3.0, "done"), ("b", 3.0, "cancelled"), ("c", 6.0, "done"), ("d", 11.0, "running"),
    ]  # fmt: skip
    found = lanes(attempts)
    assert [(lane.name, [each.label for each in lane.attempts]) for lane in found] == [
        ("h, process 7", ["a", "c"]), ("worker not known", ["b", "d"]),
    ]  # fmt: skip
    assert found[0].busy_s == 9.0


def test_the_text_forms_hold_the_same_trials(run_text, workspace):
    run = run_text(SEARCH).run
    sources = read_sources(workspace.store, run, now=now_text())
    document = report_document(sources)
    table = csv_form(sources, document).splitlines()
    assert len(table) == 7
    assert table[0].startswith("run,sweep,trial,label,state,mark,param:draw.value,param:score.value")
    text = markdown(document)
    assert text.startswith(f"# searching: run {run}\n")
    assert all(f"| search/t{number:04d} |" in text for number in range(6))
    assert document["verdict"]["sweeps"][0]["lines"][-1] in text


def test_without_a_sweep_the_table_has_a_row_for_each_node(run_text, workspace):
    run = run_text(CHAIN).run
    sources = read_sources(workspace.store, run, now=now_text())
    table = csv_form(sources, report_document(sources)).splitlines()
    assert len(table) == 5
    assert table[0].startswith("run,label,node,stage,key,state,attempt,seconds,size_bytes,note,")
    assert "value" in table[0].split(",")


def test_a_fence_in_a_log_cannot_end_the_block(run_text, workspace, monkeypatch):
    def prints(context):
        print("```\n# no heading")
        raise RuntimeError("| <b> |")

    monkeypatch.setattr("stages.probe.fail.fail", prints)
    text = markdown(document_of(workspace, run_text(FAILING).run))
    assert "````text\n```\n# no heading\n````" in text
    assert "RuntimeError: \\| &lt;b> \\|" in text


def test_a_damaged_curve_is_left_out(run_text, workspace, monkeypatch, tmp_path):
    def writes(context):
        (context.output / "history.json").write_text(json.dumps([{"epoch": 1, "loss": 1}, {"epoch": 2, "loss": 0.5}]))
        from stages.contract import StageResult

        return StageResult(metrics={"value": 1})

    monkeypatch.setattr("stages.probe.echo.echo", writes)
    run = run_text("version: 1\nname: n\nnodes:\n  a: {stage: probe.echo}\n").run
    assert document_of(workspace, run)["methods"]["curves"]
    record = next(workspace.artifacts.all_records())
    blob = Path(workspace.store.blob_path(record.files["history.json"].digest))
    blob.chmod(0o600)
    blob.write_bytes(b"x" * blob.stat().st_size)
    assert document_of(workspace, run)["methods"]["curves"] == []
