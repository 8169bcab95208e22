"""`foreach`: from the nodes that a file names to the node instances that a plan has.

A node with `foreach` becomes one instance per combination of the listed values. Each listed value is a coordinate on an axis
(the node and the name it lists). A port that takes one artifact and refers to an expanded node expands its own node along
the same axes; two such ports meet where they agree on every axis they share, so `evaluate {model: tune, exported: export}`
pairs each model with its own file. A port that takes many collects all instances and brings no axes.

The trials of a settled sweep's front are instances on an axis of their own, so a reference `sweep.front.node` expands likewise.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.workflow.references import split_metric
from orchestrator.workflow.spec import Node
from stages.contract import StageSpec

Axis = tuple[str, str]
"""The node that lists values, and the parameter or port it lists them for."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One node of the plan before it has a key: parameters filled in, references resolved to labels."""

    label: str
    node: str
    params: Mapping[str, Any]
    inputs: Mapping[str, str | tuple[str, ...]]
    needs: tuple[str, ...]
    when_label: str | None
    coordinates: Mapping[Axis, int]


@dataclass(frozen=True)
class _Partial:
    coordinates: dict[Axis, int]
    chosen: dict[str, str]


_WHEN = "when condition"  # a name no port can have: ports are identifiers


def expand_node(
    name: str, node: Node, spec: StageSpec, made: Mapping[str, Sequence[Instance]], texts: dict[Axis, Sequence[str]]
) -> list[Instance]:
    """Instances of one node. `made` holds those of all nodes before it; `texts` gives each axis its value labels and grows."""
    foreach = {key: values for key, values in node.foreach.items() if not isinstance(values, str)}  # the check leaves no other
    axes = {key: values for key, values in foreach.items() if key not in spec.inputs}
    for key, values in foreach.items():
        texts[name, key] = [_value_text(value, index) for index, value in enumerate(values)]
    combinations = itertools.product(*(range(len(values)) for values in axes.values()))
    partials: Iterable[_Partial] = [
        _Partial({(name, key): index for key, index in zip(axes, combination, strict=True)}, {}) for combination in combinations
    ]
    collected: dict[str, tuple[str, ...]] = {}
    for port, reference in _references(node, spec).items():
        if port in spec.inputs and spec.inputs[port].many:
            targets = [reference] if isinstance(reference, str) else list(reference)
            collected[port] = tuple(instance.label for target in targets for instance in made[target])
        elif port in foreach:
            alternatives = [
                ({(name, port): index, **instance.coordinates}, instance.label)
                for index, target in enumerate(foreach[port])
                for instance in made[target]
            ]
            partials = list(_join(partials, port, alternatives))
        else:
            assert isinstance(reference, str)
            partials = list(_join(partials, port, [(dict(i.coordinates), i.label) for i in made[reference]]))
    needs = tuple(instance.label for target in node.needs for instance in made[target])
    return [
        Instance(
            label=_label(name, partial.coordinates, texts),
            node=name,
            params=with_values(node.params, {key: axes[key][partial.coordinates[name, key]] for key in axes}),
            inputs={
                port: collected[port] if port in collected else partial.chosen[port]
                for port in spec.inputs
                if port in collected or port in partial.chosen
            },
            needs=needs,
            when_label=partial.chosen.get(_WHEN),
            coordinates=partial.coordinates,
        )
        for partial in partials
    ]


def _references(node: Node, spec: StageSpec) -> dict[str, str | tuple[str, ...]]:
    references: dict[str, str | tuple[str, ...]] = {**node.inputs}
    references.update({port: "" for port in node.foreach if port in spec.inputs})
    if node.when is not None:
        references[_WHEN] = split_metric(node.when.metric)[0]
    return references


def _join(partials: Iterable[_Partial], port: str, alternatives: Sequence[tuple[dict[Axis, int], str]]) -> Iterator[_Partial]:
    groups: dict[frozenset[Axis], list[tuple[dict[Axis, int], str]]] = {}
    for alternative in alternatives:
        groups.setdefault(frozenset(alternative[0]), []).append(alternative)
    indexes: dict[tuple[frozenset[Axis], tuple[Axis, ...]], dict[tuple[int, ...], list[tuple[dict[Axis, int], str]]]] = {}
    for partial in partials:
        for axes, members in groups.items():
            shared = tuple(sorted(axes & partial.coordinates.keys()))
            index = indexes.get((axes, shared))
            if index is None:
                index = indexes[axes, shared] = {}
                for member in members:
                    index.setdefault(tuple(member[0][axis] for axis in shared), []).append(member)
            for coordinates, label in index.get(tuple(partial.coordinates[axis] for axis in shared), ()):
                yield _Partial({**partial.coordinates, **coordinates}, {**partial.chosen, port: label})


def _label(name: str, coordinates: Mapping[Axis, int], texts: Mapping[Axis, Sequence[str]]) -> str:
    if not coordinates:
        return name
    parts = [f"{key.rpartition('.')[2]}={texts[node, key][index]}" for (node, key), index in coordinates.items()]
    return f"{name}[{','.join(parts)}]"


def _value_text(value: Any, index: int) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)
    return text if len(text) <= 40 else f"#{index}"


def with_values(params: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`params` with each value at its dotted name."""
    result: dict[str, Any] = {**params}
    for dotted, value in values.items():
        place = result
        *parents, last = dotted.split(".")
        for parent in parents:
            place[parent] = {**place.get(parent, {})}
            place = place[parent]
        place[last] = value
    return result
