"""Runs that grow: groups of nodes that are added, share keys, fail, case by case in virtual time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from growing import BASE, FAILED, HEAD, HOURS, abandoning, adding, run, states
from virtual import Attempt, VirtualMachine, drive, scheduler_of, trial_nodes

from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.scheduler import Scheduler
from orchestrator.engine.units import GroupState, Origin, State
from orchestrator.engine.work import Ending
from orchestrator.workflow.plan import Selection, Status
from orchestrator.workflow.spec import Resources


def test_added_nodes_run_below_what_is_there_and_are_told_in_one_event(plan, trial) -> None:
    """A trial is nodes of the run like any others."""
    machine = VirtualMachine({"search/t1/train": [Attempt(2.0, metrics={"accuracy": 0.5})]})
    state, scheduler = run(plan(BASE), machine, (3.0, adding(trial("t1"), "t1")))
    assert (state, scheduler.group_state("t1")) == (State.DONE, GroupState.DONE)
    assert [execution.label for execution in machine.executions] == ["base", "search/t1/train", "search/t1/export"]
    (event,) = [event for event in machine.events if event["type"] == "nodes_added"]
    assert [(row[0], row[1], row[2], row[4], row[5]) for row in event["nodes"]] == [
        ("search/t1/train", "train", "probe.echo", "RUN", "t1"),
        ("search/t1/export", "export", "probe.echo", "RUN", "t1"),
    ]
    assert scheduler.metrics_of("search/t1/train") == {"accuracy": 0.5}
    assert scheduler.seconds_of("search/t1/train") == 2.0


def test_a_guide_that_has_more_to_come_keeps_the_run_alive(plan, trial) -> None:
    """The search thinks while nothing runs."""
    machine = VirtualMachine()
    state, _ = run(plan(BASE), machine, (50.0, adding(trial("t1"), "t1")), (90.0, adding(trial("t2"), "t2")))
    assert state is State.DONE
    assert len(machine.executions) == 5


def test_hits_are_done_at_once_and_need_no_turn_of_waiting(plan, trial) -> None:
    """A sweep that is resumed with a thousand finished trials would otherwise wait a quarter of a second for each."""
    done = VirtualMachine()
    run(plan(BASE), done, *((float(i), adding(trial(f"t{i}"), f"t{i}")) for i in range(20)))

    class Resuming:
        num_added = 0

        def advance(self, scheduler: Scheduler) -> bool:
            if self.num_added < 20:
                nodes = trial(f"t{self.num_added}")
                hits = [replace(node, status=Status.HIT, record=done.done[node.key]) for node in nodes]
                scheduler.add(hits, group=f"t{self.num_added}")
                assert scheduler.group_state(f"t{self.num_added}") is GroupState.DONE
                self.num_added += 1
            return self.num_added < 20

        def look(self, scheduler: Scheduler) -> None:
            del scheduler

    machine = VirtualMachine()
    _, scheduler = drive(plan(BASE), machine, guide=Resuming())
    assert machine.now_s <= 2.0
    assert {event["type"] for event in machine.events} == {"node_started", "node_done", "nodes_added"}
    assert len([event for event in machine.events if event["type"] == "node_done"]) == 1
    unit = scheduler.units["search/t3/train"]
    assert (unit.origin, unit.cost_s, unit.spent_s) == (Origin.HIT, 1.0, 0.0)


def test_trials_that_share_a_key_pay_for_it_once_while_it_runs_and_after(plan, trial) -> None:
    """Twenty trials over the fine-tuning of one sparsified model."""
    machine = VirtualMachine({"search/t1/train": [Attempt(5.0, metrics={"accuracy": 0.5})]})
    late, nodes = trial("t3", value="same"), trial("t2", value="same")
    actions = [(0.0, adding(trial("t1", value="same"), "t1")), (3.0, adding(nodes, "t2")), (20.0, adding(late, "t3"))]
    state, scheduler = run(plan(BASE), machine, *actions)
    assert state is State.DONE
    assert [e.label for e in machine.executions if e.label.endswith("train")] == ["search/t1/train"]
    for name in ("t2", "t3"):
        unit = scheduler.units[f"search/{name}/train"]
        assert (unit.origin, unit.metrics, unit.cost_s, unit.spent_s) == (Origin.SHARED, {"accuracy": 0.5}, 5.0, 0.0)


def test_progress_of_a_shared_node_is_read_where_it_is_written(plan, trial) -> None:
    """Early stopping must judge a trial that waits for another trial's training, too."""
    machine = VirtualMachine({"search/t1/train": [HOURS]})
    scheduler = scheduler_of(plan(BASE), machine)
    scheduler.add(trial("t1", value="same"), group="t1")
    other = [replace(node, node="search." + node.node) for node in trial("t2", value="same")]
    scheduler.add(other, group="t2")
    assert scheduler.folder_of("search/t2/train") == scheduler.folder_of("search/t1/train")
    assert scheduler.folder_of("search/t2/export") != scheduler.folder_of("search/t1/export")


def test_a_known_label_is_left_alone_and_a_different_key_is_refused(plan, trial) -> None:
    """The plan of what follows a search names the nodes before it once more."""
    machine = VirtualMachine()
    whole = plan(BASE + "after: {stage: probe.echo, params: {value: 7}, inputs: {inputs: base}}")
    state, scheduler = run(plan(BASE), machine, (2.0, adding(whole.nodes.values(), "")))
    assert (state, scheduler.units["after"].state) == (State.DONE, State.DONE)
    assert len(machine.runs_of("base")) == 1
    other = plan(BASE.replace("value: base", "value: other"))
    with pytest.raises(ValueError, match='node "base" is in this run already, with key'):
        scheduler.add(other.nodes.values())
    with pytest.raises(ValueError, match='"search/t1/train" needs "base", which is not in this run'):
        scheduler_of(plan("x: {stage: probe.echo}"), machine).add(trial("t1"))


def test_a_failed_trial_fails_neither_the_run_nor_the_others(plan, trial) -> None:
    """One bad setting of a hundred."""
    machine = VirtualMachine({"search/t1/train": [FAILED]})
    state, scheduler = run(plan(BASE), machine, (0.0, adding(trial("t1"), "t1")), (9.0, adding(trial("t2"), "t2")))
    assert state is State.DONE
    assert (scheduler.group_state("t1"), scheduler.group_state("t2")) == (GroupState.FAILED, GroupState.DONE)
    assert scheduler.error_of("search/t1/train") == "simulated"
    assert scheduler.error_of("search/t1/export") == "needs search/t1/train, which failed: simulated"


def test_a_failed_node_of_no_trial_still_stops_the_run(plan, trial) -> None:
    """Without --keep-going, the user wants to see it soon."""
    machine = VirtualMachine({"base": [FAILED]})
    state, scheduler = run(plan(BASE), machine, (0.0, adding(trial("t1"), "t1")), (9.0, adding(trial("t2"), "t2")))
    assert state is State.FAILED
    assert scheduler.group_state("t1") is GroupState.FAILED
    assert "t2" not in scheduler.graph.groups, "a run that has failed waits for no guide"


def test_what_trials_share_fails_all_of_them_with_the_reason(plan, trial) -> None:
    """Each trial's record must say why, those that come later too; the same failure is not paid for again."""
    machine = VirtualMachine({"search/t1/train": [Attempt(5.0, Ending.FAILED)]})
    later = trial("t3", value="same")
    actions = [(0.0, adding(trial(name, value="same"), name)) for name in ("t1", "t2")]
    state, scheduler = run(plan(BASE), machine, *actions, (20.0, adding(later, "t3")))
    assert state is State.DONE
    for name in ("t2", "t3"):
        assert states(scheduler, name) == {"train": "blocked", "export": "blocked"}
        assert scheduler.error_of(f"search/{name}/export") == "needs search/t1/train, which failed: simulated"
    assert [e.label for e in machine.executions] == ["base", "search/t1/train"]


def test_an_outer_node_that_shares_with_a_failed_trial_fails_the_run(plan, trial) -> None:
    """A run that is called done with a node that was never made would be a lie."""
    machine = VirtualMachine({"search/t1/train": [FAILED]})
    outer = plan(BASE + "outer: {stage: probe.echo, params: {value: t1}, inputs: {inputs: base}}").nodes.values()
    state, scheduler = run(plan(BASE), machine, (0.0, adding(trial("t1"), "t1")), (1.5, adding(outer, "")))
    assert (state, scheduler.units["outer"].state) == (State.FAILED, State.BLOCKED)


def test_a_trial_that_fits_no_machine_fails_alone(plan, trial) -> None:
    """The largest model of a space needs more than there is; the others do not."""
    machine = VirtualMachine(shapes=[MachineShape(cpus=4)])
    nodes = trial("t1", train=", resources: {cpus: 8}")
    state, scheduler = run(plan(BASE), machine, (0.0, adding(nodes, "t1")), (0.0, adding(trial("t2"), "t2")))
    assert state is State.DONE
    assert (scheduler.group_state("t1"), scheduler.group_state("t2")) == (GroupState.FAILED, GroupState.DONE)
    reason = 'node "search/t1/train" can never run here: it asks for 8 CPU, and there is 4 CPU'
    assert scheduler.error_of("search/t1/train") == reason
    assert machine.kinds_of("search/t1/train") == ["node_failed"]


def test_conditions_retries_and_needs_hold_for_added_nodes(plan, trial) -> None:
    """A trial's export runs only for a good model, and a lost machine is tried again."""
    script = {
        "search/t1/train": [Attempt(1.0, Ending.LOST), Attempt(1.0, metrics={"value": 0.4})],
        "search/t2/train": [Attempt(1.0, metrics={"value": 0.9})],
    }
    machine = VirtualMachine(script)
    condition = ", when: {metric: train.value, min: 0.5}"
    actions = [(0.0, adding(trial(name, export=condition), name)) for name in ("t1", "t2")]
    state, scheduler = run(plan(BASE), machine, *actions)
    assert state is State.DONE
    assert states(scheduler, "t1") == {"train": "done", "export": "skipped"}
    assert states(scheduler, "t2") == {"train": "done", "export": "done"}
    assert len(machine.runs_of("search/t1/train")) == 2


def test_nodes_added_below_a_skipped_one_are_skipped(plan) -> None:
    """What follows a search may hang on a node whose condition did not hold in this run."""
    machine = VirtualMachine({"base": [Attempt(1.0, metrics={"value": 1})]})
    gate = BASE + "gate: {stage: probe.echo, params: {value: 2}, inputs: {inputs: base}, when: {metric: base.value, min: 5}}\n"
    below = plan(gate + "below: {stage: probe.echo, params: {value: 3}, inputs: {inputs: gate}}").nodes.values()
    state, scheduler = run(plan(gate), machine, (9.0, adding(below, "")))
    assert (state, scheduler.units["below"].state) == (State.DONE, State.SKIPPED)
    assert machine.events[-1]["why"] == "needs gate, which is skipped"


def test_a_cancelled_run_cancels_its_trials(plan, trial) -> None:
    """Ctrl-C in the middle of a search."""
    machine = VirtualMachine({"search/t1/train": [HOURS]})
    state, scheduler = run(
        plan(BASE), machine, (0.0, adding(trial("t1"), "t1")), (1e9, abandoning("t1")),
        is_cancel_asked=lambda: machine.now_s > 20,
    )  # fmt: skip
    assert (state, scheduler.group_state("t1")) == (State.CANCELLED, GroupState.CANCELLED)
    assert machine.now_s < 22


def test_a_forced_node_runs_again_below_hits_and_once_for_all(plan, trial, run_text) -> None:
    """`--rerun train` with a sweep: the record that stands is not what was asked for."""
    text = BASE + "train: {stage: probe.echo, params: {value: 1}, inputs: {inputs: base}}"
    run_text(HEAD + "".join(f"  {line}\n" for line in text.splitlines()))
    hits, forced = plan(text), plan(text, selection=Selection(rerun=("train",)))
    machine = VirtualMachine()
    actions = [(0.5, adding(trial_nodes(forced, name, outer={"base"}), name)) for name in ("t1", "t2")]
    _, scheduler = run(hits, machine, *actions)
    assert [execution.label for execution in machine.executions] == ["search/t1/train"]
    assert scheduler.units["search/t2/train"].origin is Origin.SHARED


def test_a_damaged_input_of_an_added_node_is_made_again(plan, trial) -> None:
    """Also where the trial that had made it has been abandoned."""
    text = BASE + "train: {stage: probe.echo, params: {value: t1}, inputs: {inputs: base}}"
    key = plan(text).nodes["train"].key

    class Damaging(VirtualMachine):
        def _finish(self, label: str) -> Any:
            if label == "search/t2/export" and self._tried[label] == 1:
                self.done.pop(key, None)
            return super()._finish(label)

    machine = Damaging({"search/t2/export": [Attempt(1.0, Ending.DAMAGED_INPUT), Attempt(1.0)]})
    train, export = trial("t2", value="t1")
    carried = replace(export, inputs={"inputs": "search/t1/train"})
    actions = [(0.0, adding([replace(train, label="search/t1/train")], "t1")), (9.0, abandoning("t1"))]
    state, scheduler = run(plan(BASE), machine, *actions, (10.0, adding([carried], "t2")))
    assert (state, scheduler.group_state("t2")) == (State.DONE, GroupState.DONE)
    assert len(machine.runs_of("search/t1/train")) == 2


def test_notes_of_the_guide_stand_in_order_with_the_events(plan, trial) -> None:
    """The report tells a search from them."""
    machine = VirtualMachine()
    actions = [(2.0, lambda scheduler: scheduler.note("trial_started", number=1)), (2.0, adding(trial("t1"), "t1"))]
    run(plan(BASE), machine, *actions, (99.0, lambda scheduler: scheduler.note("sweep_settled", best=1)))
    kinds = [event["type"] for event in machine.events if not event["type"].startswith("node_")]
    assert kinds == ["trial_started", "nodes_added", "sweep_settled"]
    assert machine.events[-1] == {"type": "sweep_settled", "best": 1}


def test_room_is_counted_for_the_largest_request(plan) -> None:
    """Trials at once: as many as can train, not as many as can export."""
    machine = VirtualMachine(shapes=[MachineShape(cpus=16, gpus=2), MachineShape(cpus=16)])
    scheduler = scheduler_of(plan(BASE), machine)
    small, large = Resources(cpus=1), Resources(cpus=3, gpus=1)
    assert scheduler.room_for([small]) == 32
    assert scheduler.room_for([small, large]) == 2
    assert scheduler.room_for([Resources(cpus=12)]) == 2
    assert scheduler.room_for([Resources(cpus=64)]) == 1
    machine = VirtualMachine(max_at_once=1)
    assert scheduler_of(plan(BASE), machine).room_for([small]) == 1
