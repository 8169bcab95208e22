"""What makes a sweep: all that shapes its search, and what its trials have in common with those of other searches. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from blake3 import blake3

from orchestrator.errors import PlanError
from orchestrator.workflow.check import CheckedSweep
from orchestrator.workflow.expand import with_values
from orchestrator.workflow.identity import KEY_LENGTH, NotEncodable, canonical_settings, canonical_value, encode
from orchestrator.workflow.plan import PlanNode
from orchestrator.workflow.references import split_metric
from orchestrator.workflow.search_space import edge_values
from orchestrator.workflow.sweep_result import SWEEP_STAGE
from orchestrator.workflow.sweep_spec import Constraint
from stages.contract import StageSettings

VERSION = 1
"""Raise it when the same sweep must be searched anew: old results then stop being hits."""


def sweep_identity(sweep: CheckedSweep, outer: Mapping[str, PlanNode]) -> dict[str, Any]:
    """Settings of the search, its nodes with their wiring, the keys of the nodes outside, and the seeds.

    A default stays out, as in every key, and so does how many trials run at once. The order of the objectives counts (the
    first leads), that of the space does not. Raises PlanError for what has no canonical form.
    """
    settings = sweep.node.sweep
    try:
        return {
            "stage": SWEEP_STAGE,
            "version": VERSION,
            "settings": {
                **canonical_settings(settings),
                "objectives": [[metric, direction] for metric, direction in settings.objectives.items()],
                "constraints": [_constraint(constraint, outer) for constraint in settings.constraints],
            },
            "seed": sweep.seed if settings.seed is None else settings.seed,
            "nodes": {part: {**_wiring(sweep, part, outer), **_what_is_fixed(sweep, part)} for part in sorted(sweep.order)},
        }
    except NotEncodable as error:
        raise PlanError(f'node "{sweep.name}": {error}') from error
    except ValueError as error:
        raise PlanError(f'node "{sweep.name}": its data cannot be identified: {error}') from error


def family_digest(sweep: CheckedSweep, outer: Mapping[str, PlanNode]) -> str:
    """Digest of what all searches over the same nodes share: wiring, stages, keys from outside; no parameter, no seed."""
    family = {part: _wiring(sweep, part, outer) for part in sorted(sweep.order)}
    return blake3(encode(family)).hexdigest(length=KEY_LENGTH // 2)


def _constraint(constraint: Constraint, outer: Mapping[str, PlanNode]) -> dict[str, Any]:
    """With the key of the artifact that is compared with, and not what its node is called."""
    reference, metric = split_metric(constraint.versus)
    return canonical_settings(constraint) | ({"versus": [outer[reference].key, metric]} if constraint.versus else {})


def _wiring(sweep: CheckedSweep, part: str, outer: Mapping[str, PlanNode]) -> dict[str, Any]:
    node, spec = sweep.node.nodes[part], sweep.specs[part]

    def end(reference: str) -> dict[str, str]:
        return {"node": reference} if reference in sweep.node.nodes else {"key": outer[reference].key}

    when = node.when
    return {
        "stage": spec.name,
        "version": spec.version,
        "inputs": {
            port: [end(item) for item in ([value] if isinstance(value, str) else value)]
            for port, value in sorted(node.inputs.items())
        },
        "when": None
        if when is None
        else {**end(split_metric(when.metric)[0]), "metric": split_metric(when.metric)[1], "min": when.min, "max": when.max},
    }


def _what_is_fixed(sweep: CheckedSweep, part: str) -> dict[str, Any]:
    node = sweep.node.nodes[part]
    searched = {key.partition(".")[2]: key for key in sweep.node.sweep.space if key.partition(".")[0] == part}
    found = list(_possible_settings(sweep, part, searched))
    conditional = {name for name, key in searched.items() if sweep.node.sweep.space[key].when}
    fixed = canonical_value(dict(node.params))
    if found:
        fixed = canonical_settings(found[0])
        for name in searched:
            fixed = _without(fixed, name.split("."))
    workers = node.resources.workers
    return ({"workers": workers} if workers > 1 else {}) | {
        "seed": sweep.seed if node.seed is None else node.seed,
        "settings": fixed,
        "otherwise": {name: canonical_value(value) for name, value in _given(node.params, conditional).items()},
        "data": sorted({identity for settings in found if (identity := settings.data_identity()) is not None}),
    }


def _possible_settings(sweep: CheckedSweep, part: str, searched: Mapping[str, str]) -> Iterator[StageSettings]:
    """Settings that a trial can have: the first value of each parameter, and each further one beside these, if they fit."""
    candidates = {name: edge_values(sweep.node.sweep.space[key]) for name, key in searched.items()}
    first = {name: values[0] for name, values in candidates.items()}
    for values in (first, *({**first, name: value} for name, listed in candidates.items() for value in listed[1:])):
        try:
            yield sweep.specs[part].settings(**with_values(sweep.node.nodes[part].params, values))
        except ValueError:
            continue


def _without(data: dict[str, Any], parts: list[str]) -> dict[str, Any]:
    head, *rest = parts
    if rest and isinstance(data.get(head), dict):
        inner = _without(data[head], rest)
        return {**data, head: inner} if inner else {name: value for name, value in data.items() if name != head}
    return {name: value for name, value in data.items() if name != head}


def _given(params: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """The fixed values of parameters that are searched under a condition: they hold where it does not."""
    found = {}
    for name in sorted(names):
        value: Any = params
        for word in name.split("."):
            value = value.get(word) if isinstance(value, Mapping) else None
        if value is not None:
            found[name] = value
    return found
