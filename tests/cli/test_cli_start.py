"""Getting started: templates that plan as they are and run in --smoke, completion, settings and their source."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_calls import Cli

from orchestrator.cli.init import TEMPLATES


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_is_written_and_plans_as_it_is(cli: Cli, template: str) -> None:
    answer = cli("init", template)
    assert answer.code == 0
    assert answer.err.splitlines()[-1] == f"next: orchestrator plan {template}.yaml"
    text = Path(f"{template}.yaml").read_text()
    assert text.startswith(f"# orchestrator submit {template}.yaml\n")
    assert "{" not in text.split("version:")[0]
    plan = cli("plan", f"{template}.yaml")
    assert plan.code == 0, plan.err
    assert plan.out.startswith(f"{template}  ")
    assert cli("plan", f"{template}.yaml", "--smoke").code == 0


def test_init_overwrites_nothing_unless_asked(cli: Cli) -> None:
    Path("cnn_2_4.yaml").write_text("mine")
    answer = cli("init", "cnn_2_4")
    assert answer.code == 2
    assert "--force" in answer.err
    assert Path("cnn_2_4.yaml").read_text() == "mine"
    assert cli("init", "cnn_2_4", "--force").code == 0
    assert cli("init", "cnn_2_4", "--out", "my own 2.yaml").code == 0
    assert "name: my_own_2\n" in Path("my own 2.yaml").read_text()
    assert cli("validate", "my own 2.yaml").code == 0
    assert cli("init", "ptq_only", "--out", "-").out.startswith("# orchestrator submit ptq_only.yaml")


def test_a_misspelt_template_is_answered_with_those_there_are(cli: Cli) -> None:
    answer = cli("init", "resnet")
    assert answer.code == 2
    assert all(template in answer.err for template in TEMPLATES)


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_runs_to_its_end_in_smoke(cli: Cli, template: str) -> None:
    cli("init", template)
    answer = cli("submit", f"{template}.yaml", "--smoke", "--executor", "inline")
    assert answer.code == 0, answer.err
    assert "TOP-1" in answer.out
    assert cli("submit", f"{template}.yaml", "--smoke").err.startswith("nothing to do: ")


def completed(words: list[str], index: int) -> list[str]:
    """What bash would be offered for the word at `index`."""
    environment = {
        **os.environ, "_ORCHESTRATOR_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(index),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator"], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_commands_runs_nodes_and_stages_are_completed(cli: Cli, finished: str) -> None:
    assert {"resume", "retry"} <= set(completed(["orchestrator", "re"], 1))
    assert finished in completed(["orchestrator", "status", ""], 2)
    assert completed(["orchestrator", "logs", finished, "mid"], 3) == ["middle", "middle[value=1]", "middle[value=2]"]
    assert completed(["orchestrator", "stages", "show", "sparsify.l"], 3) == ["sparsify.lbc"]
    assert completed(["orchestrator", "why", "la"], 2) == [f"last@{finished}"]
    assert "--executor" in completed(["orchestrator", "resume", "--"], 2)
    key = cli("artifacts", "ls", "--json").document["artifacts"][0]["key"]
    assert completed(["orchestrator", "show", key[:6]], 2) == [key[:12]]


def test_completion_where_there_is_no_store_offers_nothing_and_makes_none(cli: Cli) -> None:
    assert completed(["orchestrator", "status", ""], 2) == []
    assert completed(["orchestrator", "--store", "elsewhere", "status", ""], 4) == []
    assert not Path(".orchestrator").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_a_script_of_that_shell(cli: Cli, shell: str) -> None:
    answer = cli("completion", shell)
    assert answer.code == 0
    assert f"_ORCHESTRATOR_COMPLETE={shell}_complete" in answer.out
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=answer.out, text=True, check=False).returncode == 0
    assert cli("completion", shell, "--json").document["shell"] == shell


def test_config_says_where_each_setting_comes_from(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def settings(*arguments: str) -> dict[str, tuple[str, str]]:
        found = cli("config", "show", "--json", *arguments).document["settings"]
        return {each["name"]: (each["value"], each["source"]) for each in found}

    assert settings()["store"] == (str(Path.cwd() / ".orchestrator"), "default")
    assert settings("--store", "there")["store"] == (str(Path.cwd() / "there"), "--store")
    monkeypatch.setenv("ORCHESTRATOR_STORE", "s3://lab/artifacts")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://me:hidden@s3.example:9000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-too")
    found = settings()
    assert found["store"] == ("s3://lab/artifacts", "$ORCHESTRATOR_STORE")
    assert found["S3 endpoint"] == ("https://s3.example:9000", "$AWS_ENDPOINT_URL")
    assert "hidden" not in cli("config", "show").out


def test_smoke_makes_keys_of_its_own_and_is_resumed_as_it_was(cli: Cli) -> None:
    cli("init", "cnn_2_4")
    real = {node["label"]: node["key"] for node in cli("plan", "cnn_2_4.yaml", "--json").document["nodes"]}
    smoke = {node["label"]: node["key"] for node in cli("plan", "cnn_2_4.yaml", "--smoke", "--json").document["nodes"]}
    assert smoke.keys() == real.keys()
    assert not set(smoke.values()) & set(real.values())


def test_smoke_leaves_two_trials_and_no_constraints(cli: Cli) -> None:
    answer = cli("submit", "unmet.yaml", "--smoke", "--executor", "inline", "--json")
    assert answer.code == 0, "its constraint, which nothing meets, is left out"
    assert len([line for line in answer.lines if line["type"] == "trial_ended"]) == 2
    assert cli("resume", "@last").err.startswith("nothing to do: ")


def test_what_is_set_by_hand_stands_above_smoke(cli: Cli) -> None:
    answer = cli("plan", "search.yaml", "--smoke", "--set", "search.trials=3", "--json")
    assert answer.document["sweeps"][0]["trials"] == 3
