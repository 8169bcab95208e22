"""A loaded workflow against the stage catalog: names, references, artifact kinds, order. Reads settings classes only.

All problems of a file are raised together, those found on loading included. What depends on a model or a machine (channels
that a block size does not divide, more GPUs than there are) shows itself later, in the stage or the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.errors import WorkflowError
from orchestrator.workflow.check_nodes import NodesCheck
from orchestrator.workflow.check_sweep import check_sweep
from orchestrator.workflow.load import LoadedWorkflow
from orchestrator.workflow.places import Findings
from orchestrator.workflow.references import ExistingArtifact, parse_reference, split_metric
from orchestrator.workflow.scope import Scope
from orchestrator.workflow.spec import Node
from orchestrator.workflow.sweep_spec import SweepNode
from stages.contract import StageSpec


@dataclass(frozen=True, kw_only=True)
class CheckedSweep:
    """A sweep in which everything has been found good; its nodes in an order in which a trial can run them.

    Attributes:
        refers_to: references to what stands outside, as the nodes of the sweep and its constraints write them.
        seed: the workflow's.
    """

    name: str
    node: SweepNode
    specs: Mapping[str, StageSpec]
    order: tuple[str, ...]
    refers_to: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class CheckedWorkflow:
    """A workflow in which every name, value and reference has been found good.

    References are plain: `loaded.workflow` holds `node` where the file says `node.output`, and lists in every `foreach`.
    `order` is topological, sweeps among the nodes, and the file's own order wherever that leaves a choice. `targets` are the
    nodes and sweeps that each node or sweep refers to. `existing` is what references to the store have been found to mean, by
    their text: nothing as checked, all of them in a plan.
    """

    loaded: LoadedWorkflow
    specs: Mapping[str, StageSpec]
    order: tuple[str, ...]
    sweeps: Mapping[str, CheckedSweep]
    targets: Mapping[str, tuple[str, ...]]
    existing: Mapping[str, ExistingArtifact] = field(default_factory=dict)


def check_workflow(loaded: LoadedWorkflow) -> CheckedWorkflow:
    """Check everything that can be known without a model and a machine; raises WorkflowError with all problems."""
    workflow = loaded.workflow
    findings = Findings(loaded.lines, loaded.problems, loaded.reported)
    if not workflow.nodes and not workflow.sweeps and not loaded.unread and not findings.known_at(("nodes",)):
        findings.add(
            ("nodes",),
            "the workflow has no nodes",
            found="an empty mapping",
            expected="at least one node",
            suggestion="add nodes: {first: {stage: pretrain.classifier}}",
        )
    scope = Scope(workflow.nodes, place=("nodes",), findings=findings, unread=loaded.unread)
    for name, sweep in workflow.sweeps.items():
        scope.add_sweep(name, sweep.nodes)
    scope.sort_by_place()
    checks = {name: NodesCheck(parts) for name, parts in scope.sweeps.items()}
    outer = NodesCheck(scope)
    for check in (outer, *checks.values()):
        check.find_stages()
    outer.check()
    orders = {}
    for name, check in checks.items():
        check.check()
        check_sweep(name, workflow.sweeps[name], check, outer, workflow_seed=workflow.seed)
        orders[name] = check.order()
    order = outer.order()
    if findings.problems:
        raise WorkflowError(findings.sorted())
    nodes = {name: _with_plain_references(node, scope.specs[name]) for name, node in workflow.nodes.items()}
    sweeps = {
        name: _checked_sweep(name, node, scope.sweeps[name], orders[name], seed=workflow.seed)
        for name, node in workflow.sweeps.items()
    }
    plain = workflow.model_copy(update={"nodes": nodes, "sweeps": {name: sweep.node for name, sweep in sweeps.items()}})
    return CheckedWorkflow(
        loaded=replace(loaded, workflow=plain),
        specs=scope.specs,
        order=order,
        sweeps=sweeps,
        targets={name: tuple(targets) for name, targets in scope.edges.items()},
    )


def _checked_sweep(name: str, node: SweepNode, scope: Scope, order: tuple[str, ...], *, seed: int) -> CheckedSweep:
    nodes = {part: _with_plain_references(inner, scope.specs[part]) for part, inner in node.nodes.items()}
    for part, inner in nodes.items():  # the whole sweep waits for another that a node of it needs
        nodes[part] = inner.model_copy(update={"needs": tuple(need for need in inner.needs if need not in scope.sweeps)})
    texts = [split_metric(constraint.versus)[0] for constraint in node.sweep.constraints if constraint.versus]
    for inner in nodes.values():
        texts += [text for value in inner.inputs.values() for text in ([value] if isinstance(value, str) else value)]
        texts += [*inner.needs, *([split_metric(inner.when.metric)[0]] if inner.when is not None else [])]
    refers_to = dict.fromkeys(text for text in texts if text not in nodes)
    return CheckedSweep(
        name=name,
        node=node.model_copy(update={"nodes": nodes}),
        specs=scope.specs,
        order=order,
        refers_to=tuple(refers_to),
        seed=seed,
    )


def _with_plain_references(node: Node, spec: StageSpec) -> Node:
    """`node` with `node.output` written as `node`, so that nothing later has to know both forms.

    A front under `foreach` becomes an input: a reference to several artifacts expands its node by itself.
    """
    fronts = {port: str(parse_reference(text)) for port, text in node.foreach.items() if isinstance(text, str)}
    inputs = {
        port: _plain(value) if isinstance(value, str) else tuple(_plain(item) for item in value)
        for port, value in node.inputs.items()
    }
    foreach = {
        key: tuple(_plain(item) for item in values) if key in spec.inputs else values
        for key, values in node.foreach.items()
        if key not in fronts
    }
    return node.model_copy(
        update={"inputs": {**inputs, **fronts}, "foreach": foreach, "needs": tuple(_plain(target) for target in node.needs)}
    )


def _plain(text: str) -> str:
    return str(parse_reference(text))
