"""What the first page says, done: its commands run one after the other, on tiny data, and leave what it promises."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "getting-started.md"
COMMAND = [sys.executable, "-m", "orchestrator"]


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("orchestrator ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.mark.slow
def test_the_commands_of_the_first_page_work_in_their_order(tmp_path: Path) -> None:
    environment = {**os.environ, "ORCHESTRATOR_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    environment.pop("ORCHESTRATOR_STORE", None)
    verbs = []
    for words in commands():
        if words[0] == "ui":  # goes on until it is stopped; it has tests of its own
            continue
        small = ["--smoke"] if words[0] in ("submit", "plan") else []  # the same nodes, with tiny data and one step each
        small += ["--executor", "inline"] if words[0] == "submit" else []
        run = subprocess.run(
            [*COMMAND, *words, *small], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, f"{shlex.join(words)}\n{run.stdout}{run.stderr}"
        verbs.append(words[0])
    assert verbs[:3] == ["init", "plan", "submit"]
    assert "</html>" in next(tmp_path.glob("report-*.html")).read_text()
    assert "<svg" in (tmp_path / "front.html").read_text()
    assert any((tmp_path / "out").glob("*.safetensors"))
