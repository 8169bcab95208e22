"""What people see, as they see it: plans, failures and results as whole transcripts, reviewed like code."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from cli_calls import Cli

from orchestrator import api
from orchestrator.report import plan_table


def plain(text: str) -> str:
    """`text` with what differs from call to call replaced: keys, run ids, times, places."""
    text = re.sub(r"\b[0-9a-f]{32}\b", "<key>", text)
    text = re.sub(r"\b[0-9a-f]{8}\b", "<key8> ", text).replace("<key8>  ", "<key8> ")
    text = re.sub(
        r"\b[2-9a-hj-km-np-z]{8}\b(?= (?:done|failed)| broken|;|\n|$|  )(?<=run .{8}|ogs .{8}|tus .{8})", "<run>", text
    )
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "<date>", text)
    return re.sub(r"\b\d+\.\d+s", "<s>", text)


def expected(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")


def test_a_plan_of_new_work(cli: Cli) -> None:
    assert plain(cli("plan", "chain.yaml").out) == expected("""
        chain  4 nodes   store .orchestrator
        STATUS  NODE             KEY       WHY
        RUN     first            <key8>  nothing like it was made before
        RUN     middle[value=1]  <key8>  nothing like it was made before (waits for first)
        RUN     middle[value=2]  <key8>  nothing like it was made before (waits for first)
        RUN     last             <key8>  nothing like it was made before (waits for middle[value=1])
        total   4 to run, 0 hits, 0 shared
        hours   no record yet of what is to run
    """)


def test_a_plan_after_a_changed_parameter_names_it(cli: Cli, finished: str) -> None:
    lines = cli("plan", "chain.yaml", "--set", "last.value=5").out.splitlines()
    assert [line.split()[0] for line in lines[2:-2]] == ["HIT", "HIT", "HIT", "RUN"]
    assert f"recorded {api.open_workspace().ledger.request(finished).created[:10]}" in lines[2]
    assert "parameter value: nothing -> 5 (nearest record " in lines[5]
    assert lines[-2] == "total   1 to run, 3 hits, 0 shared"


def test_why_names_every_difference_and_what_it_follows(cli: Cli, finished: str) -> None:
    out = cli("plan", "chain.yaml", "--set", "first.value=4", "--why", "first").out
    assert re.search(r"RUN     first  [0-9a-f]{32}\n        nearest record: first  [0-9a-f]{8}, finished ", out)
    assert "        parameter value: 3 -> 4\n" in out
    out = cli("plan", "chain.yaml", "--set", "first.value=4", "--why", "middle").out
    assert out.count("follows first, which will run too") == 2
    assert re.search(r"input inputs: \[[0-9a-f]{8}\] -> \[[0-9a-f]{8}\]", out)


def test_why_of_a_hit_says_who_made_it(cli: Cli, finished: str) -> None:
    assert f"by run {finished}; it will be used as it is" in cli("plan", "chain.yaml", "--why", "middle[value=2]").out


def test_why_of_a_misspelt_node_suggests_the_nearest(cli: Cli) -> None:
    answer = cli("plan", "chain.yaml", "--why", "midle")
    assert 'did you mean "middle"?' in answer.err


def test_drift_is_shown_below_the_table(cli: Cli, finished: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.workflow.plan.source_digest", lambda _: "other code")
    lines = cli("plan", "chain.yaml").out.splitlines()
    assert "drift   first: stage code changed since the record; --strict would run it again" in lines
    assert sum(line.startswith("drift   middle:") for line in lines) == 1
    assert lines[-2] == "total   0 to run, 4 hits, 0 shared"


def test_strict_makes_again_what_other_code_had_made(cli: Cli, finished: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("plan", "chain.yaml", "--strict", "--exit-code").code == 0
    monkeypatch.setattr("orchestrator.workflow.plan.source_digest", lambda _: "other code")
    lines = cli("plan", "chain.yaml", "--strict").out.splitlines()
    assert lines[-2] == "total   4 to run, 0 hits, 0 shared"
    assert not any(line.startswith("drift") for line in lines)
    monkeypatch.setattr("orchestrator.engine.worker.source_digest", lambda _: "other code")
    assert cli("submit", "chain.yaml", "--strict", "--executor", "inline").code == 0
    assert cli("plan", "chain.yaml", "--strict", "--exit-code").code == 0, "the records are of this code now"


def test_a_large_plan_is_counted_by_node_name(cli: Cli) -> None:
    values = ", ".join(map(str, range(plan_table.MAX_ROWS)))
    Path("large.yaml").write_text(
        f"version: 1\nname: large\nnodes:\n"
        f"  many: {{stage: probe.echo, foreach: {{value: [{values}]}}}}\n"
        f"  last: {{stage: probe.echo, inputs: {{inputs: [many]}}}}\n"
    )
    assert cli("plan", "large.yaml").out == expected("""
        large  61 nodes   store .orchestrator
        NODE  RUN  ALL  STAGE
        many   60   60  probe.echo
        last    1    1  probe.echo
        total   61 to run, 0 hits, 0 shared
        hours   no record yet of what is to run
    """)


def test_a_failure_says_where_why_what_is_kept_and_how_to_go_on(cli: Cli) -> None:
    answer = cli("submit", "failing.yaml", "--executor", "inline")
    root = str(Path(api.__file__).parents[1])
    text = re.sub(r"fail\.py:\d+", "fail.py:<line>", plain(answer.err.replace(root, "<root>")))
    assert text.split("shared\n")[1] == expected("""
        hours   no record yet of what is to run
        run <run>; Ctrl-C asks it to stop, and the same command then goes on
        <time>  RUN     fine  started
        <time>  DONE    fine  <s>, value 1, 38 B
        <time>  RUN     broken  started
        <time>  FAIL    broken  attempt 1: RuntimeError: probe.fail: attempt 1 fails on purpose
        <time>  SKIP    below  needs broken, which failed
        FAIL    broken, attempt 1 (an error of the stage is not tried again)
           RuntimeError: probe.fail: attempt 1 fails on purpose
           at <root>/stages/probe/fail.py:<line>
           last 1 of 1 log lines:
           | probe.fail: attempt 1
           kept: its state at step 1; the next attempt goes on from there
           next: orchestrator logs <run> broken    (all it printed)
        FAIL    run <run> failed after <s>: 1 done, 1 failed, 1 blocked
           what was finished is kept; when the cause is mended, the same command goes on
           next: orchestrator submit failing.yaml --executor inline
    """)
    assert answer.out == ""


def test_a_failure_shows_its_trace_only_when_asked(cli: Cli) -> None:
    assert "Traceback" not in cli("submit", "failing.yaml", "--executor", "inline").err
    assert "Traceback" in cli("submit", "failing.yaml", "--executor", "inline", "-v").err


def test_the_end_of_a_run_names_the_next_commands(cli: Cli) -> None:
    answer = cli("submit", "chain.yaml", "--executor", "inline")
    commands = [line.split("  ")[1].strip() for line in answer.err.splitlines() if line.startswith("   orchestrator ")]
    assert len(commands) == 5
    for command in commands:
        assert cli(*command.split()[1:]).code == 0, command


def test_problems_of_a_file_are_told_together_with_their_lines(cli: Cli) -> None:
    Path("bad.yaml").write_text(
        "version: 1\nname: bad\nnodes:\n"
        "  a: {stage: probe.echo, params: {valeu: 1}}\n"
        "  b: {stage: probe.echo, inputs: {inputs: [aa]}}\n"
    )
    answer = cli("validate", "bad.yaml")
    assert answer.code == 2
    assert re.findall(r"error: bad\.yaml:(\d+):", answer.err) == ["4", "5"]
    assert "did you mean value?" in answer.err


def test_quiet_leaves_results_and_errors(cli: Cli) -> None:
    assert cli("submit", "chain.yaml", "--executor", "inline", "-q").err == ""
    assert "RuntimeError" in cli("submit", "failing.yaml", "--executor", "inline", "-q").err
