"""A trial of a sweep as nodes of the plan: its values put into the sweep's nodes, labels and keys as for every other node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.workflow.check import CheckedSweep
from orchestrator.workflow.expand import Instance, with_values
from orchestrator.workflow.keyed import keyed_node
from orchestrator.workflow.plan import PlanNode
from orchestrator.workflow.references import split_metric
from orchestrator.workflow.search_space import active_values


def trial_label(sweep: str, number: int) -> str:
    """What a trial is called, and what the labels of its nodes begin with.

    Example:
        >>> trial_label("search", 7)
        'search/t0007'
    """
    return f"{sweep}/{trial_name(number)}"


def trial_name(number: int) -> str:
    """A trial's name inside its sweep: t0007."""
    return f"t{number:04d}"


def plan_trial(
    sweep: CheckedSweep,
    *,
    trial: str,
    values: Mapping[str, Any],
    outer: Mapping[str, PlanNode],
    seed: int | None = None,
    carried: Mapping[str, PlanNode] | None = None,
) -> dict[str, PlanNode]:
    """The nodes of one trial by label, in an order in which they can run; their status is still RUN (see `with_status`).

    Args:
        sweep: the sweep.
        trial: what the labels begin with, such as "search/t0007".
        values: searched parameters by "node.parameter"; those whose condition does not hold are left out.
        outer: the nodes outside, by the reference as the sweep's nodes write it (`PlanSweep.outer`).
        seed: of nodes that name none of their own, in place of the workflow's: for repeats.
        carried: inputs "node.port" that take this node's artifact in place of what the file says.

    Raises:
        PlanError: the settings of a stage refuse the combination of values.
    """
    chosen = active_values(sweep.node.sweep.space, values)
    carried = carried or {}
    keys = {node.label: node.key for node in (*outer.values(), *carried.values())}
    result: dict[str, PlanNode] = {}
    for part in sweep.order:
        own = {key.partition(".")[2]: value for key, value in chosen.items() if key.partition(".")[0] == part}
        planned = plan_part(sweep, part, trial=trial, values=own, outer=outer, keys=keys, seed=seed, carried=carried)
        keys[planned.label] = planned.key
        result[planned.label] = planned
    return result


def plan_part(
    sweep: CheckedSweep,
    part: str,
    *,
    trial: str,
    values: Mapping[str, Any],
    outer: Mapping[str, PlanNode],
    keys: Mapping[str, str],
    seed: int | None = None,
    carried: Mapping[str, PlanNode] | None = None,
) -> PlanNode:
    """One node of a trial. `values` are its own, by parameter; `keys` by label are those of all it refers to."""
    node, spec = sweep.node.nodes[part], sweep.specs[part]

    def label(reference: str) -> str:
        return f"{trial}/{reference}" if reference in sweep.node.nodes else outer[reference].label

    inputs: dict[str, str | tuple[str, ...]] = {}
    for port, value in node.inputs.items():
        labels = tuple(map(label, [value] if isinstance(value, str) else value))
        inputs[port] = labels if spec.inputs[port].many else labels[0]  # as `expand` has them, or keys would differ
    for text, made in (carried or {}).items():
        name, _, port = text.partition(".")
        if name == part:
            inputs[port] = made.label
    instance = Instance(
        label=f"{trial}/{part}",
        node=f"{sweep.name}.{part}",
        params=with_values(node.params, values),
        inputs={port: inputs[port] for port in spec.inputs if port in inputs},
        needs=tuple(map(label, node.needs)),
        when_label=label(split_metric(node.when.metric)[0]) if node.when is not None else None,
        coordinates={},
    )
    own_seed = node.seed if node.seed is not None else seed
    return keyed_node(instance, node, spec, seed=sweep.seed if own_seed is None else own_seed, keys=keys)
