"""Sweeps as people see them: trials, the best and how sure that is, fronts, comparisons, how it all ends."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from cli_calls import SEARCH, Cli, has_started, spawn, wait_until

from orchestrator import api


def cut_off(run: str, after: str, *, count: int) -> None:
    """Leave of a run's events those up to the `count`th of a kind: as if its process had been killed there."""
    file = Path(f".orchestrator/runs/{run}/events.jsonl")
    kept: list[str] = []
    for line in file.read_text().splitlines(keepends=True):
        kept.append(line)
        count -= json.loads(line)["type"] == after
        if count == 0:
            break
    file.write_text("".join(kept))


def test_a_pipe_gets_two_lines_for_each_trial_and_none_for_its_nodes(cli: Cli) -> None:
    answer = cli("submit", "search.yaml", "--executor", "inline")
    lines = [line.split("Z  ")[1] for line in answer.err.splitlines() if re.match(r"\d{4}-", line)]
    trials = [line for line in lines if "search/t0" in line]
    assert len(trials) == 12
    assert re.fullmatch(r"RUN     search/t0000  draw\.value \d, score\.value \S+", trials[0])
    assert re.match(r"DONE    search/t0000  score\.value \S+, draw\.value \d", trials[1])
    assert any("(best so far)" in line for line in trials)
    assert any(line.startswith("SEARCH  search  6 trials") for line in lines)
    assert "search/t0000/score" not in answer.err
    assert "search/t0000/score" in cli("submit", "search.yaml", "--executor", "inline", "--set", "base.value=2", "-v").err


def test_submit_ends_with_the_verdict_and_what_sharing_saved(cli: Cli) -> None:
    answer = cli("submit", "search.yaml", "--executor", "inline")
    assert re.search(r"^sweep search  best search/t\d{4}: score.value \S+, draw.value \d$", answer.err, re.MULTILINE)
    assert re.search(r"^verdict   t\d{4} is best by the best score.value: ", answer.err, re.MULTILINE)
    assert re.search(
        r"^cost      trials cost \S+; (one by one they would have cost|they had nothing)", answer.err, re.MULTILINE
    )
    assert "best " in answer.err.split("next:\n")[1]
    again = cli("submit", "search.yaml")
    assert again.code == 0
    assert again.err.startswith("nothing to do: ")
    assert "1 sweep settled" in again.err
    assert "verdict   t" in again.err


@pytest.mark.parametrize("times", [1, 2])
def test_a_sweep_without_a_good_trial_exits_with_4_also_when_all_is_cached(cli: Cli, times: int) -> None:
    answers = [cli("submit", "unmet.yaml", "--executor", "inline") for _ in range(times)]
    assert answers[-1].code == 4
    assert re.search(r"Nearest was t\d{4}: score\.value \S+ is \S+ below the lowest allowed 10", answers[-1].err)
    assert "next: orchestrator sweep show " in answers[-1].err
    best = cli("best")
    assert best.code == 4
    assert "Nearest was t" in best.out
    assert cli("pareto", "@last").code == 4
    assert times > 1 or cli("status", "@last", "--watch").code == 4


def test_a_sweep_that_fails_exits_with_3_and_shows_its_last_failed_trial(cli: Cli) -> None:
    answer = cli("submit", "losing.yaml", "--executor", "inline")
    assert answer.code == 3
    assert "more than max_failures 1" in answer.err
    assert "probe.fail: attempt 1 fails on purpose" in answer.err
    command = re.search(r"next: orchestrator (logs \S+ search/t\d{4}/draw)", answer.err)
    assert command is not None
    assert cli(*command[1].split()).code == 0
    status = cli("status", "@last").out
    assert re.search(r"^FAIL +search ", status, re.MULTILINE)
    assert "next: orchestrator logs " in status.splitlines()[-1]


def test_failed_trials_that_are_allowed_are_mentioned_and_no_failure(cli: Cli) -> None:
    answer = cli("submit", "losing.yaml", "--executor", "inline", "--set", "search.sweep.max_failures=10")
    assert answer.code == 0
    assert "note    sweep search: 4 trials failed; the last, t" in answer.err
    assert "what was finished is kept" not in answer.err


def test_status_shows_the_best_first_and_a_mark_for_it(cli: Cli, searched: str) -> None:
    lines = cli("status", searched).out.splitlines()
    row = next(line for line in lines if line.startswith("DONE    search "))
    assert "6 trials" in row
    assert not any("search/t0" in line for line in lines[:5])
    table = lines[lines.index("") + 1 :]
    assert table[0].startswith("sweep search  settled: 6 trials: 6 done; best t")
    assert table[2].split()[2] == "best"
    assert "search/t0000/score" in cli("status", searched, "-v").out
    sweep = cli("status", searched, "--json").document["run"]["sweeps"][0]
    assert sweep["state"] == "settled"
    assert len(sweep["trials"]) == 6
    assert sweep["trials"][0]["trial"] == sweep["best"]
    assert set(sweep["trials"][0]["objectives"]) == {"score.value", "draw.value"}


def test_status_shows_20_trials_and_counts_the_others(cli: Cli) -> None:
    cli("submit", "search.yaml", "--executor", "inline", "--set", "search.sweep.trials=25", "-q")
    out = cli("status", "@last").out
    assert len(re.findall(r"^DONE    t\d{4} ", out, re.MULTILINE)) == 20
    assert re.search(r"^\.\.\. and 5 more; next: orchestrator sweep show \S+ search --all$", out, re.MULTILINE)
    assert len(re.findall(r"^DONE    t\d{4} ", cli("sweep", "show", "--all").out, re.MULTILINE)) == 25


def test_show_of_a_sweeps_key_tells_its_result(cli: Cli, searched: str) -> None:
    key = cli("artifacts", "ls", "--stage", "sweep", "--json").document["artifacts"][0]["key"]
    answer = cli("show", key[:8])
    assert "sweep search  settled: 6 trials" in answer.out
    assert "verdict   t" in answer.out
    assert cli("show", key, "--json").document["sweep"]["best"] is not None


def test_best_names_the_winner_its_constraints_and_the_command_for_its_files(cli: Cli, searched: str) -> None:
    answer = cli("best")
    assert answer.code == 0
    assert re.search(r"^BEST  search/t\d{4}  by the best score.value$", answer.out, re.MULTILINE)
    assert "constraint met: score.value " in answer.out
    assert re.search(r"artifacts: draw [0-9a-f]{8}, score [0-9a-f]{8}", answer.out)
    command = answer.err.removeprefix("next: orchestrator ").split()
    assert cli(*command).code == 0
    assert Path("best/value.json").exists()


def test_best_by_another_metric_and_the_first_few(cli: Cli, searched: str) -> None:
    document = cli("best", "--metric", "draw.value", "--top", "3", "--json").document["sweeps"][0]
    values = [trial["metrics"]["draw.value"] for trial in document["top"]]
    assert values == sorted(values)
    assert document["direction"] == "minimize"
    assert len(values) == 3
    assert 'did you mean "draw.value"?' in cli("best", "--metric", "draw.valeu").err
    unknown = cli("best", "--metric", "draw.num_inputs")
    assert unknown.code == 2
    assert "--metric draw.num_inputs:maximize" in unknown.err
    assert cli("best", "--metric", "draw.num_inputs:maximize").code == 0


def test_best_of_a_search_that_has_not_ended_is_the_best_so_far(cli: Cli, searched: str) -> None:
    cut_off(searched, "trial_ended", count=4)
    answer = cli("best", searched)
    assert answer.code == 0
    assert "BEST so far  search/t" in answer.out
    assert "4 of 6 trials" in answer.out
    status = cli("status", searched).out
    assert "sweep search  interrupted: 4 of 6 trials: 4 done; best so far t" in status
    assert "not dominated so far" in cli("pareto", searched).out


def test_a_run_tells_its_best_also_when_the_sweeps_artifact_is_gone(cli: Cli, searched: str) -> None:
    before = cli("best", searched, "--json").document["sweeps"][0]["best"]["values"]
    file = next(Path(".orchestrator/artifacts/sweep").glob("*/record.json"))
    file.rename(file.with_name("gone.json"))
    answer = cli("best", searched, "--json")
    assert answer.code == 0
    assert answer.document["sweeps"][0]["best"]["values"] == before
    assert answer.document["sweeps"][0]["is_settled"]


def test_a_search_that_has_ended_no_trial_has_no_best(cli: Cli, searched: str) -> None:
    cut_off(searched, "trial_started", count=1)
    assert cli("best", searched).code == 4
    assert cli("sweep", "show", searched).code == 0


def test_what_has_no_sweep_says_so(cli: Cli, finished: str) -> None:
    for arguments in (["best"], ["pareto", "@last"], ["sweep", "show"]):
        answer = cli(*arguments)
        assert answer.code == 2
        assert "its workflow has no sweep" in answer.err


def test_pareto_of_two_runs_together(cli: Cli, searched: str) -> None:
    cli("submit", "search.yaml", "--executor", "inline", "-q", "--set", "base.value=2", "--set", "search.sweep.seed=7")
    both = cli("pareto", "@last", searched, "--json").document
    assert {point["run"] for point in [*both["front"], *both["others"]]} > {searched}
    front = [tuple(point["objectives"].values()) for point in both["front"]]
    others = [tuple(point["objectives"].values()) for point in both["others"] if not point["violated"]]
    assert front == sorted(front, reverse=True), "best first objective first"
    for high, low in others:
        assert any(top >= high and bottom <= low for top, bottom in front)
    assert cli("pareto", "@last", searched).out.splitlines()[1].startswith("RUN ")


def test_pareto_refuses_sweeps_that_want_different_things(cli: Cli, searched: str) -> None:
    Path("other.yaml").write_text(SEARCH.replace("draw.value: minimize", "draw.value: maximize"))
    cli("submit", "other.yaml", "--executor", "inline", "-q")
    answer = cli("pareto", "@last", searched)
    assert answer.code == 2
    assert "cannot be put together" in answer.err
    assert "maximize draw.value" in answer.err


def test_pareto_writes_all_measured_trials_as_csv(cli: Cli, searched: str) -> None:
    rows = list(csv.DictReader(io.StringIO(cli("pareto", "@last", "--csv", "-").out)))
    assert len(rows) == 6
    assert rows[0]["is_on_front"] == "true"
    assert float(rows[0]["score.value"]) == float(rows[0]["param:score.value"])
    assert cli("pareto", "@last", "--csv", "front.csv").code == 0
    assert len(Path("front.csv").read_text().splitlines()) == 7
    assert cli("pareto", "@last", "--csv", "absent/front.csv").code == 2


@pytest.mark.parametrize(("name", "begins"), [("p.png", b"\x89PNG"), ("p.svg", b"<?xml"), ("p.html", b"<!doctype html>")])
def test_pareto_draws_a_picture(cli: Cli, searched: str, name: str, begins: bytes) -> None:
    assert cli("pareto", "@last", "--plot", name).code == 0
    data = Path(name).read_bytes()
    assert data.startswith(begins)
    if name != "p.png":
        cli("pareto", "@last", "--plot", name)
        assert Path(name).read_bytes() == data, "the same front gives the same picture"
    answer = cli("pareto", "@last", "--plot", "p.pdf")
    assert answer.code == 2
    assert ".png, .svg or .html" in answer.err


def test_compare_names_the_settings_that_differ_anywhere_above(cli: Cli, searched: str) -> None:
    out = cli("compare", "@last/search/t0000/score", f"{searched}/search/1").out
    assert re.search(r"^probe.echo.value +\S+ +\S+$", out, re.MULTILINE)
    assert "against A: " in out
    document = cli("compare", "@last/search/0", "@last/search/best", "--json").document
    value = next(row for row in document["metrics"] if row["metric"] == "value")
    assert len(value["values"]) == 2
    keys = [artifact["key"] for artifact in document["artifacts"]]
    assert cli("compare", *keys).code == 0
    assert cli("compare", keys[0]).code == 2
    for name in ("@last/serach", "@last/search/t9999", "@last/search/0/scoer", "zzzz"):
        answer = cli("compare", "@last/base", name)
        assert answer.code == 2, name
        assert "next: " in answer.err


def test_sweep_show_gives_all_trials_as_csv(cli: Cli, searched: str) -> None:
    rows = list(csv.DictReader(io.StringIO(cli("sweep", "show", "@last", "sea", "--csv", "-").out)))
    assert [row["state"] for row in rows] == ["done"] * 6
    assert "it has search" in cli("sweep", "show", "@last", "nonsense").err


def test_logs_of_a_trial_are_those_of_its_nodes(cli: Cli, searched: str) -> None:
    for log in Path(".orchestrator/runs").glob("*/nodes/*/attempt-1.log"):
        log.write_text(f"printed by {log.parent.name}\n")
    names = {log["node"] for log in cli("logs", "@last", "search/t0000", "--json").document["logs"]}
    assert names <= {"search/t0000/draw", "search/t0000/score"}
    assert "search/t0000/score" in names
    assert cli("logs", "@last", "search/0/score").out.startswith("printed by search.score")
    for name, words in (
        ("search/t0", "begins several trials"),
        ("search/t0099", "it has run t0000 to t0005"),
        ("search/t0001/tune", "it has draw, score"),
    ):
        answer = cli("logs", "@last", name)
        assert answer.code == 2
        assert words in answer.err


def test_sweep_stop_lets_running_trials_end_and_the_sweep_settle(cli: Cli) -> None:
    Path("long.yaml").write_text(
        "version: 1\nname: long\nnodes:\n  search:\n    sweep:\n      trials: 200\n      sampler: random\n"
        "      objectives: {nap.value: maximize}\n      space: {nap.value: {uniform: [0, 1]}}\n"
        "    nodes: {nap: {stage: probe.sleep, params: {seconds: 0.3}}}\n"
    )
    process = spawn("submit", "long.yaml", "--executor", "inline")
    wait_until(lambda: has_started("search/t0001/nap"))
    assert "best so far" in cli("status", "@last").out
    answer = cli("sweep", "stop", "@last")
    assert answer.code == 0
    assert "asked sweep search of run" in answer.err
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    sweep = cli("status", "@last", "--json").document["run"]["sweeps"][0]
    assert sweep["state"] == "settled"
    assert len(sweep["trials"]) < 30
    ended = cli("sweep", "stop", "@last")
    assert ended.code == 2
    assert "is not running: it is done" in ended.err


def test_a_trial_that_an_earlier_run_has_made_is_shown_too(cli: Cli, searched: str) -> None:
    cli("submit", "search.yaml", "--executor", "inline", "-q", "--set", "search.sweep.trials=7")
    document = cli("status", "@last", "--json").document["run"]
    assert len(document["sweeps"][0]["trials"]) == 7
    assert cli("compare", "@last/search/0", "@last/search/6").code == 0
    assert api.open_workspace().ledger.resolve("@last") == document["id"]
