"""Whole runs through the inline executor: what is kept, what is made again, and what each kind of trouble leads to."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator import api
from orchestrator.engine.signals import StopNow
from orchestrator.errors import StoreError, UsageError
from orchestrator.report.run_status import read_run_status
from orchestrator.store.artifacts import Artifacts, Record
from orchestrator.workflow.plan import Selection
from stages.contract import StageContext, StageResult

CHAIN = """
version: 1
name: chain
nodes:
  a: {stage: probe.echo, params: {value: 1}}
  b: {stage: probe.bytes, params: {size: 100000}, inputs: {input: a}}
  c: {stage: probe.echo, params: {value: 3}, inputs: {inputs: b}}
"""
ONE = "version: 1\nname: one\nnodes:\n  a: {stage: probe.echo, params: {value: 1}, retry: {attempts: 3, backoff: 10ms}}\n"
SLEEP = "version: 1\nname: one\nnodes:\n  a: {stage: probe.sleep, params: {seconds: 30}}\n"


def ran(result: api.RunResult) -> dict[str, str]:
    return {label: node.state for label, node in result.status.nodes.items()}


def record(workspace: api.Workspace, result: api.RunResult, label: str) -> Record:
    node = result.status.nodes[label]
    found = workspace.artifacts.find(node.stage, node.key)
    assert found is not None
    return found


@pytest.fixture
def echo_does(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[StageContext], Any]], None]:
    """Put another function behind the stage probe.echo."""

    def put(function: Callable[[StageContext], Any]) -> None:
        monkeypatch.setattr("stages.probe.echo.echo", function)

    return put


def test_a_second_run_is_all_hits_and_starts_no_executor(run_text, plan_text, workspace) -> None:
    """Submitting again must cost nothing."""
    assert ran(run_text(CHAIN)) == {"a": "done", "b": "done", "c": "done"}

    def refuse(_run: str) -> Any:
        raise AssertionError("an executor was started")

    second = api.submit(plan_text(CHAIN), workspace=workspace, executor=refuse)
    assert ran(second) == {"a": "hit", "b": "hit", "c": "hit"}
    assert second.state is api.State.DONE


def test_a_changed_parameter_runs_its_node_and_what_follows(run_text) -> None:
    """Neither too much (hours) nor too little (wrong results)."""
    run_text(CHAIN)
    assert ran(run_text(CHAIN, overrides=("b.size=99999",))) == {"a": "hit", "b": "done", "c": "done"}
    assert ran(run_text(CHAIN)) == {"a": "hit", "b": "hit", "c": "hit"}


def test_rerun_makes_a_node_again_and_all_below_it(run_text, workspace) -> None:
    """`--rerun b` after a driver update: the same keys, new records, the old ones kept aside."""
    first = run_text(CHAIN)
    again = run_text(CHAIN, selection=Selection(rerun=("b",)))
    assert ran(again) == {"a": "hit", "b": "done", "c": "done"}
    assert record(workspace, again, "a").run == first.run
    assert record(workspace, again, "b").run == record(workspace, again, "c").run == again.run
    assert len(list(workspace.store.list(f"quarantine/probe.bytes/{again.status.nodes['b'].key}"))) == 1


def test_until_stops_after_a_node_and_start_begins_at_one(run_text) -> None:
    """A look at the first half, and the second half alone."""
    assert ran(run_text(CHAIN, selection=Selection(until=("b",)))) == {"a": "done", "b": "done"}
    with pytest.raises(UsageError, match='needs "a"'):
        run_text(CHAIN, selection=Selection(start=("b",)), overrides=("a.value=7",))
    assert ran(run_text(CHAIN, selection=Selection(start=("c",)))) == {"a": "hit", "b": "hit", "c": "done"}


def damage(workspace: api.Workspace, record: Record, name: str) -> None:
    path = workspace.store.blob_path(record.files[name].digest)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_in_an_input_is_noticed_and_the_input_made_again(run_text, workspace) -> None:
    """A model must never be trained on damaged weights; and nobody wants to find the bad file by hand."""
    first = run_text(CHAIN)
    damage(workspace, record(workspace, first, "b"), "blob.bin")
    second = run_text(CHAIN, overrides=("c.value=4",))
    assert ran(second) == {"a": "hit", "b": "done", "c": "done"}
    assert record(workspace, second, "b").content_digest == record(workspace, first, "b").content_digest
    workspace.artifacts.open(record(workspace, second, "b"))


def test_several_damaged_inputs_of_one_node_are_made_again_together(run_text, workspace) -> None:
    """A bad disk rarely stops at one file."""
    text = CHAIN + "  d: {stage: probe.echo, params: {value: 4}, inputs: {inputs: [a, b, c]}}\n"
    first = run_text(text)
    for label, name in (("a", "value.json"), ("b", "blob.bin"), ("c", "value.json")):
        damage(workspace, record(workspace, first, label), name)
    second = run_text(text, overrides=("d.value=5",))
    assert ran(second) == {"a": "done", "b": "done", "c": "done", "d": "done"}


def test_a_missing_blob_is_planned_as_a_miss(run_text, plan_text, workspace) -> None:
    """`plan` must not promise a hit that is not there."""
    first = run_text(CHAIN)
    workspace.store.remove_blob(record(workspace, first, "b").files["blob.bin"].digest)
    assert [node.status.value for node in plan_text(CHAIN).nodes.values()] == ["HIT", "RUN", "HIT"]
    assert ran(run_text(CHAIN)) == {"a": "hit", "b": "done", "c": "hit"}


def test_two_stores_hold_the_same_content_after_the_same_workflow(run_text, workspace, tmp_path, plan_text) -> None:
    """Otherwise no result can be repeated, and no cache can be trusted."""
    first = run_text(CHAIN)
    elsewhere = api.open_workspace(str(tmp_path / "elsewhere"))
    second = api.submit(api.plan_checked(plan_text(CHAIN).checked, workspace=elsewhere), workspace=elsewhere, executor="inline")
    for label in "abc":
        assert record(workspace, first, label).content_digest == record(elsewhere, second, label).content_digest


def test_measurements_are_kept_beside_the_content_digest(run_text, workspace, echo_does) -> None:
    """A latency differs from run to run; the artifact does not."""
    clock = iter((1.0, 2.0))
    echo_does(lambda _: StageResult(metrics={"value": 1}, measurements={"latency_ms": next(clock)}))
    first = record(workspace, run_text(ONE), "a")
    second = record(workspace, run_text(ONE, selection=Selection(rerun=("a",))), "a")
    assert (first.measurements["latency_ms"], second.measurements["latency_ms"]) == (1.0, 2.0)
    assert first.content_digest == second.content_digest


def raise_it(error: BaseException) -> Callable[[StageContext], StageResult]:
    def stage(_: StageContext) -> StageResult:
        raise error

    return stage


def link_to_passwords(context: StageContext) -> StageResult:
    (context.output / "good.bin").write_bytes(b"x")
    (context.output / "passwords").symlink_to("/etc/passwd")
    return StageResult()


def odd_name(context: StageContext) -> StageResult:
    (context.output / "a b").write_bytes(b"x")
    return StageResult()


def no_folder(context: StageContext) -> StageResult:
    context.output.rmdir()
    return StageResult()


def other_folder(context: StageContext) -> StageResult:
    context.output.rmdir()
    context.output.symlink_to("/etc")
    return StageResult()


BAD_STAGES: dict[str, tuple[Callable[[StageContext], Any], str]] = {
    "raises": (raise_it(RuntimeError("no such luck")), "no such luck"),
    "leaves by SystemExit": (raise_it(SystemExit(3)), "3"),
    "leaves by KeyboardInterrupt": (raise_it(KeyboardInterrupt()), "KeyboardInterrupt"),
    "leaves by GeneratorExit": (raise_it(GeneratorExit()), "GeneratorExit"),
    "has an error without a text": (raise_it(ValueError()), "ValueError"),
    "reports NaN": (lambda _: StageResult(metrics={"loss": float("nan")}), "metrics.loss"),
    "reports infinity deep inside": (lambda _: StageResult(metrics={"a": {"b": [1, float("inf")]}}), "b[1]"),
    "measures NaN": (lambda _: StageResult(measurements={"ms": float("nan")}), "measurements.ms"),
    "reports an object": (lambda _: StageResult(metrics={"loss": object()}), "metrics.loss"),
    "returns nothing": (lambda _: None, "returned NoneType"),
    "returns a dictionary": (lambda _: {"loss": 1}, "returned dict"),
    "writes a link": (link_to_passwords, "passwords"),
    "writes an odd name": (odd_name, "a b"),
    "removes its folder": (no_folder, "output folder"),
    "replaces its folder": (other_folder, "output folder"),
}


@pytest.mark.parametrize("kind", BAD_STAGES)
def test_a_stage_that(kind: str, run_text, workspace, echo_does) -> None:
    """Whatever a stage does, its node fails with a sentence; the run ends, nothing is published, nothing is left."""
    stage, message = BAD_STAGES[kind]
    echo_does(stage)
    result = run_text(ONE)
    node = result.status.nodes["a"]
    assert (result.state, node.state, node.attempt) == (api.State.FAILED, "failed", 1)
    assert message in node.error
    assert node.trace
    assert workspace.artifacts.find(node.stage, node.key) is None
    assert list(workspace.store.workspaces("attempts")) == []
    assert list(workspace.store.list("leases")) == []
    assert Path("/etc/passwd").exists()


def test_what_a_stage_prints_is_in_its_log_and_nowhere_else(run_text, workspace, echo_does, capsys) -> None:
    """The log of a node that failed at night."""

    def chatty(context: StageContext) -> StageResult:
        print("to the log")
        print("errors too", file=sys.stderr)
        raise RuntimeError("in the end")

    echo_does(chatty)
    result = run_text(ONE)
    node = result.status.nodes["a"]
    log = workspace.ledger.read_log(result.run, node.folder, 1).decode()
    assert "to the log\n" in log
    assert "errors too\n" in log
    assert "to the log" not in capsys.readouterr().out
    assert "RuntimeError: in the end" in node.trace


def test_progress_is_told_first_and_last_however_fast_it_comes(run_text, workspace, echo_does) -> None:
    """A bar that stops at 97 % looks like a hang."""

    def steps(context: StageContext) -> StageResult:
        for step in range(1, 1001):
            context.report(step=step, total=1000, metrics={"loss": 1 / step})
        return StageResult()

    echo_does(steps)
    result = run_text(ONE)
    lines, _ = workspace.ledger.progress(result.run, result.status.nodes["a"].folder)
    assert (lines[0]["step"], lines[-1]["step"]) == (1, 1000)
    assert len(lines) < 100


def test_each_attempt_finds_empty_folders_of_its_own(run_text, workspace, echo_does) -> None:
    """What an earlier node or attempt left must not slip into an artifact."""
    seen: list[Path] = []

    def stage(context: StageContext) -> StageResult:
        assert not list(context.output.iterdir())
        assert not list(context.scratch.iterdir())
        assert context.output not in seen
        assert all(not path.exists() for path in seen)
        seen.append(context.output)
        (context.output / "sub").mkdir()
        (context.output / "sub" / "file").write_bytes(b"x")
        (context.scratch / "temporary").write_bytes(b"x")
        if len(seen) < 3:
            raise RuntimeError("again")
        return StageResult()

    echo_does(stage)
    result = run_text(ONE.replace("backoff: 10ms", "backoff: 10ms, on_error: true"))
    assert (result.state, result.status.nodes["a"].attempt) == (api.State.DONE, 3)
    assert list(record(workspace, result, "a").files) == ["sub/file"]
    assert list(workspace.store.workspaces("attempts")) == []


def test_a_store_that_fails_for_a_moment_is_tried_again(run_text, monkeypatch) -> None:
    """A network share that hiccups must not cost the run."""
    calls: list[int] = []
    publish = Artifacts.publish

    def flaky(self: Artifacts, record: Record, **options: Any) -> Record:
        calls.append(1)
        if len(calls) < 3:
            raise StoreError("the share is away")
        return publish(self, record, **options)

    monkeypatch.setattr(Artifacts, "publish", flaky)
    result = run_text(ONE)
    assert (result.state, result.status.nodes["a"].attempt) == (api.State.DONE, 3)


def test_a_timeout_holds_though_the_stage_blocks_the_scheduler(run_text) -> None:
    """An ignored setting is worse than none."""
    result = run_text(SLEEP.replace("seconds: 30}", "seconds: 30}, timeout: 300ms"))
    node = result.status.nodes["a"]
    assert (result.state, node.state, node.ending, node.attempt) == (api.State.FAILED, "failed", "timeout", 1)
    assert "longer than its timeout of 0.3 s" in node.error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_stage_at_its_next_safe_point(run_text, workspace, number: int) -> None:
    """Ctrl-C and preemption: what was saved is kept, and the next run goes on from there."""
    former = signal.getsignal(number)
    threading.Timer(1.6, os.kill, (os.getpid(), number)).start()
    result = run_text(SLEEP)
    assert (result.state, result.signal_number) == (api.State.CANCELLED, number)
    assert ran(result) == {"a": "cancelled"}
    assert signal.getsignal(number) == former
    again = run_text(SLEEP, watcher=_StopAtOnce())
    assert again.state is api.State.CANCELLED
    assert list(workspace.store.workspaces("checkpoints")) == [result.status.nodes["a"].key]


class _StopAtOnce(api.Watcher):
    """Cancels the run it watches, as soon as its first node starts."""

    def happened(self, events: Any, status: Any) -> None:
        if any(event["type"] == "node_started" for event in events):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_second_signal_does_not_wait_for_the_stage(run_text, echo_does) -> None:
    """A stage that never looks must not hold the terminal."""

    def deaf(_: StageContext) -> StageResult:
        for delay_s in (0.1, 0.3):
            threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGINT)).start()
        time.sleep(60)
        return StageResult()

    echo_does(deaf)
    began_s = time.monotonic()
    result = run_text(ONE)
    assert result.state is api.State.CANCELLED
    assert ran(result) == {"a": "cancelled"}
    assert time.monotonic() - began_s < 30, "it waited for the stage"
    assert issubclass(StopNow, KeyboardInterrupt)


def test_a_cancel_mark_in_the_ledger_stops_a_run(run_text, workspace) -> None:
    """`orchestrator cancel` from another terminal, or another machine."""

    class Cancelling(api.Watcher):
        def happened(self, events: Any, status: Any) -> None:
            if any(event["type"] == "node_started" for event in events):
                workspace.ledger.ask_to_cancel(status.id)

    result = run_text(SLEEP, watcher=Cancelling())
    assert (result.state, ran(result), result.signal_number) == (api.State.CANCELLED, {"a": "cancelled"}, 0)


def test_a_run_is_never_seen_without_its_owner(run_text, workspace) -> None:
    """`status` from another terminal must not call a living run interrupted."""
    seen = []

    class Looking(api.Watcher):
        def started(self, status: Any) -> None:
            seen.append(read_run_status(workspace.store, status.id).state)

        def happened(self, events: Any, status: Any) -> None:
            seen.append(read_run_status(workspace.store, status.id).state)

    run_text(CHAIN, watcher=Looking())
    assert set(seen[:-1]) <= {"starting", "running"}
    assert seen[-1] == "done"


def test_a_run_whose_driver_is_gone_is_interrupted_and_so_are_its_nodes(workspace, race) -> None:
    """Nothing may look as if it ran when nobody drives it."""

    def begin(_: int) -> str:
        ledger = workspace.ledger
        from orchestrator.store.lease import Leases

        run = ledger.begin(
            {"workflow": "w", "file": "f", "plan": [["a", "a", "probe.echo", "k", "RUN"]]},
            claim=lambda run: Leases(workspace.store, run=run).acquire(f"run-{run}"),
        )
        ledger.write(run, [{"type": "run_started"}, {"type": "node_started", "node": "a", "attempt": 1}])
        return run

    (run,) = race(1, begin)
    status = read_run_status(workspace.store, run)
    assert (status.state, status.nodes["a"].state) == ("interrupted", "interrupted")


def test_a_failed_run_can_be_continued(run_text, echo_does, monkeypatch) -> None:
    """Submitting again after mending the cause runs only what is missing."""
    with monkeypatch.context() as patch:
        patch.setattr("stages.probe.blob.write_blob", raise_it(RuntimeError("disk")))
        assert ran(run_text(CHAIN)) == {"a": "done", "b": "failed", "c": "blocked"}
    assert ran(run_text(CHAIN)) == {"a": "hit", "b": "done", "c": "done"}
