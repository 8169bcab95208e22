"""A settled sweep: its result from the store, and the trials that others refer to as nodes of the plan."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from orchestrator.errors import IntegrityError
from orchestrator.store.artifacts import Artifacts, Record
from orchestrator.workflow.expand import Instance
from orchestrator.workflow.plan import PlanNode, PlanSweep
from orchestrator.workflow.references import BEST, FRONT
from orchestrator.workflow.sweep_result import SweepResult
from orchestrator.workflow.trials import plan_trial, trial_label

RESULT_FILE = "sweep.json"


def read_result(record: Record, artifacts: Artifacts) -> SweepResult | None:
    """What a sweep's artifact holds, verified; None where it is damaged, which is as if it were not there."""
    try:
        return SweepResult.from_data(json.loads(artifacts.open(record).file(RESULT_FILE).read_text()))
    except (IntegrityError, OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def settled_nodes(sweep: PlanSweep) -> dict[str, PlanNode]:
    """The nodes of the best trial and of all trials of the front, and what they carry on from, by label; parents first."""
    assert sweep.result is not None
    trials = {trial.number: trial for trial in sweep.result.trials}
    carry = sweep.checked.node.sweep.sampler.carry if sweep.checked.node.sweep.sampler.kind == "pbt" else {}
    planned: dict[int, dict[str, PlanNode]] = {}

    def plan(number: int) -> None:
        line = [number]  # from a trial back to its first ancestor: a loop, since generations may be many
        while (parent := trials[line[-1]].parent) is not None and parent not in planned and carry:
            line.append(parent)
        for each in reversed(line):
            trial = trials[each]
            parents = planned.get(trial.parent, {}) if trial.parent is not None else {}
            carried = {
                port: parents[f"{trial_label(sweep.name, trial.parent)}/{maker}"]
                for port, maker in carry.items()
                if trial.parent is not None
            }
            planned[each] = plan_trial(
                sweep.checked, trial=trial_label(sweep.name, each), values=trial.values, outer=sweep.outer, carried=carried
            )

    wanted = _referred(sweep.result)
    for number in wanted:
        if number not in planned:
            plan(number)
    everything = {label: node for nodes in planned.values() for label, node in nodes.items()}
    needed = {label for number in wanted for label in planned[number]}
    waiting = list(needed)
    while waiting:  # of a trial that only passes something on, no more than that and what it needs
        for parent in everything[waiting.pop()].parents:
            if parent in everything and parent not in needed:
                needed.add(parent)
                waiting.append(parent)
    return {label: node for label, node in everything.items() if label in needed}


def settled_instances(sweep: PlanSweep, nodes: Mapping[str, PlanNode]) -> dict[str, list[Instance]]:
    """What each reference into a settled sweep stands for; nothing for those into a sweep without a best trial."""
    assert sweep.result is not None
    best, front = sweep.result.best, sweep.result.front
    found: dict[str, list[Instance]] = {}
    for part in sweep.checked.order:
        found[f"{sweep.name}.{BEST}.{part}"] = [] if best is None else [_instance(sweep, best, part, nodes, None)]
        found[f"{sweep.name}.{FRONT}.{part}"] = [
            _instance(sweep, number, part, nodes, index) for index, number in enumerate(front)
        ]
    return found


def _instance(sweep: PlanSweep, number: int, part: str, nodes: Mapping[str, PlanNode], index: int | None) -> Instance:
    node = nodes[f"{trial_label(sweep.name, number)}/{part}"]
    return Instance(
        label=node.label,
        node=node.node,
        params={},
        inputs=node.inputs,
        needs=(),
        when_label=None,
        coordinates={} if index is None else {(sweep.name, FRONT): index},
    )


def _referred(result: SweepResult) -> Sequence[int]:
    best = [] if result.best is None else [result.best]
    return list(dict.fromkeys([*best, *result.front]))
