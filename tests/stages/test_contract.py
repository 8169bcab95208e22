"""The exam that every stage of the catalog sits, with the small settings of its own `example`.

A new stage is examined by being listed. Inputs come from the first stage that makes such a kind of artifact, run the same way.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import api
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text
from stages.catalog import all_stages
from stages.contract import Port, StageSpec

FAILS_ON_PURPOSE = {"probe.fail"}
NEEDS_GPU = {"export.semi_structured"}
"""Examined by the tests in `tests/gpu/`: the exam's processes have no GPU and its models no masks."""
STAGES = sorted(set(all_stages()) - FAILS_ON_PURPOSE - NEEDS_GPU)


@cache
def producer(kind: str) -> StageSpec:
    """The first stage that makes an artifact of this kind, one without inputs first."""
    makers = [spec for spec in all_stages().values() if spec.output == kind and spec.name not in FAILS_ON_PURPOSE]
    assert makers, f"no stage makes a {kind}"
    return min(makers, key=lambda spec: len(required(spec)))


def required(spec: StageSpec) -> dict[str, Port]:
    return {name: port for name, port in spec.inputs.items() if not port.optional}


def nodes_for(spec: StageSpec, name: str, changes: Mapping[str, Any] | None = None) -> dict[str, dict]:
    """The stage as a node, with nodes before it that make its inputs; `changes` are put over its example."""
    nodes: dict[str, dict] = {}
    inputs = {}
    for port_name, port in required(spec).items():
        maker = producer(port.kind)
        wanted = spec.example_inputs.get(port_name, {})
        made = f"made_{port_name}" if wanted else f"made_{port.kind}"
        nodes.update(nodes_for(maker, made, wanted))
        inputs[port_name] = made
    nodes[name] = {"stage": spec.name, "params": {**spec.example, **(changes or {})}, "inputs": inputs}
    return nodes


def run_in(folder: Path, name: str) -> tuple[api.RunResult, api.Plan, api.Workspace]:
    text = yaml.safe_dump({"version": 1, "name": "exam", "nodes": nodes_for(all_stages()[name], "subject")}, sort_keys=False)
    workspace = api.open_workspace(str(folder))
    plan = api.plan_checked(check_workflow(load_text(text, file="exam.yaml")), workspace=workspace)
    return api.submit(plan, workspace=workspace, executor="inline"), plan, workspace


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory) -> Path:
    """One store for all stages: what is an input of many is made once."""
    return tmp_path_factory.mktemp("exam") / "store"


@pytest.fixture(scope="module")
def outcome(shared_store):
    return cache(lambda name: run_in(shared_store, name))


@pytest.mark.parametrize("name", STAGES)
def test_runs_on_its_example_and_reports_what_it_declares(name, outcome):
    result, plan, workspace = outcome(name)
    node = result.status.nodes["subject"]
    assert node.state in ("done", "hit"), node.trace
    spec = all_stages()[name]
    record = workspace.artifacts.find(name, plan.nodes["subject"].key)
    assert record is not None
    missing = set(spec.metrics) - set(record.metrics) - set(record.measurements)
    assert not missing, f"declared and not reported: {sorted(missing)}"
    assert record.kind == spec.output
    assert record.files


@pytest.mark.parametrize("name", STAGES)
def test_same_settings_and_seed_give_the_same_content(name, outcome, tmp_path):
    _, plan, workspace = outcome(name)
    _, plan_again, workspace_again = run_in(tmp_path / "store", name)
    key = plan.nodes["subject"].key
    assert plan_again.nodes["subject"].key == key
    digests = [w.artifacts.find(name, key).content_digest for w in (workspace, workspace_again)]
    assert digests[0] == digests[1], f"{name} is not reproducible"


@pytest.mark.parametrize("name", STAGES)
def test_settings_survive_being_written_and_read(name):
    spec = all_stages()[name]
    settings = spec.settings(**spec.example)
    assert spec.settings(**settings.model_dump(mode="json", exclude_unset=True)) == settings


KILLED = """
import os, signal, sys
from orchestrator.engine import worker
from tests.stages.test_contract import run_in
from pathlib import Path
name, folder, calls = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
real = worker.Worker._call_stage
def call(self, work, *rest):
    self.seen = 0
    if work.label == "subject":
        def is_cancelled():
            self.seen += 1
            if self.seen == calls:
                os.kill(os.getpid(), signal.SIGKILL)
            return False
        self.is_cancelled = is_cancelled
    return real(self, work, *rest)
worker.Worker._call_stage = call
result, plan, workspace = run_in(folder, name)
print(result.state.value, result.status.nodes["subject"].trace)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_killed_in_the_middle_it_ends_with_the_same_content(name, outcome, tmp_path):
    """A stage that loses its state in a kill, or starts from a half-written one, gives other weights."""
    _, plan, workspace = outcome(name)
    expected = workspace.artifacts.find(name, plan.nodes["subject"].key).content_digest
    where = {"env": {**os.environ, "PYTHONPATH": str(Path.cwd())}, "cwd": tmp_path, "capture_output": True, "text": True}
    killed = subprocess.run([sys.executable, "-c", KILLED, name, str(tmp_path / "store"), "13"], check=False, **where)
    assert killed.returncode in (-9, 0), killed.stderr
    result, plan, workspace = run_in(tmp_path / "store", name)
    assert result.status.nodes["subject"].state in ("done", "hit")
    assert workspace.artifacts.find(name, plan.nodes["subject"].key).content_digest == expected


@pytest.mark.parametrize("name", STAGES)
def test_writes_only_inside_its_folder(name, tmp_path, monkeypatch):
    elsewhere, home, temporary = tmp_path / "cwd", tmp_path / "home", tmp_path / "tmp"
    for folder in (elsewhere, home, temporary):
        folder.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HOME", str(home))
    run_in(tmp_path / "store", name)
    assert list(elsewhere.iterdir()) == []
    assert list(home.iterdir()) == []
    assert not [path for path in (tmp_path / "store" / "work").rglob("*") if path.is_file() and "locks" not in path.parts]
