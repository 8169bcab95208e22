"""Golden transcripts: `python tests/cli/write_transcripts.py` writes docs/transcripts/; a test holds the program to them.

Small workflows without torch are really run, in a temporary folder. Ids of runs, times and places are made the same each time.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from cli_calls import CHAIN

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "transcripts"
RUNS = ("k7m2abcd", "p3x8efgh", "w9r4stuv", "c5n6hjkm", "y2z3qrst")

FAILING = """\
version: 1
name: failing
nodes:
  fine: {stage: probe.echo, params: {value: 1}}
  broken: {stage: probe.fail, params: {failures: 1}, inputs: {inputs: [fine]}}
  below: {stage: probe.echo, inputs: {inputs: [broken]}}
"""

SEARCH = """\
version: 1
name: searching
nodes:
  base: {stage: probe.echo, params: {value: 0.5}}
  search:
    sweep:
      sampler: grid
      objectives: {score.value: maximize, draw.value: minimize}
      constraints: [{metric: score.value, min: 0.3}]
      space: {draw.value: {choice: [1, 2]}, score.value: {choice: [0.2, 0.6, 0.9]}}
    nodes:
      draw: {stage: probe.echo, inputs: {inputs: [base]}}
      score: {stage: probe.echo, inputs: {inputs: [draw]}}
  after: {stage: probe.echo, inputs: {inputs: [search.best.score]}}
"""


class Transcript(NamedTuple):
    """A page: its title, what it shows, its workflow, commands that are not shown, and those that are."""

    title: str
    about: str
    file: str
    text: str
    before: Sequence[str]
    shown: Sequence[str]


INLINE = "--executor inline"
TRANSCRIPTS = {
    "plan": Transcript(
        "Plan", "New work, then the same file with one parameter changed: what is a hit, and why the rest is not.",
        "chain.yaml", CHAIN, [],
        ["plan chain.yaml", f"submit chain.yaml {INLINE} -q", "plan chain.yaml --set last.value=5",
         "plan chain.yaml --set first.value=4 --why middle", "plan chain.yaml --set first.value=4 --diff @last",
         f"submit chain.yaml {INLINE}"],
    ),
    "failure": Transcript(
        "Failure", "A stage fails, once; what is said, what is kept, and how to go on.",
        "failing.yaml", FAILING, [],
        [f"submit failing.yaml {INLINE}", "status @last", "retry @last-failed"],
    ),
    "status": Transcript(
        "Status", "Runs as a list and in full, with the trials of a search; why a node was run; the run as a tree.",
        "search.yaml", SEARCH, [f"submit search.yaml {INLINE} --tag team=vision -q"],
        ["ls --where tag.team=vision", "status @last", "why after", "graph @last", "show @last/after --lineage"],
    ),
    "best": Transcript(
        "Best", "A search from its first trial to its winner, the front, and the winner made again.",
        "search.yaml", SEARCH, [],
        [f"submit search.yaml {INLINE}", "best @last", "pareto @last", f"reproduce @last/search/best/score {INLINE}",
         "compare @last/search/t0001/score @last/search/best/score"],
    ),
    "errors": Transcript(
        "Errors", "What cannot be meant is answered with what was found, what is legal, and what to type next.",
        "chain.yaml", CHAIN.replace("{value: 3}", "{valeu: 3}").replace("[first]", "[frist]"), [],
        ["validate chain.yaml", "sumbit chain.yaml", "plan absent.yaml", "stages show sparsfy.lbc", "status k7m2",
         "ls --where state=done"],
    ),
}  # fmt: skip


def render(name: str) -> str:
    """The page of a transcript, its commands really run."""
    from orchestrator.cli import main

    found = TRANSCRIPTS[name]
    blocks = [f"$ cat {found.file}\n{found.text}"]
    with tempfile.TemporaryDirectory() as folder, chdir(folder), mock.patch.dict(os.environ):
        for variable in ("ORCHESTRATOR_STORE", "COLUMNS"):
            os.environ.pop(variable, None)
        Path(found.file).write_text(found.text)
        for line in (*found.before, *found.shown):
            text = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
            with redirect_stdout(text), redirect_stderr(text):
                code = main(line.split())
            said = text.buffer.getvalue().decode()  # type: ignore[attr-defined]
            if line in found.shown:
                ending = f"(exit code {code})\n" if code else ""
                blocks.append(f"$ orchestrator {line}\n{said}{ending}")
        runs = sorted(Path(".orchestrator/runs").glob("*/run.json"), key=lambda file: file.stat().st_mtime_ns)
        body = normal("\n".join(blocks), runs=[file.parent.name for file in runs], folder=folder)
    head = f"# {found.title}\n\n{found.about}\nWritten by `python tests/cli/write_transcripts.py` from real runs."
    return f"{head}\n\n```console\n{body}```\n"


def normal(text: str, *, runs: Sequence[str], folder: str) -> str:
    """`text` with what differs from call to call made the same."""
    for run, shown in zip(runs, RUNS, strict=False):
        text = text.replace(run, shown)
    text = text.replace(folder, "/home/me/work").replace(str(ROOT), "/opt/orchestrator")
    text = re.sub(r"/tmp\S*orchestrator-reproduce-\w+|\S*/orchestrator-reproduce-\w+", "/tmp/orchestrator-reproduce-1", text)
    text = re.sub(r"(?m)^run \w{8};", f"run {RUNS[0]};", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "2026-11-02T14:02:07.511Z", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "2026-11-02 14:02", text)
    text = re.sub(r"\b\d+(?:\.\d+s|m\d\ds)\b", "0.10s", text)
    text = re.sub(r"(?<=have cost 0\.10s: )\S+x", "1.2x", text)
    return re.sub(r"\.py:\d+", ".py:40", text)


def same(one: str, other: str) -> bool:
    """Whether two pages say the same; columns may be wider where something took longer."""
    return re.sub(r" +", " ", one) == re.sub(r" +", " ", other)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    FOLDER.mkdir(exist_ok=True)
    for each in TRANSCRIPTS:
        (FOLDER / f"{each}.md").write_text(render(each))
