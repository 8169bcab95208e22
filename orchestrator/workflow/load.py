"""A workflow file -> Workflow, keeping the line of every value. Knows no stage: `check` holds what needs the catalog."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import Problem, WorkflowError
from orchestrator.workflow.overrides import apply_overrides
from orchestrator.workflow.places import Findings, KeyPath, Places, entry, list_names, shorten
from orchestrator.workflow.source import checked_bytes, read_source
from orchestrator.workflow.validate import Defect, defects, legal_names, report, validate_data
from orchestrator.workflow.workflow_spec import Workflow
from orchestrator.workflow.yaml12 import YamlReader

_WORKFLOW_KEYS = ("version", "name", "seed", "notify", "budget", "nodes")
_BY_NAME = ("params", "inputs", "foreach")  # fields of a node of which one entry can be left out alone


@dataclass(frozen=True)
class LoadedWorkflow:
    """A workflow and where its values stand.

    `problems` are those that left enough to look at the rest: `workflow` then lacks what could not be understood, and
    `check_workflow` raises them together with its own. Nodes at the places in `unread` are in the file but not in `workflow`.
    `text` is the file as it was read, kept for the ledger.
    """

    workflow: Workflow
    file: str
    lines: Places
    text: str = ""
    overrides: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    reported: frozenset[KeyPath] = frozenset()
    unread: frozenset[KeyPath] = frozenset()


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
    data, unread = _with_sweeps_apart(data, findings)
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


def _with_sweeps_apart(data: dict[str, Any], findings: Findings) -> tuple[dict[str, Any], frozenset[KeyPath]]:
    """`data` as Workflow has it, nodes that search under `sweeps`. A sweep inside a sweep is reported and left out."""
    if "sweeps" in data:
        findings.add(
            ("sweeps",),
            'unknown key "sweeps"',
            found=entry("sweeps", data["sweeps"]),
            expected=f"a workflow takes {list_names(_WORKFLOW_KEYS)}",
            suggestion="a sweep is a node: nodes: {search: {sweep: {...}, nodes: {...}}}",
        )
    data = {key: value for key, value in data.items() if key != "sweeps"}
    nodes = data.get("nodes")
    if not isinstance(nodes, dict):
        return data, frozenset()
    sweeps = {name: node for name, node in nodes.items() if _searches(node)}
    unread: frozenset[KeyPath] = frozenset()
    for name, sweep in list(sweeps.items()):
        parts = sweep.get("nodes")
        for part in [part for part, node in parts.items() if _is_nested(node)] if isinstance(parts, dict) else []:
            findings.add(
                ("nodes", name, "nodes", part, "sweep"),
                f'node "{shorten(name)}.{shorten(part)}": a sweep cannot stand inside a sweep',
                found=entry(part, parts[part]),
                expected="a node with a stage",
                suggestion="put its space into the outer one, or write it before the outer one and refer to its best",
            )
            sweeps, dropped = _without_part(sweeps, name, part)
            unread |= dropped
    return {**data, "nodes": {name: node for name, node in nodes.items() if not _searches(node)}, "sweeps": sweeps}, unread


def _searches(node: Any) -> bool:
    return isinstance(node, dict) and ("sweep" in node or ("nodes" in node and "stage" not in node))


def _is_nested(node: Any) -> bool:
    return isinstance(node, dict) and "sweep" in node


def _validated(data: dict[str, Any], unread: frozenset[KeyPath], findings: Findings) -> tuple[Workflow, frozenset[KeyPath]]:
    """`data` as a Workflow; what is wrong is reported and left out, so that the rest can still be checked."""
    for attempt in range(4):  # leaving a value out can uncover at most what needed it: a field, its node, the nodes
        try:
            return validate_data(Workflow, data), unread
        except ValidationError as error:
            for defect in defects(error, data):
                if not findings.known_at(_place(defect.path)) and not (defect.missing and attempt):
                    _report(defect, findings)
                data, dropped = _left_out(data, defect)
                unread |= dropped
    raise WorkflowError(findings.sorted())


def _place(path: KeyPath) -> KeyPath:
    """The place in the file of a path through a Workflow: sweeps are nodes there."""
    return ("nodes", *path[1:]) if path[:1] == ("sweeps",) else path


def _report(defect: Defect, findings: Findings) -> None:
    def legal() -> tuple[str, list[str]]:
        parent = defect.path if defect.missing else defect.path[:-1]
        names = legal_names(Workflow, parent) if parent else list(_WORKFLOW_KEYS)
        match parent:
            case ():
                return "a workflow", names
            case ("nodes", _) | ("sweeps", _, "nodes", _):
                return "a node", names
            case ("sweeps", _):
                return "a node that searches", names
        return f'"{_last_words(parent)}"', names

    values = defect.value
    if defect.path[2:4] == ("sweep", "space") and len(defect.path) == 5 and isinstance(values, list):
        hint = f"write {defect.path[-1]}: {{choice: {shorten(values)}}}"
        defect = replace(defect, expected="one of choice, uniform, loguniform and int")
        report(defect, place=_place(defect.path), findings=findings, legal=legal, hint=hint)
        return
    report(defect, place=_place(defect.path), findings=findings, legal=legal)


def _last_words(path: KeyPath) -> str:
    last = path[-1]
    return f"{path[-2]}[{last + 1}]" if isinstance(last, int) else last


def _left_out(data: dict[str, Any], defect: Defect) -> tuple[dict[str, Any], frozenset[KeyPath]]:
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
            left = {name: value for name, value in data["nodes"].items() if name != node}
            return {**data, "nodes": left}, frozenset({("nodes", node)})
        case ("nodes", _, _, *_):
            return _without(data, path[:4] if path[2] in _BY_NAME else path[:3]), frozenset()
        case ("sweeps", str(name), *inside):
            sweeps, unread = _sweep_left_out(data["sweeps"], name, tuple(inside))
            return {**data, "sweeps": sweeps}, unread
    return (_without(data, path[:1]) if path else data), frozenset()


def _sweep_left_out(sweeps: dict[str, Any], name: str, path: KeyPath) -> tuple[dict[str, Any], frozenset[KeyPath]]:
    """`sweeps` without the culprit at `path` inside the sweep; what it must have gets a stand-in."""
    sweep = sweeps.get(name)
    if not isinstance(sweep, dict):  # dropped for an earlier culprit
        return sweeps, frozenset()
    match path:
        case ("nodes", str(part)) | ("nodes", str(part), "stage", *_):
            return _without_part(sweeps, name, part)
        case ("nodes", _, field, *_):
            return {**sweeps, name: _without(sweep, path[:4] if field in _BY_NAME else path[:3])}, frozenset()
        case ("sweep",):
            return {**sweeps, name: {**sweep, "sweep": {"space": {}, "objectives": {}, "trials": 1}}}, frozenset()
        case ("sweep", "space" | "objectives" as field, str(key), *_):
            return {**sweeps, name: _without(sweep, ("sweep", field, key))}, frozenset()
        case ("sweep", "space" | "objectives" as field):
            return {**sweeps, name: {**sweep, "sweep": {**sweep["sweep"], field: {}}}}, frozenset()
        case ("sweep", str(field), *_):
            return {**sweeps, name: _without(sweep, ("sweep", field))}, frozenset()
        case (str(field), *_) if field not in {"sweep", "nodes"}:
            return {**sweeps, name: _without(sweep, (field,))}, frozenset()
    return {other: value for other, value in sweeps.items() if other != name}, frozenset({("nodes", name)})


def _without_part(sweeps: dict[str, Any], name: str, part: str) -> tuple[dict[str, Any], frozenset[KeyPath]]:
    """`sweeps` without one node of a sweep; without the sweep where it was the last."""
    parts = {other: node for other, node in sweeps[name]["nodes"].items() if other != part}
    if parts:
        return {**sweeps, name: {**sweeps[name], "nodes": parts}}, frozenset({("nodes", name, "nodes", part)})
    return {other: sweep for other, sweep in sweeps.items() if other != name}, frozenset({("nodes", name)})


def _without(data: dict[str, Any], path: KeyPath) -> dict[str, Any]:
    key, *rest = path
    if not rest or not isinstance(data.get(str(key)), dict):
        return {name: value for name, value in data.items() if name != key}
    return {**data, str(key): _without(data[str(key)], tuple(rest))}
