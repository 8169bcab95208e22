"""Several machines that come and go, in virtual time; and the code that is sent to them."""

from __future__ import annotations

import io
import zipfile
from types import SimpleNamespace
from typing import Any

import pytest
from virtual import Attempt, VirtualMachine, drive

from orchestrator.cli.job import main, unfit
from orchestrator.engine import attached
from orchestrator.engine.admission import MAX_STRANDED_S, Admission
from orchestrator.engine.code_package import code_package
from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.executors.simulated import Outage
from orchestrator.engine.hosts import refuse_private_store
from orchestrator.engine.retries import more_memory
from orchestrator.engine.work import Ending, Outcome
from orchestrator.errors import ClusterError
from orchestrator.workflow.spec import Resources

HEAD = "version: 1\nname: w\nnodes:\n"


def shape(name: str, **offers: Any) -> MachineShape:
    return MachineShape(name=name, **offers)


def test_half_a_place_on_each_of_two_machines_is_no_place() -> None:
    """A request that was admitted so would wait in Ray with its timeout running."""
    admission = Admission([shape("a", cpus=3), shape("b", cpus=3)], max_at_once=None)
    for label in "xyz":
        admission.add(label, Resources(cpus=2))
    assert admission.admit(0.0) == ["x", "y"]
    admission.release("x")
    assert admission.admit(1.0) == ["z"]


def test_small_requests_leave_gpus_and_large_gaps_to_others() -> None:
    admission = Admission([shape("gpu", cpus=4, gpus=1), shape("large", cpus=8), shape("small", cpus=2)], max_at_once=None)
    for label, resources in {"a": Resources(cpus=1), "b": Resources(cpus=1)}.items():
        admission.add(label, resources)
    admission.admit(0.0)
    admission.add("big", Resources(cpus=8))
    admission.add("trained", Resources(cpus=4, gpus=1))
    assert set(admission.admit(1.0)) == {"big", "trained"}


def test_fractions_of_a_gpu_share_one_machine() -> None:
    admission = Admission([shape("a", cpus=8, gpus=1)], max_at_once=None)
    for label in "vwxyz":
        admission.add(label, Resources(cpus=1, gpus=0.25))
    assert admission.admit(0.0) == ["v", "w", "x", "y"]


def test_workers_start_together_or_not_at_all_and_hold_what_each_has() -> None:
    """Half of them would hold machines and wait for the others, which wait for them."""
    admission = Admission([shape("a", cpus=3), shape("b", cpus=3)], max_at_once=None)
    admission.add("pair", Resources(cpus=2, workers=2))
    admission.add("single", Resources(cpus=1))
    assert admission.admit(0.0) == ["pair", "single"]
    admission.add("again", Resources(cpus=2, workers=2))
    admission.release("single")
    assert admission.admit(1.0) == []
    admission.release("pair")
    assert admission.admit(2.0) == ["again"]
    assert admission.room_for([Resources(cpus=1, workers=2)]) == 3


def test_more_workers_than_there_are_places_are_refused_with_what_there_is() -> None:
    """Ray Train would look for a place for ever."""
    admission = Admission([shape("a", cpus=3), shape("b", cpus=3)], max_at_once=None)
    assert admission.reason_infeasible(Resources(cpus=1, workers=6)) == ""
    assert admission.reason_infeasible(Resources(cpus=2, workers=3)) == (
        "it asks for 3 workers with 2 CPU each, and there is 3 CPU"
    )
    alone = Admission([shape("a", cpus=3)], max_at_once=1)
    assert "2 workers, and there is one process; run it on Ray" in alone.reason_infeasible(Resources(workers=2))


def test_workers_that_ran_out_of_memory_get_no_more_than_the_machines_have() -> None:
    machines = [shape("a", cpus=4, memory_bytes=2**30), shape("b", cpus=4, memory_bytes=2**30)]
    outcome = Outcome(ending=Ending.NO_MEMORY, peak_memory_bytes=2**28)
    for workers, expected in ((4, 2**29), (5, None)):
        more = more_memory(outcome, held=Resources(workers=workers), shapes=machines, is_alone=False)
        assert (more[0].memory if more else None) == expected


def test_a_machine_that_joins_is_used_at_once(plan_text) -> None:
    shapes = (shape("a", cpus=1), shape("b", cpus=3))
    machine = VirtualMachine({f"n{i}": [Attempt(10.0)] for i in range(4)}, shapes=shapes, outages=[Outage(0.0, "b", 5.0)])
    nodes = "".join(f"  n{i}: {{stage: probe.echo, params: {{value: {i}}}}}\n" for i in range(4))
    state, _ = drive(plan_text(HEAD + nodes), machine)
    assert state.value == "done"
    assert machine.now_s < 20
    assert [event["machines"] for event in machine.events if event["type"] == "machines_changed"] == [2]


WITH_GPU = (shape("a", cpus=1), shape("g", cpus=1, gpus=1))


@pytest.mark.parametrize("is_preempted", [False, True])
def test_a_node_whose_only_machine_was_lost_waits_for_another(plan_text, is_preempted: bool) -> None:  # noqa: FBT001 - parametrized
    """A preempted machine is back in a minute or two; its node must not fail meanwhile."""
    machine = VirtualMachine({"n": [Attempt(5.0)]}, shapes=WITH_GPU, outages=[Outage(4.0, "g", 120.0, is_preempted)])
    state, _ = drive(plan_text(HEAD + "  n: {stage: probe.echo, resources: {gpus: 1}}\n"), machine)
    assert state.value == "done"
    first, second = machine.runs_of("n")
    assert first.ending is (Ending.PREEMPTED if is_preempted else Ending.LOST_NODE)
    assert second.began_s >= 120


def test_a_node_whose_machines_never_come_back_fails_and_says_why(plan_text) -> None:
    machine = VirtualMachine({"n": [Attempt(5.0)]}, shapes=WITH_GPU, outages=[Outage(4.0, "g")])
    text = HEAD + "  n: {stage: probe.echo, resources: {gpus: 1}}\n  m: {stage: probe.echo, inputs: {inputs: n}}\n"
    state, scheduler = drive(plan_text(text), machine)
    assert state.value == "failed"
    assert "asks for 1 CPU, 1 GPU, and there is 1 CPU" in scheduler.error_of("n")
    assert MAX_STRANDED_S < machine.now_s < 2 * MAX_STRANDED_S


def test_halves_of_two_gpus_are_no_whole_one() -> None:
    """The sum of what is free would say so; the node would wait on the machine with its timeout running."""
    admission = Admission([shape("a", cpus=8, gpus=2)], max_at_once=None)
    for label in ("x", "y"):
        admission.add(label, Resources(gpus=0.6))
    assert admission.admit(0.0) == ["x", "y"]
    admission.add("whole", Resources(gpus=0.8))
    admission.add("small", Resources(gpus=0.4))
    assert admission.admit(1.0) == ["small"]
    admission.release("y")
    assert admission.admit(2.0) == ["whole"]


def test_a_run_holds_no_more_gpus_than_it_may() -> None:
    admission = Admission([shape("a", cpus=8, gpus=4)], max_at_once=None, max_gpus=2)
    for label in "xyz":
        admission.add(label, Resources(gpus=1))
    assert admission.admit(0.0) == ["x", "y"]
    assert admission.room_for([Resources(gpus=1)]) == 2
    assert "may use 2 (--max-gpus)" in admission.reason_infeasible(Resources(gpus=3))
    admission.release("x")
    assert admission.admit(1.0) == ["z"]


def test_what_an_autoscaler_may_start_counts_for_what_is_asked_but_not_as_there() -> None:
    """Else a run that needs GPUs is refused while the cluster is at rest with its head alone."""

    def node(name: str, **offers: float) -> dict[str, Any]:
        return {"NodeID": name, "Alive": name != "dead", "Resources": offers, "NodeManagerHostname": name}

    groups = [
        SimpleNamespace(name="gpu", max_count=3, resources={"CPU": 8, "GPU": 1}),
        SimpleNamespace(name="none", max_count=0, resources={"CPU": 64}),
    ]
    state = SimpleNamespace(get_cluster_config=lambda: SimpleNamespace(node_group_configs=groups))
    nodes = [node("head", CPU=1, memory=5.0, **{"node:__internal_head__": 1.0}), node("dead", CPU=99)]
    ray = SimpleNamespace(nodes=lambda: nodes, _private=SimpleNamespace(state=SimpleNamespace(state=state)))
    found = attached.machines(ray)
    assert [(each.name, each.cpus, each.gpus, each.is_expected) for each in found] == [
        ("head", 1, 0, False), ("gpu-0", 8, 1, True), ("gpu-1", 8, 1, True),
    ]  # fmt: skip
    assert found[0].custom == {}
    assert attached.host_names(ray) == ["head"]
    assert Admission(found, max_at_once=None).reason_infeasible(Resources(gpus=1)) == ""


@pytest.mark.parametrize(("version", "said"), [((3, 10), "expected 3.11 to 3.13"), ((3, 14), "expected"), ((3, 12), "")])
def test_the_entrypoint_of_a_job_looks_at_its_interpreter_first(version: tuple[int, int], said: str) -> None:
    assert said in unfit(version)
    assert bool(unfit(version)) == bool(said)


def test_an_interpreter_without_our_packages_is_told_by_their_names(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("orchestrator.cli.job.NEEDED", ("json", "no_such_package"))
    monkeypatch.setattr("sys.argv", ["job", "--store", "s3://bucket", "--run", "r"])
    assert main() == 7
    assert "has not got no_such_package" in capsys.readouterr().err, "it is the job's log that is read"


def test_equal_code_makes_an_equal_package_of_our_two_packages_only() -> None:
    first = code_package()
    code_package.cache_clear()
    assert code_package() == first
    names = zipfile.ZipFile(io.BytesIO(first.data)).namelist()
    assert {name.partition("/")[0] for name in names} == {"orchestrator", "stages"}
    assert len(first.data) < 4 * 2**20


def test_a_package_that_is_far_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    code_package.cache_clear()
    monkeypatch.setattr("orchestrator.engine.code_package.MAX_BYTES", 1000)
    with pytest.raises(ClusterError, match=r"The largest: .*\.py \([0-9.]+ MiB\)"):
        code_package()
    code_package.cache_clear()


def test_a_bucket_and_a_declared_folder_may_be_used_by_many_hosts() -> None:
    hosts = ["one", "two", "three", "four"]
    refuse_private_store("s3://bucket/x", hosts, is_shared=False)
    refuse_private_store("file:///shared", hosts, is_shared=True)
    with pytest.raises(ClusterError, match=r"four, one, three and 1 more") as caught:
        refuse_private_store("file:///here", hosts, is_shared=False)
    assert "s3://bucket/prefix" in caught.value.next_step
