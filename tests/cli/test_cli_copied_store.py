"""A store that was copied elsewhere, its workflow files and every process gone: all that looks at runs still answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cli_calls import Cli

LOOKING = (
    ("ls",),
    ("status", "RUN"),
    ("show", "RUN"),
    ("show", "RUN/after"),
    ("logs", "RUN"),
    ("logs", "RUN", "search/t0000"),
    ("events", "RUN"),
    ("best", "RUN"),
    ("pareto", "RUN", "--csv", "-"),
    ("sweep", "show", "RUN", "search"),
    ("compare", "RUN/base", "RUN/after"),
    ("why", "after@RUN"),
    ("graph", "RUN"),
    ("report", "RUN", "--out", "page.html"),
    ("report", "RUN", "--format", "md"),
    ("card", "RUN/after"),
    ("artifacts", "ls"),
    ("artifacts", "get", "RUN/after", "out"),
    ("artifacts", "verify", "--all"),
    ("gc",),
    ("wait", "RUN"),
)


@pytest.fixture
def copied(cli: Cli, searched: str, tmp_path: Path) -> str:
    """The run; its store stands somewhere else now, and what it was made from is gone."""
    shutil.copytree(tmp_path / ".orchestrator", tmp_path / "elsewhere" / "store")
    shutil.rmtree(tmp_path / ".orchestrator")
    for file in tmp_path.glob("*.yaml"):
        file.unlink()
    return searched


@pytest.mark.parametrize("words", LOOKING, ids=" ".join)
def test_a_copied_store_tells_all_that_the_first_one_did(words: tuple[str, ...], cli: Cli, copied: str) -> None:
    answer = cli("--store", "elsewhere/store", *(word.replace("RUN", copied) for word in words))
    assert answer.code == 0, answer.err
    assert answer.out or answer.err


def test_the_copy_is_as_good_as_the_store_for_going_on(cli: Cli, copied: str) -> None:
    answer = cli("--store", "elsewhere/store", "resume", copied, "--executor", "inline")
    assert answer.code == 0, answer.err
    assert "nothing to do" in answer.out + answer.err
