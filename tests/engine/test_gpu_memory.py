"""Fractions of a GPU against real memory, with injected peaks: no GPU is needed."""

from __future__ import annotations

from typing import Any

import pytest
from virtual import Attempt, VirtualMachine, scheduler_of

from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.gpu_memory import GpuPeak, gpu_share, with_gpu_share
from orchestrator.engine.units import State
from orchestrator.engine.work import Ending
from orchestrator.workflow.spec import Resources

GIB = 2**30
HEAD = "version: 1\nname: w\nnodes:\n"
TWO = HEAD + "".join(f"  {name}: {{stage: probe.echo, params: {{value: {name}}}, resources: {{gpus: 0.5}}}}\n" for name in "ab")


def drive_with(plan: Any, machine: VirtualMachine, peaks: dict[str, GpuPeak]) -> State:
    scheduler = scheduler_of(plan, machine, gpu_need=lambda unit, _units: peaks.get(unit.label))
    return scheduler.drive()


def gpu_machine(script: Any = None, *, memory_gib: int = 80, gpus: int = 1) -> VirtualMachine:
    shape = MachineShape(cpus=8, gpus=gpus, gpu_memory_bytes=memory_gib * GIB)
    return VirtualMachine(script or {"a": [Attempt(10.0)], "b": [Attempt(10.0)]}, shapes=[shape])


def were_together(machine: VirtualMachine) -> bool:
    first, second = machine.runs_of("a")[-1], machine.runs_of("b")[-1]
    return first.began_s < second.ended_s and second.began_s < first.ended_s


@pytest.mark.parametrize(("gib", "together"), [(30, True), (40, True), (45, False), (60, False)])
def test_two_nodes_whose_peaks_do_not_fit_one_gpu_are_not_placed_on_it_together(plan_text, gib: int, together: bool) -> None:  # noqa: FBT001 - parametrized
    """Halves of a GPU that need more than half of its memory end in "CUDA out of memory" in the middle of the night."""
    machine = gpu_machine()
    peak = GpuPeak(gib * GIB, 80 * GIB)
    assert drive_with(plan_text(TWO), machine, {"a": peak, "b": peak}) is State.DONE
    assert were_together(machine) is together


def test_on_two_gpus_they_run_at_the_same_time(plan_text) -> None:
    machine = gpu_machine(gpus=2)
    peak = GpuPeak(60 * GIB, 80 * GIB)
    drive_with(plan_text(TWO), machine, {"a": peak, "b": peak})
    assert were_together(machine)


def test_a_small_node_shares_with_a_large_one(plan_text) -> None:
    """Only what memory asks for is taken, or a GPU would stand half empty."""
    machine = gpu_machine()
    text = TWO.replace("gpus: 0.5", "gpus: 0.25")
    drive_with(plan_text(text), machine, {"a": GpuPeak(50 * GIB, 80 * GIB), "b": GpuPeak(9 * GIB, 80 * GIB)})
    assert were_together(machine)
    assert machine.runs_of("a")[0].amounts["GPU"] == 0.65


def test_memory_counts_against_the_gpus_of_this_cluster(plan_text) -> None:
    """What was half of an 80 GiB card is all of a 40 GiB one."""
    machine = gpu_machine(memory_gib=40)
    peak = GpuPeak(30 * GIB, 80 * GIB)
    drive_with(plan_text(TWO), machine, {"a": peak, "b": peak})
    assert not were_together(machine)


def test_a_node_out_of_gpu_memory_gets_twice_what_it_held(plan_text) -> None:
    """A whole GPU for each that once had too little would leave most of it idle."""
    text = HEAD + "  a: {stage: probe.echo, resources: {gpus: 0.2}, retry: {backoff: 1s}}\n"
    full = Attempt(5.0, Ending.NO_MEMORY, error="CUDA out of memory", process_id=7, peak_gpu_bytes=18 * GIB, gpu_bytes=80 * GIB)
    unknown = Attempt(5.0, Ending.NO_MEMORY, error="CUDA out of memory", process_id=7)
    machine = gpu_machine({"a": [full, full, unknown, Attempt(1.0)]})
    drive_with(plan_text(text.replace("backoff: 1s", "backoff: 1s, attempts: 5")), machine, {})
    assert [execution.amounts["GPU"] for execution in machine.runs_of("a")] == [0.2, 0.45, 1.0]
    notes = [event["note"] for event in machine.events if event["type"] == "attempt_failed" and event.get("note")]
    assert "have 0.45 of a GPU (policy oom: grow)" in notes[0]


def test_a_retry_does_not_fall_back_below_what_it_grew_to(plan_text) -> None:
    text = HEAD + "  a: {stage: probe.echo, resources: {gpus: 0.2}, retry: {backoff: 1s}}\n"
    full = Attempt(5.0, Ending.NO_MEMORY, error="CUDA out of memory", process_id=7, peak_gpu_bytes=18 * GIB, gpu_bytes=80 * GIB)
    machine = gpu_machine({"a": [full, Attempt(1.0)]})
    assert drive_with(plan_text(text), machine, {"a": GpuPeak(20 * GIB, 80 * GIB)}) is State.DONE
    assert [execution.amounts["GPU"] for execution in machine.runs_of("a")] == [0.25, 0.45]


def test_whole_gpus_and_none_stay_as_they_are_asked() -> None:
    need = GpuPeak(70 * GIB, 80 * GIB)
    for gpus in (0, 1, 2):
        assert with_gpu_share(Resources(gpus=gpus), need, []).gpus == gpus
    assert with_gpu_share(Resources(gpus=0.95), need, []).gpus == 0.95
    assert gpu_share(1, 0) == 1.0
