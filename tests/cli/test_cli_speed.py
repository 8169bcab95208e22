"""What a command may import: the first line of output comes before a person notices a wait."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from cli_calls import Cli

HEAVY = ("ray", "torch", "numpy", "botocore", "rich", "onnx", "onnxruntime", "sklearn", "asyncio", "multiprocessing", "ssl")


def modules_after(*arguments: str) -> set[str]:
    """The top-level modules that a call has imported by its end."""
    code = f"import sys, orchestrator.cli; orchestrator.cli.main({list(arguments)!r}); print('MODULES', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": ""}
    )
    return set(done.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "chain.yaml"],
        ["submit", "chain.yaml"],
        ["status"],
        ["stages", "ls"],
        ["validate", "chain.yaml"],
        ["ls", "--where", "status=done"],
        ["events", "@last"],
        ["why", "last"],
        ["graph", "@last"],
        ["wait", "@last"],
        ["plan", "chain.yaml", "--diff", "@last"],
        ["show", "@last/last", "--lineage"],
        ["resume", "@last"],
        ["config", "show"],
        ["completion", "fish"],
    ],
)
def test_planning_and_looking_load_nothing_heavy(cli: Cli, finished: str, arguments: list[str]) -> None:
    assert modules_after(*arguments) & {*HEAVY, "orchestrator.engine.scheduler", "orchestrator.sweeps.search"} == set()


@pytest.mark.parametrize("arguments", [["status", "@last"], ["sweep", "show"], ["show", "@last"]])
def test_looking_at_a_sweep_loads_nothing_heavy(cli: Cli, searched: str, arguments: list[str]) -> None:
    assert modules_after(*arguments) & set(HEAVY) == set()


@pytest.mark.parametrize("arguments", [["best"], ["pareto", "@last"], ["compare", "@last/base", "@last/search/best"]])
def test_judging_a_sweep_loads_neither_ray_nor_torch(cli: Cli, searched: str, arguments: list[str]) -> None:
    assert modules_after(*arguments) & {"ray", "torch", "sklearn", "onnx", "matplotlib"} == set()


def test_help_does_not_even_load_the_workflow_model(cli: Cli) -> None:
    loaded = modules_after("--help")
    assert loaded & {*HEAVY, "pydantic", "yaml", "orchestrator.api"} == set()
