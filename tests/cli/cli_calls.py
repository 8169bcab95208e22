"""Small workflows that need no torch, what a call of the command line gives back, and the command line as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHAIN = """\
version: 1
name: chain
nodes:
  first: {stage: probe.echo, params: {value: 3}}
  middle: {stage: probe.echo, inputs: {inputs: [first]}, foreach: {value: [1, 2]}}
  last: {stage: probe.echo, inputs: {inputs: [middle]}}
"""

FAILING = """\
version: 1
name: failing
nodes:
  fine: {stage: probe.echo, params: {value: 1}}
  broken: {stage: probe.fail, inputs: {inputs: [fine]}}
  below: {stage: probe.echo, inputs: {inputs: [broken]}}
"""

SLOW = """\
version: 1
name: slow
nodes:
  first: {stage: probe.echo}
  wait: {stage: probe.sleep, params: {seconds: 60}, inputs: {inputs: [first]}}
"""

SEARCH = """\
version: 1
name: searching
nodes:
  base: {stage: probe.echo, params: {value: 0.5}}
  search:
    sweep:
      trials: 6
      sampler: random
      objectives: {score.value: maximize, draw.value: minimize}
      constraints: [{metric: score.value, min: 0.2}]
      space: {score.value: {uniform: [0, 1]}, draw.value: {choice: [1, 2, 3]}}
    nodes:
      draw: {stage: probe.echo, inputs: {inputs: [base]}}
      score: {stage: probe.echo, inputs: {inputs: [draw]}}
  after: {stage: probe.echo, inputs: {inputs: [search.best.score]}}
"""

UNMET = SEARCH.replace("min: 0.2", "min: 10").replace("searching", "unmet")

LOSING = """\
version: 1
name: losing
nodes:
  search:
    sweep:
      sampler: grid
      max_failures: 1
      objectives: {score.value: maximize}
      space: {score.value: {choice: [1, 2]}, draw.failures: {choice: [0, 5, 6]}}
    nodes:
      draw: {stage: probe.fail}
      score: {stage: probe.echo, inputs: {inputs: [draw]}}
"""


@dataclass(frozen=True)
class Answer:
    """What one call gave back."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Answer]


def spawn(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The command line as a process of its own."""
    command = [sys.executable, "-m", "orchestrator", *arguments]
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options)


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something another process does."""
    deadline_s = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline_s, "it never came to that"
        time.sleep(0.05)


def has_started(node: str) -> bool:
    """Whether a run in the folder's own store has started this node."""
    files = Path(".orchestrator/runs").glob("*/events.jsonl")
    return any(f'"node_started", "node": "{node}"' in file.read_text() for file in files)
