"""`logs --since`: what was printed lately, told by the progress reports that stand beside a log."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from cli_calls import Cli

from orchestrator import api
from orchestrator.report.log_times import log_starts
from orchestrator.report.run_status import RunStatus
from stages.contract import StageContext, StageResult

NAP = "version: 1\nname: nap\nnodes: {nap: {stage: probe.sleep, retry: {attempts: 2, backoff: 1ms, on_error: true}}}\n"


def talk(context: StageContext) -> StageResult:
    """In place of `probe.sleep`: prints before, between and after its reports; the first attempt fails."""
    print("early", flush=True)
    context.report(step=3, total=3, metrics={})
    time.sleep(0.02)
    print("late", flush=True)
    if not Path("failed").exists():
        Path("failed").touch()
        raise RuntimeError("the weather")
    context.report(step=3, total=3, metrics={})
    time.sleep(0.02)
    print("last", flush=True)
    return StageResult(metrics={"value": 1})


@pytest.fixture
def talked(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("stages.probe.sleep.sleep", talk)
    Path("nap.yaml").write_text(NAP)
    answer = cli("submit", "nap.yaml", "--executor", "inline", "--json")
    assert answer.code == 0, answer.err
    return str(answer.lines[-1]["run"])


def test_what_was_printed_since_is_told_by_the_reports_beside_the_log(talked: str) -> None:
    """To the report before it, so rather too much than too little; nothing of an attempt that had ended."""
    workspace = api.open_workspace()
    status = api.status(talked, workspace=workspace)
    node = status.nodes["nap"]
    folder = next(Path(".orchestrator/runs").glob("*/nodes/*"))
    reports = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    assert [(line["attempt"], line["log_bytes"]) for line in reports] == [(1, 6), (2, 6), (2, 11)]

    def since(moment: str) -> list[str | None]:
        starts = log_starts(status, [node], workspace.ledger, moment)
        texts = [(folder / f"attempt-{number}.log").read_text() for number in (1, 2)]
        places = [starts["nap", number] for number in (1, 2)]
        return [None if place is None else text[place:] for text, place in zip(texts, places, strict=True)]

    assert since("2000") == ["early\nlate\n", "early\nlate\nlast\n"]
    assert since(reports[1]["time"]) == [None, "early\nlate\nlast\n"]
    assert since(reports[2]["time"]) == [None, "late\nlast\n"]
    assert since(node.ended) == [None, "last\n"]
    assert since("9999") == [None, None]


def test_a_log_that_goes_on_after_a_failed_attempt_is_not_left_out(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempt before ended long ago; --since -f would never show a word of the one that runs."""
    found: list[int | None] = []

    def fail_first(context: StageContext) -> StageResult:
        if not Path("failed").exists():
            Path("failed").touch()
            raise RuntimeError("the weather")
        print("goes on", flush=True)
        workspace = api.open_workspace()
        status = api.status("@last", workspace=workspace)
        starts = log_starts(status, status.nodes.values(), workspace.ledger, "9999")
        found.extend(starts["nap", attempt] for attempt in (1, 2))
        return StageResult(metrics={"value": 1})

    monkeypatch.setattr("stages.probe.sleep.sleep", fail_first)
    Path("nap.yaml").write_text(NAP)
    assert cli("submit", "nap.yaml", "--executor", "inline").code == 0
    assert found == [None, 0]


def test_an_attempt_that_was_stopped_and_asked_for_again_ended_when_it_was_stopped(talked: str) -> None:
    """A trial that is wanted again: what its first attempt printed would be told as printed just now while the second runs."""
    workspace = api.open_workspace()
    file = Path(f".orchestrator/runs/{talked}/events.jsonl")
    events = [json.loads(line) for line in file.read_text().splitlines()]
    began = max(number for number, event in enumerate(events) if event["type"] == "node_started")
    stopped = [{**event, "type": event["type"].replace("attempt_failed", "attempt_stopped")} for event in events[: began + 1]]
    file.write_text("".join(json.dumps(event) + "\n" for event in stopped))
    status = RunStatus(**{**vars(api.status(talked, workspace=workspace)), "ended": ""})
    starts = log_starts(status, status.nodes.values(), workspace.ledger, "9999")
    assert (starts["nap", 1], starts["nap", 2]) == (None, 11)


@pytest.mark.parametrize("follow", [(), ("-f",)])
def test_logs_since_shows_the_end_of_a_log_or_says_that_nothing_was_printed(
    cli: Cli, talked: str, follow: tuple[str, ...]
) -> None:
    assert cli("logs", talked, "nap", "--since", "1h", *follow).out.endswith("early\nlate\nlast\n")
    time.sleep(0.05)
    answer = cli("logs", talked, "nap", "--since", "1ms", *follow)
    assert answer.out == ""
    assert follow or answer.err == "nothing was printed within 1ms\n"
    assert cli("logs", talked, "nap", "--since", "soon").code == 2
