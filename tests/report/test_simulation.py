"""Plans on clusters that are only described: how long, how busy, what holds them up; and held against a run that really was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator import api
from orchestrator.errors import PlanError, UsageError, WorkflowError
from orchestrator.report.simulation import Simulation, simulate
from orchestrator.report.simulation_text import simulation_document, simulation_lines
from orchestrator.report.text import Style
from orchestrator.workflow.cluster_spec import ClusterSpec, load_cluster
from orchestrator.workflow.history import History, Timing
from orchestrator.workflow.plan import Selection

FAN = """
version: 1
name: fan
nodes:
  base: {stage: probe.sleep, params: {seconds: 0.3}}
  wide: {stage: probe.sleep, params: {seconds: 0.2}, foreach: {value: [1, 2, 3, 4]}, inputs: {inputs: base}}
  last: {stage: probe.sleep, params: {seconds: 0.1}, inputs: {inputs: wide}}
"""
SEARCH = """
version: 1
name: search
nodes:
  base: {stage: probe.echo}
  search:
    sweep: {trials: 12, sampler: random, objectives: {late.value: minimize}, space: {late.value: {int: [0, 1000000]}}}
    nodes:
      same: {stage: probe.echo, params: {value: 7}, inputs: {inputs: base}}
      late: {stage: probe.echo, inputs: {inputs: same}}
  after: {stage: probe.echo, inputs: {inputs: search.best.late}}
"""
SECONDS = {"base": "10m", "search.same": "1h", "search.late": "30m", "after": "20m"}


def cluster(*kinds: dict[str, Any], **rest: Any) -> ClusterSpec:
    return ClusterSpec.model_validate({"nodes": kinds or [{"cpus": 1}], **rest})


def run_on(plan: Any, workspace: api.Workspace, *kinds: dict[str, Any], **rest: Any) -> Simulation:
    return simulate(plan, cluster(*kinds, **rest), workspace.artifacts)


def test_what_is_predicted_is_near_what_a_real_run_takes(plan_text, run_text, workspace) -> None:
    """Within a factor of two, on a machine that others use too; the stages of this run sleep for 1.2 s in all."""
    actual = run_text(FAN)
    again = plan_text(FAN, selection=Selection(rerun=("base",)))
    found = run_on(again, workspace, {"cpus": 1}, overhead="10ms")
    assert found.num_attempts == 6
    assert 0.5 < found.makespan_s / actual.status.seconds < 2.0
    assert found.path_s <= found.makespan_s


def test_more_machines_shorten_it_until_the_longest_chain_holds_it_up(plan_text, run_text, workspace) -> None:
    run_text(FAN)
    again = plan_text(FAN, selection=Selection(rerun=("base",)))
    one, four, many = (run_on(again, workspace, {"cpus": 1, "count": count}) for count in (1, 4, 64))
    assert one.makespan_s > four.makespan_s
    assert four.makespan_s == many.makespan_s
    assert (one.bottleneck, many.bottleneck) == ("CPU", "path")
    assert many.path[0] == "base"
    assert many.path[-1] == "last"
    assert many.busy["CPU"] < 0.1 < 0.9 < one.busy["CPU"]


def test_a_search_is_foreseen_with_its_trials_what_they_share_and_what_follows(plan_text, workspace) -> None:
    found = run_on(plan_text(SEARCH), workspace, {"cpus": 4}, seconds=SECONDS, overhead="1s")
    assert found.trials == {"search": 12}
    assert found.num_attempts == 1 + 1 + 12 + 1
    hours = 10 / 60 + 1 + 12 / 2 + 20 / 60
    assert found.used.cpu == pytest.approx(hours, rel=0.01)
    assert found.by_sharing.cpu == pytest.approx(11, rel=0.01), "eleven of twelve trials do not make `same` again"
    assert found.makespan_s == pytest.approx(600 + 3600 + 3 * 1800 + 1200, rel=0.01), "twelve trials, four at a time"
    assert [label.rpartition("/")[2] for label in found.path] == ["base", "same", "late", "after"]


def test_max_concurrent_of_a_sweep_counts(plan_text, workspace) -> None:
    text = SEARCH.replace("trials: 12,", "trials: 12, max_concurrent: 2,")
    found = run_on(plan_text(text), workspace, {"cpus": 64}, seconds=SECONDS, overhead="1s")
    assert found.makespan_s == pytest.approx(600 + 3600 + 6 * 1800 + 1200, rel=0.01)


def test_what_is_a_hit_takes_no_time_and_is_told_as_saved(plan_text, run_text, workspace) -> None:
    run_text(FAN)
    found = run_on(plan_text(FAN), workspace)
    assert found.num_attempts == 0
    assert simulation_lines(found, plan=plan_text(FAN), style=Style())[-1] == "nothing to run: every node is a hit"
    longer = FAN + "  more: {stage: probe.sleep, params: {seconds: 0.1}, inputs: {inputs: last}}\n"
    assert run_on(plan_text(longer), workspace).by_hits.cpu * 3600 >= 1.2


def test_failures_outages_and_prices_count_and_the_seed_decides(plan_text, workspace) -> None:
    kind = {
        "cpus": 2,
        "count": 6,
        "usd_per_hour": 0.5,
        "preemptions_per_hour": 0.5,
        "failures_per_hour": 0.3,
        "back_after": "5m",
    }
    calm = run_on(plan_text(SEARCH), workspace, {"cpus": 2, "count": 6}, seconds=SECONDS)
    rough = run_on(plan_text(SEARCH), workspace, kind, seconds=SECONDS, failure_rate=0.1, seed=5)
    assert rough.num_failed_attempts > 0
    assert rough.makespan_s > calm.makespan_s
    assert rough.lost.cpu > 0
    assert rough.usd == pytest.approx(6 * 0.5 * rough.makespan_s / 3600)
    assert rough == run_on(plan_text(SEARCH), workspace, kind, seconds=SECONDS, failure_rate=0.1, seed=5)


def test_recorded_gpu_memory_keeps_nodes_apart_in_a_prediction_too(plan_text, workspace) -> None:
    """Halves of a GPU that need more than half of its memory run one after the other."""
    text = "version: 1\nname: w\nnodes:\n  a: {stage: probe.echo, foreach: {value: [1, 2]}, resources: {gpus: 0.5}}\n"
    peak = Timing(settings={"value": 1}, gpus=0.5, seconds=600.0, peak_gpu_bytes=50 * 2**30, gpu_bytes=80 * 2**30)
    History(workspace.store).write("r1", "probe.echo", [peak], began="2026")
    kind = {"cpus": 8, "gpus": 1, "gpu_memory": "80GiB"}
    assert run_on(plan_text(text), workspace, kind).makespan_s == pytest.approx(1200, rel=0.01)
    assert run_on(plan_text(text), workspace, {**kind, "gpu_memory": "140GiB"}).makespan_s == pytest.approx(600, rel=0.01)


def test_several_workers_are_one_attempt_on_as_many_places(plan_text, workspace) -> None:
    text = (
        "version: 1\nname: w\nnodes:\n"
        "  a: {stage: pretrain.classifier, params: {model: cnn_micro, data: digits}, resources: {workers: 4}}\n"
    )
    found = run_on(plan_text(text), workspace, {"cpus": 1, "count": 5}, seconds={"a": "1h"})
    assert (found.num_attempts, found.num_failed_attempts) == (1, 0)
    assert found.used.cpu == pytest.approx(4, rel=0.01)
    assert found.busy["CPU"] == pytest.approx(0.8, rel=0.01)
    rough = run_on(plan_text(text), workspace, {"cpus": 1, "count": 5, "failures_per_hour": 0.5}, seconds={"a": "1h"})
    assert (rough.num_attempts, rough.num_failed_attempts) == (2, 1)


def test_nodes_without_a_record_are_named_and_never_guessed(plan_text, workspace) -> None:
    with pytest.raises(UsageError, match=r"no record yet of how long base, wide, last takes") as caught:
        run_on(plan_text(FAN), workspace)
    assert "seconds: {base: 10m, wide: 10m, last: 10m}" in caught.value.next_step
    with pytest.raises(UsageError, match="names bas, which the workflow has not; it has base, wide, last"):
        run_on(plan_text(FAN), workspace, seconds={"bas": "1h"})


def test_a_node_that_fits_no_machine_is_told(plan_text, workspace) -> None:
    text = "version: 1\nname: w\nnodes:\n  a: {stage: probe.echo, resources: {gpus: 1}}\n"
    with pytest.raises(PlanError, match="can never run here") as caught:
        run_on(plan_text(text), workspace, seconds={"a": "1h"})
    assert "memory" not in caught.value.message, "nobody has said how much there is"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nodes: []", "nodes"),
        ("nodes: [{cpu: 1}]", "nodes.0.cpu: extra inputs are not permitted; legal here: count, cpus, gpus"),
        ("nodes: [{cpus: 1, memory: 64}]", "expected a size with its unit"),
        ("machines: 3", "legal here: nodes, failure_rate"),
        ("- 1", "the file: "),
    ],
)
def test_a_cluster_file_that_says_nonsense_is_told_what_is_legal(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        load_cluster(str(file))


def test_a_cluster_file_that_is_no_yaml_or_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_cluster(str(tmp_path / "absent.yaml"))
    (tmp_path / "c.yaml").write_text("nodes: [")
    with pytest.raises(WorkflowError):
        load_cluster(str(tmp_path / "c.yaml"))


def test_a_simulation_as_text_and_as_data_says_the_same(plan_text, workspace) -> None:
    plan = plan_text(SEARCH)
    found = run_on(plan, workspace, {"cpus": 4}, seconds=SECONDS)
    lines = "\n".join(simulation_lines(found, plan=plan, style=Style()))
    assert "makespan   3h" in lines
    assert "saved      11 CPU-h by sharing" in lines
    assert "12 trials of search drawn evenly" in lines
    document = json.loads(json.dumps(simulation_document(found)))
    assert document["trials"] == {"search": 12}
    assert document["makespan_s"] == pytest.approx(found.makespan_s, abs=0.01)


def test_a_simulation_needs_neither_ray_nor_torch(tmp_path: Path) -> None:
    """It is for laptops that have no cluster, and must answer in a moment."""
    (tmp_path / "w.yaml").write_text(SEARCH)
    (tmp_path / "c.yaml").write_text(json.dumps({"nodes": [{"cpus": 4}], "seconds": SECONDS}))
    code = (
        "import sys\nfrom orchestrator.cli import main\n"
        "assert main(['plan', 'w.yaml', '--simulate', 'c.yaml']) == 0\n"
        "assert not {'ray', 'torch', 'numpy'} & set(sys.modules), 'loaded'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
