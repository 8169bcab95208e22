"""Looking at what was: status, ls, logs, show, artifacts, stages, doctor; none of them needs anything to run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_calls import Cli

from orchestrator.cli.doctor_checks import _meets, _parse_requirement


def test_status_shows_each_node_with_its_word_first(cli: Cli) -> None:
    cli("submit", "failing.yaml", "--executor", "inline")
    lines = cli("status", "@last").out.splitlines()
    assert lines[0].endswith("1 done, 1 failed, 1 blocked")
    assert [line.split()[:2] for line in lines[2:5]] == [["DONE", "fine"], ["FAIL", "broken"], ["SKIP", "below"]]
    assert "fails on purpose" in lines[3]
    assert lines[-1].startswith("next: orchestrator logs ")


def test_watching_a_finished_run_tells_its_end(cli: Cli, finished: str) -> None:
    answer = cli("status", finished, "--watch")
    assert answer.code == 0
    assert f"DONE    run {finished} done" in answer.err


def test_ls_lists_the_newest_first_with_tags(cli: Cli, finished: str) -> None:
    cli("submit", "failing.yaml", "--executor", "inline", "--tag", "who=me")
    lines = cli("ls").out.splitlines()
    assert lines[1].startswith("FAIL  ")
    assert lines[1].endswith("who=me")
    assert lines[2].split()[:2] == ["DONE", finished]
    assert "1 older runs" in cli("ls", "--limit", "1").err


def test_relative_names_and_prefixes_mean_runs(cli: Cli, finished: str) -> None:
    cli("submit", "failing.yaml", "--executor", "inline")
    cli("submit", "chain.yaml")
    assert cli("status", "@last", "--json").document["run"]["workflow"] == "chain"
    assert cli("status", "@last-failed", "--json").document["run"]["workflow"] == "failing"
    assert cli("status", finished[:7], "--json").document["run"]["id"] == finished


def test_logs_can_be_cut_and_name_their_nodes(cli: Cli, finished: str) -> None:
    for log in Path(".orchestrator/runs").glob("*/nodes/*/attempt-1.log"):
        log.write_text("one\ntwo\x1b[31m\nthree\n")
    answer = cli("logs", finished, "last")
    assert answer.out == "one\ntwo\nthree\n", "colours of a stage are left out"
    assert cli("logs", finished, "last", "--tail", "1").out == "three\n"
    assert cli("logs", finished, "last", "-f").out == answer.out
    assert cli("logs", finished, "middle").out.startswith("==> middle[value=1], attempt 1 <==\none\n")
    assert cli("logs", finished, "--json").document["logs"][0] == {
        "node": "first",
        "attempt": 1,
        "text": answer.out.rstrip("\n"),
    }
    assert "no log of attempt 7" in cli("logs", finished, "last", "--attempt", "7").err
    assert 'did you mean "middle"?' in cli("logs", finished, "midle").err


def test_show_of_a_key_tells_all_that_made_it(cli: Cli, finished: str) -> None:
    key = cli("artifacts", "ls", "--json").document["artifacts"][0]["key"]
    out = cli("show", key[:6]).out
    for part in (key, "made by stage probe.echo as node last", f"run {finished}", "inputs", "metrics", "value.json", "command"):
        assert part in out
    assert "executor  inline" in cli("show", finished).out


def test_a_node_of_a_run_can_be_named_wherever_a_key_can(cli: Cli, finished: str) -> None:
    assert "made by stage probe.echo as node last" in cli("show", "@last/last").out
    assert "made by stage probe.echo as node last" in cli("show", f"{finished[:5]}/last").out
    assert cli("artifacts", "get", "@last/last", "out").code == 0
    assert Path("out/value.json").exists()
    answer = cli("show", "@last/lats")
    assert (answer.code, 'did you mean "last"?' in answer.err) == (2, True)


def test_a_prefix_of_several_keys_is_refused_with_the_keys(cli: Cli) -> None:
    values = ", ".join(map(str, range(40)))
    Path("many.yaml").write_text(
        f"version: 1\nname: many\nnodes: {{n: {{stage: probe.echo, foreach: {{value: [{values}]}}}}}}\n"
    )
    cli("submit", "many.yaml", "--executor", "inline", "-q")
    keys = [artifact["key"] for artifact in cli("artifacts", "ls", "--json").document["artifacts"]]
    first = next(letter for letter in "0123456789abcdef" if sum(key.startswith(letter) for key in keys) > 1)
    answer = cli("artifacts", "get", first)
    assert answer.code == 2
    assert "begins several keys" in answer.err


def test_get_copies_verified_files_and_overwrites_nothing(cli: Cli, finished: str) -> None:
    key = cli("artifacts", "ls", "--json").document["artifacts"][-1]["key"]
    assert cli("artifacts", "get", key[:8], "out").out == "out/value.json\n"
    assert json.loads(Path("out/value.json").read_text())["value"] == 3
    again = cli("artifacts", "get", key[:8], "out")
    assert again.code == 2
    assert "nothing is overwritten" in again.err
    assert [path.name for path in Path("out").iterdir()] == ["value.json"]


def test_artifacts_of_one_stage(cli: Cli, finished: str) -> None:
    assert len(cli("artifacts", "ls", "--stage", "probe.echo").out.splitlines()) == 5
    assert cli("artifacts", "ls", "--stage", "probe.fail").out == ""


def test_a_stage_is_shown_with_parameters_ranges_and_an_example_that_works(cli: Cli) -> None:
    out = cli("stages", "show", "probe.sleep").out
    assert "seconds  float >= 0 and <= 86400; default 1" in out
    example = out.split("example\n")[1].replace("\n   ", "\n      ")
    Path("example.yaml").write_text(
        f"version: 1\nname: example\nnodes:\n      {example.strip()}\n".replace("[NODE, NODE]", "[]")
    )
    assert cli("validate", "example.yaml").code == 0


def test_every_stage_can_be_shown_in_80_columns(cli: Cli) -> None:
    for stage in cli("stages", "ls", "--json").document["stages"]:
        answer = cli("stages", "show", stage["name"])
        assert answer.code == 0
        assert max(len(line) for line in answer.out.splitlines()) <= 80, stage["name"]


@pytest.mark.parametrize(
    ("typed", "meant"), [("lbc", "sparsify.lbc"), ("probe.ecko", "probe.echo"), ("sparsfy.lbc", "sparsify.lbc")]
)
def test_a_misspelt_stage_is_answered_with_the_nearest(cli: Cli, typed: str, meant: str) -> None:
    assert f"orchestrator stages show {meant}" in cli("stages", "show", typed).err


def test_doctor_leaves_nothing_where_there_was_no_store(cli: Cli) -> None:
    answer = cli("doctor", "--store", "new")
    assert "fit to run workflows" in answer.err
    assert not Path("new").exists()


def test_doctor_exits_with_7_and_a_fix_for_each_failure(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = tmp_path / ("long" * 30)
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    Path("file").write_text("not a folder")
    answer = cli("doctor", "--store", "file")
    assert answer.code == 7
    lines = answer.out.splitlines()
    failed = [index for index, line in enumerate(lines) if line.startswith("FAIL")]
    assert {lines[index].split()[1] for index in failed} == {"store", "temporary"}
    assert all(lines[index + 1].startswith("      next: ") for index in failed)


def test_requirements_are_read_with_their_bounds() -> None:
    assert _parse_requirement('ray[train,tune]<2.61,>=2.60; python_version > "3"') == ("ray", "<2.61,>=2.60")
    assert _meets("2.60.1", "<2.61,>=2.60")
    assert not _meets("2.61.0", "<2.61,>=2.60")
    assert not _meets("2.9", ">=2.11")
    assert _meets("2.13.0+cpu", ">=2.11,<2.14")


@pytest.mark.ray
def test_doctor_really_starts_ray(cli: Cli) -> None:
    checks = {check["name"]: check for check in cli("doctor", "--ray", "--json").document["checks"]}
    assert checks["ray"]["word"] == "OK", checks["ray"]


def test_logs_of_what_was_there_name_the_run_that_has_them(cli: Cli, finished: str) -> None:
    cli("submit", "chain.yaml")
    assert (
        cli("logs", "@last", "last").err
        == f"nothing ran here: it was finished before. next: orchestrator logs {finished} last\n"
    )
    assert "no log of attempt 1; nothing ran here" in cli("logs", "@last", "--attempt", "1").err
    assert cli("logs", finished, "last").code == 0


def test_the_graph_of_a_run_that_found_its_search_settled_says_so(cli: Cli, searched: str) -> None:
    cli("submit", "search.yaml")
    assert [line.split()[0] for line in cli("graph", "@last").out.splitlines()[1:]] == ["HIT"] * 5
