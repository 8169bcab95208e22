"""References to artifacts that the store holds already: `artifact:NAME`, `artifact:NAME@VERSION`, `artifact:KEY`.

They are looked up when a plan is made, once for a plan and all that a run plans later, so that a version which is promoted
meanwhile changes nothing. Only the artifact's key goes on from here: whatever it was called, equal artifacts make equal keys.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from orchestrator.errors import WorkflowError
from orchestrator.store.artifacts import Artifacts, Record
from orchestrator.store.names import Names
from orchestrator.workflow.check import CheckedWorkflow
from orchestrator.workflow.check_nodes import ANY_KIND
from orchestrator.workflow.expand import Instance
from orchestrator.workflow.places import Findings, KeyPath, entry, list_names
from orchestrator.workflow.plan import PlanNode
from orchestrator.workflow.references import ExistingArtifact, existing_name
from orchestrator.workflow.spec import Node
from stages.contract import StageSettings, StageSpec

_KEY = re.compile(r"[0-9a-f]{8,32}")
_LEGAL = "artifact:NAME, artifact:NAME@VERSION or artifact:KEY with at least 8 letters of the key"


def find_existing(
    checked: CheckedWorkflow, artifacts: Artifacts, names: Collection[str], *, known: Mapping[str, ExistingArtifact]
) -> dict[str, ExistingArtifact]:
    """What the nodes and sweeps of these names refer to in the store, by the reference as it is written.

    What is `known` is not asked for again. WorkflowError tells every reference that means nothing, or another kind than its
    port takes.
    """
    findings = Findings(checked.loaded.lines)
    found = dict(known)
    for place, node, text, kind in _uses(checked, names):
        artifact = found.get(text)
        if artifact is None:
            looked_up = _look_up(text, artifacts)
            if isinstance(looked_up, str):
                suggestion = findings.did_you_mean(existing_name(text), _all_names(artifacts))
                findings.add(
                    place,
                    f'node "{node}": {looked_up}',
                    found=entry(place[-1], text),
                    expected=_LEGAL,
                    suggestion=suggestion,
                    next_step="orchestrator artifacts names; orchestrator artifacts ls",
                )
                continue
            artifact = found[text] = looked_up
        if kind not in {ANY_KIND, artifact.kind}:
            findings.add(
                place,
                f'node "{node}": the input takes another kind of artifact',
                found=f"{entry(place[-1], text)}, and {artifact} is of kind {artifact.kind}",
                expected=f"an artifact of kind {kind}",
                next_step="orchestrator artifacts ls",
            )
    if findings.problems:
        raise WorkflowError(findings.sorted())
    return found


def existing_node(text: str, artifact: ExistingArtifact) -> PlanNode:
    """The node that stands for it in a plan: never run, and of no stage that could."""
    spec = StageSpec(
        name=artifact.stage, version=1, summary="", settings=StageSettings, implementation="", output=artifact.kind
    )
    return PlanNode(
        label=text, node=text, spec=spec, settings=StageSettings(), seed=0, inputs={}, after=(), when=None,
        asked=Node(stage=artifact.stage), identity={}, key=artifact.key, existing=artifact,
    )  # fmt: skip


def existing_instance(text: str) -> Instance:
    """What a reference to it expands to."""
    return Instance(label=text, node=text, params={}, inputs={}, needs=(), when_label=None, coordinates={})


@dataclass(frozen=True)
class _Scope:
    place: KeyPath
    nodes: Mapping[str, Node]
    specs: Mapping[str, StageSpec]


def _uses(checked: CheckedWorkflow, names: Collection[str]) -> Iterator[tuple[KeyPath, str, str, str]]:
    """(place, node, reference, kind that the port takes) of all that refers to the store."""
    workflow = checked.loaded.workflow
    scopes = [_Scope(("nodes",), {name: node for name, node in workflow.nodes.items() if name in names}, checked.specs)]
    scopes += [
        _Scope(("nodes", name, "nodes"), sweep.node.nodes, sweep.specs)
        for name, sweep in checked.sweeps.items()
        if name in names
    ]
    for scope in scopes:
        for name, node in scope.nodes.items():
            for field, ports in (("inputs", node.inputs), ("foreach", node.foreach)):
                for port, value in ports.items():
                    if port not in scope.specs[name].inputs:
                        continue
                    place: KeyPath = (*scope.place, name, field, port)
                    texts = [(place, value)] if isinstance(value, str) else [((*place, i), v) for i, v in enumerate(value)]
                    for where, text in texts:
                        if existing_name(text):
                            yield where, name, text, scope.specs[name].inputs[port].kind


def _look_up(text: str, artifacts: Artifacts) -> ExistingArtifact | str:
    """The artifact, or what is wrong with the reference."""
    name = existing_name(text)
    mark = Names(artifacts.store).find(name)
    if mark is not None:
        record = artifacts.find(mark.stage, mark.key)
        if record is None:
            return f"{mark} means artifact {mark.key[:8]} of {mark.stage}, which is damaged or gone from the store"
        return _existing(record, str(mark))
    found = artifacts.keys_starting(name) if _KEY.fullmatch(name) else []
    if len(found) > 1:
        return f'"{name}" begins several keys: {list_names(key for _, key in found)}'
    if not found:
        return f'the store has no artifact "{name}"'
    record = artifacts.find(*found[0])
    return _existing(record, "") if record is not None else f"artifact {name} is damaged, or its files are gone from the store"


def _existing(record: Record, name: str) -> ExistingArtifact:
    return ExistingArtifact(stage=record.stage, key=record.key, kind=record.kind, name=name)


def _all_names(artifacts: Artifacts) -> list[str]:
    return sorted(artifacts.store.list("names"))
