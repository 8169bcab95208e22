"""A node with its settings and its key: from what the file says and the keys of its inputs to a PlanNode. Reads no store."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from orchestrator.errors import PlanError
from orchestrator.workflow.expand import Instance
from orchestrator.workflow.identity import NotEncodable, artifact_identity, artifact_key
from orchestrator.workflow.plan import PlanNode
from orchestrator.workflow.spec import Node
from stages.contract import StageSettings, StageSpec


def keyed_node(instance: Instance, node: Node, spec: StageSpec, *, seed: int, keys: Mapping[str, str]) -> PlanNode:
    """The plan's node for an instance; `keys` by label are those of its inputs.

    Raises PlanError where the settings refuse the parameters or hold what no key can be made of.
    """
    settings = _settings(spec, instance)
    workers = node.resources.workers
    if workers > 1:
        try:
            settings.refuse_workers(workers)
        except ValueError as error:
            raise PlanError(f'node "{instance.label}": {error}') from error
    inputs = {
        port: keys[value] if isinstance(value, str) else [keys[label] for label in value]
        for port, value in instance.inputs.items()
    }
    try:
        identity = artifact_identity(spec, settings=settings, seed=seed, inputs=inputs, workers=workers)
    except NotEncodable as error:
        raise PlanError(f'node "{instance.label}": {error}') from error
    except ValueError as error:
        raise PlanError(f'node "{instance.label}": its data cannot be identified: {error}') from error
    condition = (instance.when_label, node.when) if instance.when_label is not None and node.when is not None else None
    return PlanNode(
        label=instance.label, node=instance.node, spec=spec, settings=settings, seed=seed, inputs=instance.inputs,
        after=instance.needs, when=condition, asked=node, identity=identity, key=artifact_key(identity),
    )  # fmt: skip


def _settings(spec: StageSpec, instance: Instance) -> StageSettings:
    try:
        return spec.settings(**instance.params)
    except ValidationError as error:  # each value was checked alone; only their combination can still be refused
        reason = "; ".join(detail["msg"] for detail in error.errors())
        raise PlanError(f'node "{instance.label}": {reason}', next_step=f"orchestrator stages show {spec.name}") from error
