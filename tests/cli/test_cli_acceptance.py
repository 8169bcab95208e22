"""The ten checks by which the use of it is judged, one test each. What another test holds in full is named, not repeated."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from cli_calls import SEARCH, Cli, spawn, wait_until
from test_cli_every_command import DOCUMENTS, ELSEWHERE, STREAMS, verbs

from orchestrator import api
from orchestrator.cli.command_docs import _CODES
from orchestrator.cli.root import orchestrator

ROOT = Path(__file__).parents[2]
TRANSCRIPTS = ROOT / "docs" / "transcripts"
BAD = ROOT / "tests" / "workflow" / "bad"

EXIT_CODES = {  # those not named here are asserted in the tests of their commands
    "0": "tests/cli/test_cli_exit_codes.py::test_a_run_that_ends_well_exits_with_0",
    "1": "tests/cli/test_cli_exit_codes.py::test_a_bug_of_ours_exits_with_1_and_keeps_the_trace_in_a_file",
    "2": "tests/cli/test_cli_exit_codes.py::test_what_cannot_be_meant_exits_with_2_and_says_what_to_type_next",
    "3": "tests/cli/test_cli_exit_codes.py::test_a_failed_node_exits_with_3",
    "5": "tests/cli/test_cli_exit_codes.py::test_damaged_content_exits_with_5",
    "7": "tests/cli/test_cli_exit_codes.py::test_a_store_that_cannot_be_written_exits_with_7",
    "8": "tests/cli/test_cli_exit_codes.py::test_plan_tells_work_by_8_only_when_asked",
    "130, 143": "tests/cli/test_cli_exit_codes.py::test_a_stopped_run_says_how_to_go_on",
}


def assert_is_held_by(place: str) -> None:
    """The test that is named exists, so that this page does not point at nothing."""
    file, _, name = place.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, place


def test_1_a_stranger_goes_from_install_to_a_pareto_plot_on_a_laptop_cpu_in_under_ten_minutes_with_three_commands() -> None:
    """As recorded: `init`, `plan`, `submit` in an empty folder, and the command that `submit` names to draw the front."""
    page = (TRANSCRIPTS / "first-plot.md").read_text()
    assert re.findall(r"^\$ orchestrator (\w+)", page, re.MULTILINE) == ["init", "plan", "submit", "pareto"]
    assert set(re.findall(r"^\(exit code (\d+), ", page, re.MULTILINE)) == {"0"}
    seconds = [float(text) for text in re.findall(r", after ([0-9.]+) s\)$", page, re.MULTILINE)]
    assert len(seconds) == 4
    assert sum(seconds) < 600
    assert "pareto" in page.partition("$ orchestrator submit")[2].partition("$ orchestrator pareto")[0]
    assert_is_held_by("tests/docs/test_first_page.py::test_the_commands_of_the_first_page_work_in_their_order")


@pytest.mark.parametrize("file", sorted(BAD.glob("*.yaml")), ids=lambda file: file.stem)
def test_2_every_error_of_the_bad_workflows_names_line_found_expected_and_next_command(file: Path, cli: Cli) -> None:
    answer = cli("validate", str(file))
    assert (answer.code, answer.out) == (2, "")
    blocks = re.split(r"(?m)^(?=error: )", answer.err)[1:]
    assert blocks, answer.err
    for block in blocks:
        assert re.match(rf"error: {re.escape(str(file))}(:\d+)?", block), block
        assert re.search(r"^   found ", block, re.MULTILINE), block
        assert re.search(r"expected|takes|legal|known|one of|has no|did you mean|must|only|cannot", block), block
        lines = [line for line in block.splitlines() if line.strip() and not line.lstrip().startswith("note: ")]
        assert "orchestrator " in lines[-1], block


def test_3_plan_of_1000_trials_is_below_2_s_warm() -> None:
    """Of the processor, since other work on the machine is no fault of the plan."""
    trials = yaml.safe_load(SEARCH)
    trials["nodes"]["search"]["sweep"] |= {"trials": 1000}
    trials["nodes"]["search"]["sweep"]["space"] |= {"draw.value": {"choice": list(range(50))}}
    Path("large.yaml").write_text(json.dumps(trials))
    command = [sys.executable, "-m", "orchestrator", "plan", "large.yaml", "--json"]
    subprocess.run(command, check=True, capture_output=True)
    before = os.times()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    after = os.times()
    assert json.loads(done.stdout)["sweeps"][0]["trials"] == 1000
    assert after.children_user + after.children_system - before.children_user - before.children_system < 2


def test_4_submit_then_ctrl_c_then_resume_loses_at_most_one_checkpoint_interval(cli: Cli) -> None:
    """`probe.sleep` does 20 steps a second, and saves every 20 and when it is stopped."""
    Path("nap.yaml").write_text("version: 1\nname: nap\nnodes: {nap: {stage: probe.sleep, params: {seconds: 4}}}\n")
    process = spawn("submit", "nap.yaml", "--executor", "inline")
    wait_until(lambda: last_step() > 25)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    done = last_step()
    answer = cli("resume", "@last", "--json")
    assert answer.code == 0
    (resumed,) = [event["resumed"] for event in answer.lines if event["type"] == "node_done"]
    assert resumed["step"] >= done - 20


def last_step() -> int:
    files = sorted(Path(".orchestrator/runs").glob("*/nodes/*/progress.jsonl"))
    lines = files[-1].read_text().splitlines() if files else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def test_5_the_second_submit_of_the_same_file_costs_0_gpu_seconds_and_is_below_5_s(searched: str) -> None:
    """Nothing is started at all; what it takes of the processor is measured, since that is what may grow."""
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "submit", "search.yaml", "--json"], check=True, capture_output=True, text=True
    )
    after = os.times()
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert not [event for event in events if event["type"] in ("node_started", "trial_started")]
    assert events[-1]["state"] == "done"
    status = api.status("@last", workspace=api.open_workspace())
    assert status.id != searched
    assert sum(node.seconds for node in status.nodes.values()) == 0
    assert after.children_user + after.children_system - before.children_user - before.children_system < 5


def test_6_with_the_cluster_deleted_ls_show_logs_report_pareto_and_best_all_work(cli: Cli, searched: str) -> None:
    """The store, copied elsewhere, is all that is left."""
    shutil.copytree(".orchestrator", "elsewhere/store")
    shutil.rmtree(".orchestrator")
    Path("search.yaml").unlink()
    for words in (
        ["ls"],
        ["show", searched],
        ["logs", searched],
        ["report", searched],
        ["pareto", searched],
        ["best", searched],
    ):
        answer = cli("--store", "elsewhere/store", *words)
        assert answer.code == 0, answer.err
        assert answer.out or answer.err
    assert "</html>" in next(Path().glob("report-*.html")).read_text()
    assert_is_held_by("tests/cli/test_cli_copied_store.py::test_a_copied_store_tells_all_that_the_first_one_did")


def test_7_every_command_passes_json_and_the_help_text_of_each_fits_80_columns(cli: Cli) -> None:
    told = {name.partition(" --")[0] for name in (*DOCUMENTS, *STREAMS)}
    assert [name for name in verbs() if name not in told | ELSEWHERE and name.split()[0] not in ELSEWHERE] == []
    assert_is_held_by(
        "tests/cli/test_cli_every_command.py::test_json_of_a_command_is_one_document_with_its_schema_and_nothing_else"
    )
    for name in verbs():
        out = cli(*name.split(), "--help").out
        assert max(map(len, out.splitlines())) <= 80, name
        assert f"Example:\n  orchestrator {name}" in out
        assert "--json" in out


def test_8_exit_codes_are_tested_one_by_one() -> None:
    files = sorted((ROOT / "tests" / "cli").glob("test_*.py"))
    for code, _ in _CODES:
        if code in EXIT_CODES:
            assert_is_held_by(EXIT_CODES[code])
        else:
            assert any(re.search(rf"\b(code|returncode)\b.*== {code}\b", file.read_text()) for file in files), code


def test_9_no_command_prints_a_secret_that_is_in_the_environment(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands that tell most of their environment; the tests that are named call all of them, and look at every file."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret-value")
    for words in (["submit", "chain.yaml", "--executor", "inline", "-v"], ["show", "@last", "--json"], ["doctor"],
                  ["config", "show"], ["version"], ["events", "@last"]):  # fmt: skip
        answer = cli(*words)
        assert "planted-secret-value" not in answer.out + answer.err
    assert_is_held_by("tests/cli/test_cli_every_command.py::test_text_in_a_pipe_has_no_control_characters_and_tells_no_secret")
    assert_is_held_by("tests/cli/test_cli_secrets.py::test_no_secret_of_the_environment_is_written_anywhere")


@pytest.mark.parametrize("name", ["plan", "status", "failure", "best"])
def test_10_golden_transcripts_of_plan_status_failure_and_best_are_reviewed_like_code(name: str) -> None:
    """They are pages of the documentation, written from real runs; a test holds each of them against the program."""
    page = (TRANSCRIPTS / f"{name}.md").read_text()
    assert page.count("\n$ orchestrator ") >= 3
    assert f"transcripts/{name}.md" in (ROOT / "docs" / "running.md").read_text()
    assert_is_held_by("tests/cli/test_cli_golden.py::test_a_golden_transcript_is_current")


def test_every_command_can_be_found() -> None:
    """`verbs`, on which the seventh rests, walks the whole tree."""
    assert {name.split()[0] for name in verbs()} == set(orchestrator.list_commands(click.Context(orchestrator)))
