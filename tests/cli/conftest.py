"""The command line as a function, called in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_calls import CHAIN, FAILING, LOSING, SEARCH, SLOW, UNMET, Answer, Cli

from orchestrator.cli import main


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ORCHESTRATOR_STORE", "NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORCHESTRATOR_PROFILES", str(tmp_path / "profiles.toml"))
    (tmp_path / "chain.yaml").write_text(CHAIN)
    (tmp_path / "failing.yaml").write_text(FAILING)
    (tmp_path / "slow.yaml").write_text(SLOW)
    (tmp_path / "search.yaml").write_text(SEARCH)
    (tmp_path / "unmet.yaml").write_text(UNMET)
    (tmp_path / "losing.yaml").write_text(LOSING)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Calls `main` in this process."""

    def call(*arguments: str) -> Answer:
        capfd.readouterr()
        code = main(arguments)
        return Answer(code, *capfd.readouterr())

    return call


@pytest.fixture
def finished(cli: Cli) -> str:
    """A store in which chain.yaml has run; returns the run's id."""
    answer = cli("submit", "chain.yaml", "--executor", "inline", "--json")
    assert answer.code == 0, answer.err
    return str(answer.lines[-1]["run"])


@pytest.fixture
def searched(cli: Cli) -> str:
    """A store in which search.yaml has run; returns the run's id."""
    answer = cli("submit", "search.yaml", "--executor", "inline", "--json")
    assert answer.code == 0, answer.err
    return str(answer.lines[-1]["run"])
