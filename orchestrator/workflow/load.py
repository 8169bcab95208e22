"""A workflow file -> Workflow, keeping the line of every value. Knows no stage: `check` holds what needs the catalog."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import Problem, WorkflowError
from orchestrator.workflow.overrides import apply_overrides
from orchestrator.workflow.places import Findings, KeyPath, Places, entry, shorten
from orchestrator.workflow.source import checked_bytes, read_source
from orchestrator.workflow.spec import Workflow
from orchestrator.workflow.validate import Defect, defects, legal_names, report, validate_data
from orchestrator.workflow.yaml12 import YamlReader


@dataclass(frozen=True)
class LoadedWorkflow:
    """A workflow and where its values stand.

    `problems` are those that left enough to look at the rest: `workflow` then lacks what could not be understood, and
    `check_workflow` raises them together with its own. Nodes named in `unread` are in the file but not in `workflow`. `text` is
    the file as it was read, kept for the ledger.
    """

    workflow: Workflow
    file: str
    lines: Places
    text: str = ""
    overrides: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    reported: frozenset[KeyPath] = frozenset()
    unread: frozenset[str] = frozenset()


def load_workflow(path: Path, *, overrides: Sequence[str] = ()) -> LoadedWorkflow:
    """Read the workflow file at `path`; raises WorkflowError where nothing can be made of it."""
    return load_text(read_source(path), file=str(path), overrides=overrides)


def load_text(text: str | bytes, *, file: str, overrides: Sequence[str] = ()) -> LoadedWorkflow:
    """Read a workflow from text; `file` is its name in messages. Raises WorkflowError where nothing can be made of it."""
    source = checked_bytes(text, file=file)
    reader = YamlReader(source, file=file)
    data = reader.read()
    findings = reader.findings
    if not isinstance(data, dict):
        empty = data is None
        what = "the file is empty" if empty else "the top level is not a mapping"
        example = "start with version: 1, name: NAME and nodes: {first: {stage: STAGE}}"
        expected = "a mapping with version, name and nodes"
        findings.add((), what, found="nothing" if empty else entry(0, data), expected=expected, suggestion=example)
        raise WorkflowError(findings.sorted())
    data, texts = apply_overrides(data, overrides, findings=findings, parse=_parse_value)
    findings.places = Places(file=file, positions=reader.positions, aliases=reader.aliases, overrides=texts)
    data, unread = _set_sweeps_aside(data, findings)
    workflow, unread = _validated(data, unread, findings)
    return LoadedWorkflow(
        workflow=workflow,
        file=file,
        lines=findings.places,
        text=source.decode(),
        overrides=tuple(overrides),
        problems=tuple(findings.sorted()),
        reported=frozenset(findings.reported),
        unread=unread,
    )


def _parse_value(text: str) -> Any:
    """The value in a `--set` text, by the rules of the file; raises WorkflowError."""
    reader = YamlReader(checked_bytes(text, file="--set"), file="--set")
    value = reader.read()
    if reader.findings.problems:
        raise WorkflowError(reader.findings.sorted())
    return value


def _set_sweeps_aside(data: dict[str, Any], findings: Findings) -> tuple[dict[str, Any], frozenset[str]]:
    nodes = data.get("nodes")
    if not isinstance(nodes, dict):
        return data, frozenset()
    sweeps = frozenset(name for name, node in nodes.items() if isinstance(node, dict) and "sweep" in node)
    for name in sweeps:
        findings.add(
            ("nodes", name, "sweep"),
            f'node "{shorten(name)}": sweeps are not supported by this version yet',
            found=entry("sweep", nodes[name]["sweep"]),
            expected="a node with a stage",
            suggestion="list the values to try instead, on a node with a stage: foreach: {lr: [0.1, 0.01]}",
        )
    return {**data, "nodes": {name: node for name, node in nodes.items() if name not in sweeps}}, sweeps


def _validated(data: dict[str, Any], unread: frozenset[str], findings: Findings) -> tuple[Workflow, frozenset[str]]:
    """`data` as a Workflow; what is wrong is reported and left out, so that the rest can still be checked."""
    if unread and not data["nodes"]:
        raise WorkflowError(findings.sorted())
    for attempt in range(4):  # leaving a value out can uncover at most what needed it: a field, its node, the nodes
        try:
            return validate_data(Workflow, data), unread
        except ValidationError as error:
            for defect in defects(error, data):
                if not findings.known_at(defect.path) and not (defect.missing and attempt):
                    _report(defect, findings)
                data, dropped = _left_out(data, defect)
                unread |= dropped
    raise WorkflowError(findings.sorted())


def _report(defect: Defect, findings: Findings) -> None:
    owners = {0: "a workflow", 2: "a node"}

    def legal() -> tuple[str, list[str]]:
        parent = defect.path if defect.missing else defect.path[:-1]
        return owners.get(len(parent), f'"{parent[-1]}"' if parent else ""), legal_names(Workflow, parent)

    report(defect, place=defect.path, findings=findings, legal=legal)


def _left_out(data: dict[str, Any], defect: Defect) -> tuple[dict[str, Any], frozenset[str]]:
    """`data` without the culprit; a required one gets a stand-in, and a node that lost its stage is dropped."""
    path = (*defect.path, defect.missing) if defect.missing else defect.path
    match path:
        case ("version",):
            return {**data, "version": 1}, frozenset()
        case ("name",):
            return {**data, "name": "unnamed"}, frozenset()
        case ("nodes",):
            return {**data, "nodes": {}}, frozenset()
        case ("nodes", str(node)) | ("nodes", str(node), "stage", *_):
            return {**data, "nodes": {name: value for name, value in data["nodes"].items() if name != node}}, frozenset({node})
        case ("nodes", _, _, *_):
            return _without(data, path[:4] if path[2] in {"params", "inputs", "foreach"} else path[:3]), frozenset()
    return (_without(data, path[:1]) if path else data), frozenset()


def _without(data: dict[str, Any], path: KeyPath) -> dict[str, Any]:
    key, *rest = path
    if not rest or not isinstance(data.get(str(key)), dict):
        return {name: value for name, value in data.items() if name != key}
    return {**data, str(key): _without(data[str(key)], tuple(rest))}
