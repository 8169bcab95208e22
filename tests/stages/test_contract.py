"""The exam that every stage of the catalog sits, with the small settings of its own `example`.

A new stage is examined by being listed. `orchestrator stages check` is the same exam for stages of other packages, one by one
in processes of their own; here all share one, and what is an input of many is made once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from orchestrator.cli.stage_exam import FAILS_ON_PURPOSE, NEEDS_FILES, NEEDS_GPU, run_in
from stages.catalog import all_stages

STAGES = sorted(set(all_stages()) - FAILS_ON_PURPOSE - NEEDS_GPU - NEEDS_FILES)


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
from orchestrator.cli.stage_exam import run_in
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
