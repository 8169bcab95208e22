"""Going on from a run's record: resume, retry, wait, events, why; none of them reads the file again."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_calls import FAILING, Cli, has_started, spawn, wait_until

from orchestrator.report.event_types import EVENT_TYPES

ONCE_FAILING = FAILING.replace("{stage: probe.fail,", "{stage: probe.fail, params: {failures: 1},")


@pytest.fixture
def failed(cli: Cli) -> str:
    """A run that has failed, and would not fail again."""
    Path("once.yaml").write_text(ONCE_FAILING)
    answer = cli("submit", "once.yaml", "--executor", "inline", "--tag", "who=me", "--json")
    assert answer.code == 3, answer.err
    return str(answer.lines[-1]["run"])


def test_resume_goes_on_from_the_record_with_executor_and_tags_of_the_run(cli: Cli, failed: str) -> None:
    answer = cli("resume", failed, "--json")
    assert answer.code == 0, answer.err
    assert [node["status"] for node in answer.lines[0]["nodes"]] == ["HIT", "RUN", "RUN"]
    request = cli("status", "@last", "--json").document["run"]["request"]
    assert (request["executor"], request["tags"], request["origin"]) == (
        "inline",
        {"who": "me"},
        {"continues": failed},
    )
    assert cli("resume", failed).err.startswith("nothing to do: ")


def test_resume_uses_the_recorded_workflow_when_the_file_has_changed_and_says_so(cli: Cli, failed: str) -> None:
    Path("once.yaml").write_text(ONCE_FAILING.replace("value: 1", "value: 2"))
    answer = cli("resume", failed)
    assert answer.code == 0
    assert f"once.yaml has changed since; the workflow as run {failed} recorded it is used" in answer.err
    assert "HIT     fine" in answer.err
    Path("once.yaml").unlink()
    assert "is not here any more" in cli("resume", failed).err


def test_a_record_that_this_release_refuses_says_that_its_file_is_submitted_again(cli: Cli, failed: str) -> None:
    """Who mends the file and resumes is told of the same line for ever: what is resumed is the record."""
    request = Path(f".orchestrator/runs/{failed}/run.json")
    request.write_text(request.read_text().replace("failures: 1", "failures_by_an_older_name: 1"))
    answer = cli("resume", failed)
    assert answer.code == 2
    assert "next: orchestrator submit once.yaml, with that changed in it" in answer.err
    assert f"note: this is the workflow as run {failed} recorded it" in answer.err


def test_a_resumed_run_that_fails_names_itself_as_the_one_to_resume(cli: Cli) -> None:
    cli("submit", "failing.yaml", "--executor", "inline")
    answer = cli("resume", "@last-failed")
    assert answer.code == 3
    run = cli("ls", "--json").document["runs"][0]["id"]
    assert answer.err.splitlines()[-1] == f"   next: orchestrator resume {run}"


def test_resume_says_when_the_recorded_text_means_something_else_today(cli: Cli, finished: str) -> None:
    cli("artifacts", "promote", "@last/first", "start")
    Path("named.yaml").write_text(
        "version: 1\nname: named\nnodes:\n  after: {stage: probe.echo, inputs: {inputs: ['artifact:start']}}\n"
    )
    cli("submit", "named.yaml", "--executor", "inline")
    assert "would be another artifact" not in cli("resume", "@last").err
    cli("artifacts", "promote", f"{finished}/last", "start")
    assert "2 nodes would be another artifact than in run " in cli("resume", "@last", "--executor", "inline").err


def test_resume_after_a_kill_makes_only_what_is_missing(cli: Cli) -> None:
    process = spawn("submit", "slow.yaml", "--executor", "inline", "--set", "wait.seconds=3")
    wait_until(lambda: has_started("wait"))
    process.kill()
    process.communicate()
    answer = cli("resume", "@last", "--json")
    assert answer.code == 0
    assert [line["node"] for line in answer.lines if line["type"] == "node_done"] == ["wait"]


def test_resume_of_a_rerun_makes_again_only_what_was_not_made_again(cli: Cli, finished: str) -> None:
    Path("chain.yaml").write_text(Path("chain.yaml").read_text())
    cli("submit", "chain.yaml", "--executor", "inline", "--rerun", "middle")
    again = cli("resume", "@last", "--json")
    assert again.lines[-1]["state"] == "done"
    assert {node["status"] for node in again.lines[0]["nodes"]} == {"HIT"}


def test_a_live_run_is_not_resumed(cli: Cli) -> None:
    process = spawn("submit", "slow.yaml", "--executor", "inline")
    wait_until(lambda: has_started("wait"))
    answer = cli("resume", "@last")
    assert answer.code == 2
    assert "is still running" in answer.err
    assert "--watch" in answer.err
    process.kill()
    process.communicate()


def test_retry_runs_what_failed_and_what_that_blocked_and_nothing_else(cli: Cli) -> None:
    Path("two.yaml").write_text(ONCE_FAILING + "  apart: {stage: probe.echo, inputs: {inputs: [fine]}, needs: [below]}\n")
    cli("submit", "two.yaml", "--executor", "inline")
    Path("more.yaml").write_text(ONCE_FAILING + "  later: {stage: probe.echo, params: {value: 9}}\n")
    cli("submit", "more.yaml", "--executor", "inline", "--set", "fine.value=5")
    answer = cli("retry", "@last", "--json")
    assert answer.code == 0, answer.err
    assert [node["label"] for node in answer.lines[0]["nodes"]] == ["fine", "broken", "below"]


def test_retry_with_more_resources_makes_the_same_keys(cli: Cli, failed: str) -> None:
    before = {node["label"]: node["key"] for node in cli("status", failed, "--json").document["run"]["nodes"]}
    answer = cli("retry", failed, "--with-resources", "memory=64MiB", "--with-resources", "custom.big=0.5")
    assert answer.code == 2, "this machine has no such resource"
    assert "big" in answer.err
    answer = cli("retry", failed, "--with-resources", "memory=64MiB", "--json")
    assert answer.code == 0, answer.err
    assert {node["label"]: node["key"] for node in answer.lines[0]["nodes"]} == before
    request = cli("status", "@last", "--json").document["run"]["request"]
    assert request["overrides"] == ["broken.resources.memory=64MiB"]


@pytest.mark.parametrize("resources", ["memory", "memoory=1GiB", "memory=big"])
def test_retry_says_which_resources_there_are(cli: Cli, failed: str, resources: str) -> None:
    answer = cli("retry", failed, "--with-resources", resources)
    assert answer.code == 2
    assert "memory" in answer.err


def test_retry_with_other_workers_says_why_not_and_how(cli: Cli, failed: str) -> None:
    """They are a resource in the file, so "no resource" would be taken for a mistake of ours."""
    answer = cli("retry", failed, "--with-resources", "workers=2")
    assert answer.code == 2
    assert "another artifact" in answer.err
    assert "next: orchestrator submit once.yaml --set broken.resources.workers=2" in answer.err


def test_retry_of_a_run_without_failures_says_so(cli: Cli, finished: str) -> None:
    answer = cli("retry", finished)
    assert answer.code == 2
    assert "has no failed node: it is done" in answer.err


def test_retry_searches_a_failed_sweep_again(cli: Cli) -> None:
    assert cli("submit", "losing.yaml", "--executor", "inline").code == 3
    answer = cli("retry", "@last", "--with-resources", "memory=1MiB")
    assert answer.code == 3, "its failures are known, so they count again"
    assert "search.nodes.draw.resources.memory=1MiB" in cli("show", "@last").out


def test_wait_ends_with_the_code_of_the_run(cli: Cli, finished: str, failed: str) -> None:
    assert cli("wait", finished).code == 0
    assert cli("wait", failed).code == 3
    answer = cli("wait", finished, failed, finished, "--json")
    assert answer.code == 3
    assert [(run["run"], run["exit_code"]) for run in answer.document["runs"]] == [(finished, 0), (failed, 3)]


def test_wait_tells_a_sweep_without_a_good_trial_by_4_also_where_it_was_a_hit(cli: Cli) -> None:
    for _ in range(2):
        cli("submit", "unmet.yaml", "--executor", "inline")
        assert cli("wait", "@last").code == 4


def test_wait_gives_up_with_124_and_sees_a_run_end(cli: Cli) -> None:
    process = spawn("submit", "slow.yaml", "--executor", "inline", "--set", "wait.seconds=2.5")
    wait_until(lambda: has_started("wait"))
    answer = cli("wait", "@last", "--timeout", "100ms")
    assert answer.code == 124
    assert "still running after 100ms" in answer.err
    assert cli("wait", "@last", "--timeout", "60s").code == 0
    process.communicate(timeout=20)
    assert cli("wait", "@last", "--timeout", "soon").code == 2


def test_events_are_json_lines_of_known_types_with_or_without_the_flag(cli: Cli, searched: str) -> None:
    answer = cli("events", searched)
    assert answer.lines == cli("events", searched, "--json", "-f").lines
    assert answer.lines[0]["type"] == "run_started"
    assert answer.lines[-1]["type"] == "run_finished"
    assert all({"schema", "run", "time", "type"} <= line.keys() for line in answer.lines)
    assert {line["type"] for line in answer.lines} <= EVENT_TYPES.keys()
    assert {line["type"] for line in cli("events", searched, "--type", "trial_ended").lines} == {"trial_ended"}
    assert "node_done" in cli("events", searched, "--type", "done").err


def test_every_event_that_the_code_writes_is_described() -> None:
    import re

    import orchestrator

    root = Path(orchestrator.__file__).parent
    code = "".join(path.read_text() for folder in ("engine", "sweeps") for path in (root / folder).rglob("*.py"))
    written = set(re.findall(r'(?:\.note|_event|_emit)\(\s*"([a-z_]+)"', code))
    assert len(written) > 12
    assert written <= EVENT_TYPES.keys()


def test_events_are_followed_until_the_run_ends(cli: Cli) -> None:
    process = spawn("submit", "slow.yaml", "--executor", "inline", "--set", "wait.seconds=1.5")
    wait_until(lambda: has_started("wait"))
    assert cli("events", "@last", "-f").lines[-1]["state"] == "done"
    process.communicate(timeout=20)


def test_why_names_the_first_difference_from_what_was_there_before(cli: Cli, finished: str) -> None:
    cli("submit", "chain.yaml", "--executor", "inline", "--set", "first.value=4")
    lines = cli("why", "first").out.splitlines()
    assert lines[0].startswith("DONE    first@")
    assert lines[1].strip().startswith(f"compared with first of run {finished}, probe.echo ")
    assert lines[2].strip() == "parameter value: 3 -> 4"
    assert "no artifact of stage probe.echo had been made here before this run" in cli("why", f"first@{finished}").out
    assert "input inputs: " in cli("why", "middle[value=1]@@last").out
    document = cli("why", "last", "--json").document["why"][0]
    assert document["planned"] == "RUN"
    assert [each["field"] for each in document["differences"]] == ["inputs.inputs"]


def test_why_of_a_hit_says_who_made_it(cli: Cli, finished: str) -> None:
    cli("submit", "chain.yaml")
    out = cli("why", "last").out
    assert out.startswith("HIT     last@")
    assert f"by run {finished}" in out


def test_why_compares_with_a_node_of_another_run_or_an_artifact(cli: Cli, finished: str) -> None:
    cli("submit", "chain.yaml", "--executor", "inline", "--set", "first.value=4")
    assert "parameter value: 3 -> 4" in cli("why", "first@@last", f"first@{finished}").out
    key = cli("status", finished, "--json").document["run"]["nodes"][1]["key"]
    assert "parameter value: 1 -> 4" in cli("why", "first", key).out
    assert "nothing differs: both have the same key" in cli("why", f"middle[value=1]@{finished}", key).out
    answer = cli("why", "first", f"middle@{finished}")
    assert answer.code == 2
    assert "means several nodes" in answer.err


def test_why_explains_a_node_that_has_made_nothing(cli: Cli, failed: str) -> None:
    Path("once.yaml").write_text(ONCE_FAILING.replace("value: 1", "value: 2"))
    out = cli("why", f"broken@{failed}").out
    assert out.startswith("FAIL    broken@")
    assert "had been made here before this run" in out
