"""From a checked workflow to a plan: every node with its key, and whether it is a hit. Reads records, runs nothing, writes
nothing, and needs neither ray nor torch. What waits for a sweep is planned by the same function when that has settled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.errors import PlanError
from orchestrator.store.artifacts import Artifacts
from orchestrator.workflow.check import CheckedSweep, CheckedWorkflow
from orchestrator.workflow.existing import existing_instance, existing_node, find_existing
from orchestrator.workflow.expand import Axis, Instance, expand_node
from orchestrator.workflow.identity import artifact_key
from orchestrator.workflow.keyed import keyed_node
from orchestrator.workflow.plan import DRIFTED, Plan, PlanNode, PlanSweep, Selection, Status, SweepStatus
from orchestrator.workflow.references import FRONT, existing_name, parse_reference, split_metric
from orchestrator.workflow.selecting import refuse_unknown_names, require_hits_above, selected_names, with_below
from orchestrator.workflow.settled import read_result, settled_instances, settled_nodes
from orchestrator.workflow.spec import Node
from orchestrator.workflow.statuses import Holder, StatusRules, nobody
from orchestrator.workflow.sweep_identity import family_digest, sweep_identity
from orchestrator.workflow.sweep_result import SWEEP_STAGE, SweepResult
from orchestrator.workflow.trials import trial_name


def make_plan(
    checked: CheckedWorkflow,
    artifacts: Artifacts,
    *,
    selection: Selection | None = None,
    is_being_made: Holder = nobody,
    results: Mapping[str, SweepResult] | None = None,
) -> Plan:
    """The plan of a workflow against what the store holds.

    `is_being_made(key)` names the run that makes an artifact right now, or None. `results` by sweep are those that the caller
    has at hand (a run in progress); others are looked up in the store. What was planned before a sweep settled keeps its labels
    and keys. Raises PlanError for values that cannot be part of a key, UsageError for a selection that names no node.
    """
    selection = selection or Selection()
    refuse_unknown_names(checked, selection)
    names = selected_names(checked, selection)
    checked = replace(checked, existing=find_existing(checked, artifacts, names, known=checked.existing))
    draft = _Draft(checked, artifacts, selection, results or {})
    for name in checked.order:
        if name in names:
            draft.add(name)
    artifacts.look_ahead((node.spec.name, node.key) for node in draft.nodes.values())
    rules = StatusRules(
        artifacts,
        is_being_made,
        asked_again=frozenset(node.key for node in draft.nodes.values() if node.node in selection.rerun),
        drift=DRIFTED in selection.rerun,
    )
    planned: dict[str, PlanNode] = {}
    for label, node in draft.nodes.items():
        planned[label] = rules.apply(node, planned)
    skipped, later = dict(draft.skipped), dict(draft.later)
    sweeps: dict[str, PlanSweep] = {}
    for name, sweep in draft.sweeps.items():
        sweeps[name] = sweep = _with_outer(sweep, planned, is_being_made)  # noqa: PLW2901 - refined, as the nodes are
        if sweep.status is SweepStatus.SKIP:
            waiting = with_below(checked, [name]) & later.keys()
            skipped |= {other: f"needs {name}, which is skipped" for other in checked.order if other in waiting}
            later = {other: waits for other, waits in later.items() if other not in waiting}
    plan = Plan(checked, planned, selection, sweeps=sweeps, later=later, skipped=skipped)
    require_hits_above(plan)
    return plan


class _Draft:
    """Nodes and sweeps with their keys, one name after the other; what has to wait, and what can never be."""

    def __init__(
        self, checked: CheckedWorkflow, artifacts: Artifacts, selection: Selection, results: Mapping[str, SweepResult]
    ) -> None:
        self.checked = checked
        self.artifacts = artifacts
        self.results = results
        self.search_anew = with_below(checked, selection.rerun)
        self.heeds_drift = DRIFTED in selection.rerun
        self.nodes: dict[str, PlanNode] = {}
        self.sweeps: dict[str, PlanSweep] = {}
        self.later: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self._made: dict[str, Sequence[Instance]] = {}
        self._texts: dict[Axis, Sequence[str]] = {}
        self._keys: dict[str, str] = {}

    def add(self, name: str) -> None:
        """Plan one node or sweep, or note why it cannot be planned now."""
        workflow = self.checked.loaded.workflow
        targets = self.checked.targets[name]
        dropped = next((target for target in targets if target in self.skipped), None)
        if dropped is not None:
            self.skipped[name] = f"needs {dropped}, which is skipped"
            return
        for target in targets:
            if target in self.later or (target in self.sweeps and self.sweeps[target].result is None):
                self.later[name] = self.later.get(target, target)
                return
        sweep = self.checked.sweeps.get(name)
        references = (
            sweep.refers_to if sweep is not None else _references(workflow.nodes[name], self.checked.specs[name].inputs)
        )
        for text in filter(existing_name, references):
            self._add_existing(text)
        for reference in map(parse_reference, references):
            if reference.which and not self._made[str(reference)]:
                result = self.sweeps[reference.node].result
                assert result is not None
                self.skipped[name] = f'no trial of "{reference.node}" meets the constraints: {result.verdict}'
                return
        if sweep is not None:
            self._add_sweep(sweep)
        else:
            self._add_node(name, workflow.nodes[name])

    def _add_existing(self, text: str) -> None:
        node = self.nodes[text] = existing_node(text, self.checked.existing[text])
        self._keys[text] = node.key
        self._made[text] = [existing_instance(text)]

    def _add_node(self, name: str, node: Node) -> None:
        workflow, spec = self.checked.loaded.workflow, self.checked.specs[name]
        made = self._made[name] = expand_node(name, node, spec, self._made, self._texts)
        for instance in made:
            planned = keyed_node(instance, node, spec, seed=workflow.seed if node.seed is None else node.seed, keys=self._keys)
            self._keys[planned.label] = planned.key
            self.nodes[planned.label] = planned
        if not made:
            raise PlanError(
                f'node "{name}": no combination of its inputs fits together: they come from different values of one foreach',
                next_step="give its ports references that share their foreach values",
            )

    def _add_sweep(self, checked: CheckedSweep) -> None:
        name = checked.name
        outer = {reference: self.nodes[self._made[reference][0].label] for reference in checked.refers_to}
        after = [instance.label for target in checked.node.needs for instance in self._made[target]]
        identity = sweep_identity(checked, outer)
        sweep = PlanSweep(
            name=name,
            checked=checked,
            outer=outer,
            after=tuple(dict.fromkeys([*(node.label for node in outer.values()), *after])),
            identity=identity,
            key=artifact_key(identity),
            family=family_digest(checked, outer),
        )
        sweep = self.sweeps[name] = self._settled(sweep)
        self._made[name] = ()
        if sweep.result is not None:
            nodes = settled_nodes(sweep)
            self.nodes |= nodes
            self._keys |= {label: node.key for label, node in nodes.items()}
            self._made |= settled_instances(sweep, nodes)
            self._texts[name, FRONT] = [trial_name(number) for number in sweep.result.front]

    def _settled(self, sweep: PlanSweep) -> PlanSweep:
        """`sweep` with its result, where it has one: the caller's, or the store's unless it is to be searched anew."""
        record = self.artifacts.find(SWEEP_STAGE, sweep.key)
        if sweep.name in self.results:
            return replace(sweep, status=SweepStatus.HIT, record=record, result=self.results[sweep.name])
        if sweep.name in self.search_anew or (self.heeds_drift and self._has_drifted_above(sweep)):
            return replace(sweep, record=record, forced=True, note="asked to search again")
        result = read_result(record, self.artifacts) if record is not None else None
        if result is None:
            return replace(sweep, record=record, note="" if record is None else "its result cannot be read any more")
        return replace(sweep, status=SweepStatus.HIT, record=record, result=result)

    def _has_drifted_above(self, sweep: PlanSweep) -> bool:
        waiting, seen = list(sweep.after), set(sweep.after)
        while waiting:
            node = self.nodes[waiting.pop()]
            if replace(node, record=self.artifacts.find(node.spec.name, node.key)).has_drifted:
                return True
            further = set(node.parents) - seen
            seen |= further
            waiting += further
        return False


def _references(node: Node, ports: Mapping[str, object]) -> list[str]:
    """All that a node refers to, as it writes it."""
    listed = [text for key, values in node.foreach.items() if key in ports for text in values]
    inputs = [text for value in node.inputs.values() for text in ([value] if isinstance(value, str) else value)]
    return [*inputs, *listed, *node.needs, *([split_metric(node.when.metric)[0]] if node.when is not None else [])]


def _with_outer(sweep: PlanSweep, planned: Mapping[str, PlanNode], is_being_made: Holder) -> PlanSweep:
    """`sweep` with what has been found out of the nodes before it."""
    sweep = replace(sweep, outer={reference: planned[node.label] for reference, node in sweep.outer.items()})
    if sweep.status is not SweepStatus.SEARCH:
        return sweep
    skipped = next((label for label in sweep.after if planned[label].status is Status.SKIP), None)
    if skipped is not None:
        return replace(sweep, status=SweepStatus.SKIP, note=f"needs {skipped}, which is skipped")
    run = is_being_made(sweep.key)
    return replace(sweep, note=f"run {run} is searching it now") if run is not None else sweep
