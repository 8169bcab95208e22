"""The commands of the pages, run: one page after the other, each in a folder with a finished search, their stand-ins filled in.

Run in the tests: the first page (`test_first_page`), what is here, and the Python of the page on library use. What is left only
parses (`test_commands_shown`): commands that need a cluster, a bucket, a terminal or days; REASONS says of each why.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import api
from orchestrator.cli import main

DOCS = Path(__file__).parents[2] / "docs"

SEARCH = """\
version: 1
name: searching
nodes:
  base: {stage: probe.echo, params: {value: 0.5}}
  search:
    sweep:
      trials: 3
      sampler: random
      objectives: {score.value: maximize, tune.value: minimize}
      space: {score.value: {uniform: [0, 1]}, tune.value: {choice: [1, 2, 3]}}
    nodes:
      tune: {stage: probe.echo, inputs: {inputs: [base]}}
      score: {stage: probe.echo, inputs: {inputs: [tune]}}
  export: {stage: probe.echo, inputs: {inputs: [search.best.score]}}
"""

STAND_INS = {
    "FILE": "search.yaml", "OTHER_RUN": "@last", "RUN/pack": "FIRST/base", "RUN": "FIRST", "KEY": "FIRST/export",
    "SWEEP": "search", "search/t0007": "search/t0001", "score.gmacs": "score.value", "k7m2": "FIRST",
    "search.trials=16": "search.trials=4",
}  # fmt: skip

REASONS = {
    "submit search.yaml --address": "needs a cluster; tests/engine/test_cluster_runs.py has one",
    "submit workflows/": "minutes; the first page runs it with --smoke",
    "sweep stop": "refused where nothing is searched; tests/cli/test_cli_sweeps.py stops one",
    "artifacts import": "needs a model folder; tests/cli/test_cli_artifacts.py has one",
    "stages new": "tests/cli/test_cli_own_stages.py runs it with what follows",
    "stages check": "as above",
    "submit workflow.yaml": "as above; needs the package installed",
    "ui": "goes on until it is stopped; tests/browser has it",
    "submit search.yaml --smoke": "a search over probes has nothing to make smaller; the first page does it",
}


def commands_of(page: str) -> list[str]:
    text = (DOCS / f"{page}.md").read_text()
    lines = re.findall(r"^(?:    )?orchestrator (.+)$", text, re.MULTILINE)
    return [re.split(r"\s+#\s|\s{4,}", line)[0].strip() for line in lines]


def filled(line: str, *, run: str = "FIRST") -> list[str]:
    for stand_in, value in {**STAND_INS, "FIRST": run}.items():
        line = re.sub(rf"(?<![A-Z@/]){re.escape(stand_in)}(?![A-Z])", value, line)
    return shlex.split(line)


def is_left_out(words: list[str]) -> bool:
    return any(shlex.join(words).startswith(start) for start in REASONS)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCHESTRATOR_PROFILES", str(tmp_path / "profiles.toml"))
    monkeypatch.delenv("ORCHESTRATOR_STORE", raising=False)
    Path("search.yaml").write_text(SEARCH)
    Path("pages").mkdir()
    assert main(["submit", "search.yaml", "--executor", "inline", "-q"]) == 0
    return tmp_path


@pytest.mark.parametrize("page", ["running", "sweeps", "artifacts", "report", "data"])
def test_the_commands_of_a_page_run_in_their_order(page: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines, ran = commands_of(page), 0
    run = api.status("@last", workspace=api.open_workspace()).id
    for line in lines:
        words = filled(line, run=run)
        if is_left_out(words):
            continue
        if words[0] == "submit":
            words += [] if "--executor" in words else ["--executor", "inline"]
        code = main(words)
        said = capfd.readouterr()
        assert code == 0, f"{page}: {line}\n-> {shlex.join(words)}\n{said.out}{said.err}"
        ran += 1
    assert ran >= len(lines) / 2, "most of a page is run"


def test_every_reason_for_leaving_a_command_out_is_one_of_a_command_that_is_shown() -> None:
    """Else the list would hide what could be run."""
    shown = [shlex.join(filled(line)) for page in DOCS.glob("*.md") for line in commands_of(page.stem)]
    assert [start for start in REASONS if not any(line.startswith(start) for line in shown)] == []


@pytest.mark.slow
@pytest.mark.parametrize("page", ["compress-a-vit", "sparsify-a-resnet"])
def test_the_workflow_of_a_task_runs_as_shown_on_tiny_data(page: str, folder: Path, run_smoke: Callable[[str], int]) -> None:
    (text,) = re.findall(r"```yaml\n(version: 1.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)[:1]
    assert run_smoke(text) == 0
    status = api.status("@last", workspace=api.open_workspace())
    assert {node.state for node in status.nodes.values()} <= {"done", "hit"}


@pytest.fixture
def run_smoke() -> Callable[[str], int]:
    def run(text: str) -> int:
        Path("page.yaml").write_text(text)
        return main(["submit", "page.yaml", "--smoke", "--executor", "inline", "--until", "evaluate", "-q"])

    return run
