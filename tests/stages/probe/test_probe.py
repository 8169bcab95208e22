"""Probe stages do what an engine's tests and an installation check need of them."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from stages.catalog import find_stage, kind_stages, load_implementation
from stages.contract import Artifact, Cancelled, TrainingDiverged, local_context


def context_for(name, folder, *, inputs=None, seed=0, **settings):
    return local_context(find_stage(name).settings.model_validate(settings), folder=folder, inputs=inputs, seed=seed)


def run(name, folder, **arguments):
    context = context_for(name, folder, **arguments)
    result = load_implementation(find_stage(name))(context)
    files = {path.name: path for path in context.output.iterdir()}
    return Artifact(kind="probe", key=folder.name * 8, files=files, metrics=result.metrics)


def test_echo_writes_its_value_and_the_keys_of_its_inputs(tmp_path):
    first, second = run("probe.echo", tmp_path / "a", value={"x": [1, None]}), run("probe.echo", tmp_path / "b", value=2)
    both = run("probe.echo", tmp_path / "c", inputs={"inputs": [first, second]}, value="sum", seed=5)
    written = json.loads(both.file("value.json").read_text())
    assert written == {"value": "sum", "seed": 5, "inputs": [first.key, second.key]}
    assert both.metrics == {"value": "sum", "num_inputs": 2}
    assert first.metrics["value"] == {"x": [1, None]}


def test_echo_and_the_descriptions_load_no_tensor_library():
    """An engine's own tests start thousands of these."""
    code = "import sys, stages.probe.settings, stages.probe.echo; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("size", [0, 1, 7, 16 * 2**20 + 3])
def test_bytes_follow_from_seed_and_input(tmp_path, size):
    blob = run("probe.bytes", tmp_path / "a", size=size)
    assert blob.file("blob.bin").stat().st_size == size
    assert run("probe.bytes", tmp_path / "b", size=size).metrics == blob.metrics
    if size >= 7:
        assert run("probe.bytes", tmp_path / "c", size=size, seed=1).metrics["digest"] != blob.metrics["digest"]
        child = run("probe.bytes", tmp_path / "d", size=size, inputs={"input": blob})
        assert child.metrics["digest"] != blob.metrics["digest"]


def test_sleep_stops_when_asked_and_goes_on_from_there(tmp_path):
    calls = []

    def cancel_at_third():
        calls.append(None)
        if len(calls) == 3:
            raise Cancelled

    context = context_for("probe.sleep", tmp_path, seconds=0.3)
    stage = load_implementation(find_stage("probe.sleep"))
    with pytest.raises(Cancelled):
        stage(replace(context, check_cancelled=cancel_at_third))
    reports = []
    result = stage(replace(context, report=lambda *, step, total, metrics: reports.append((step, total))))
    assert reports == [(3, 6), (4, 6), (5, 6), (6, 6)]
    assert result.measurements == {"num_steps_resumed": 2}


def test_fail_succeeds_after_the_failures_asked_for(tmp_path):
    """The count lies in the saved states, so it survives the processes that fail."""
    for _ in range(2):
        with pytest.raises(RuntimeError, match="fails on purpose"):
            run("probe.fail", tmp_path, failures=2)
    assert run("probe.fail", tmp_path, failures=2, value=7).metrics == {"value": 7, "num_inputs": 0, "num_failures": 2}
    with pytest.raises(TrainingDiverged):
        run("probe.fail", tmp_path / "other", mode="diverge")


@pytest.mark.parametrize(("mode", "status"), [("exit", 3), ("kill", -9), ("segfault", -11)])
def test_fail_ends_its_process_in_the_way_asked_for(tmp_path, mode, status):
    code = (
        "import sys, resource; from pathlib import Path; from stages.contract import local_context; "
        "from stages.probe.settings import FailSettings; from stages.probe.fail import fail; "
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); "
        f"fail(local_context(FailSettings(mode={mode!r}), folder=Path(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=False, capture_output=True)
    assert done.returncode == status
    assert (tmp_path / "checkpoints").exists()


def test_every_probe_names_its_metrics_and_its_kind():
    probes = kind_stages("probe")
    assert sorted(probes) == ["probe.bytes", "probe.echo", "probe.fail", "probe.sleep"]
    assert {spec.output for spec in probes.values()} == {"probe"}
