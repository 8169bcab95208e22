"""`--set node.param=value` on top of the data of a workflow file. Types nothing: validation follows as for the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.errors import WorkflowError
from orchestrator.workflow.places import Findings, KeyPath, Places, list_names, shorten

WORKFLOW_FIELDS = ("seed", "name")
NODE_FIELDS = ("resources", "retry", "timeout", "seed", "params")
FIXED_FIELDS = ("stage", "inputs", "foreach", "needs", "when", "sweep", "nodes")
FORM = "node.param=value, node.resources.cpus=2 or seed=3"


def apply_overrides(
    data: dict[str, Any], overrides: Sequence[str], *, findings: Findings, parse: Callable[[str], Any]
) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """`data` with each override put in its place, and the texts by place. `parse` reads a value's text as the file would."""
    texts: dict[KeyPath, str] = {}
    for text in overrides:
        target, equals, value_text = text.partition("=")
        refused = _Refusal(text, findings)
        if not equals:
            refused.add("an override has no value", found=shorten(text), expected=FORM)
            continue
        path = _path(target.strip(), data, refused)
        if path is None:
            continue
        try:
            value = parse(value_text)
        except WorkflowError as error:
            problem = error.problems[0]
            refused.add(problem.what, found=problem.found, expected=problem.expected, suggestion=problem.suggestion)
            continue
        blocked = _scalar_above(data, path)
        if blocked:
            refused.add(
                f'"{".".join(map(str, blocked))}" is a single value in the file, so nothing inside it can be set',
                found=shorten(target),
                expected="the name of a value, or of one inside a mapping",
            )
            continue
        data = _with_value(data, path, value)
        texts[path] = text
    return data, texts


class _Refusal:
    """Adds problems placed at one `--set` text."""

    def __init__(self, text: str, findings: Findings) -> None:
        self._places = Places(file=findings.places.file, overrides={("set",): text})
        self.findings = findings

    def add(self, what: str, *, found: str, expected: str, suggestion: str = "") -> None:
        next_step = f"mend this --set, then: orchestrator validate {self.findings.places.file}"
        problem = self._places.problem(
            ("set",), what, found=found, expected=expected, suggestion=suggestion, next_step=next_step
        )
        self.findings.problems.append(problem)


def _path(target: str, data: Mapping[str, Any], refused: _Refusal) -> KeyPath | None:
    nodes = data.get("nodes")
    names = list(nodes) if isinstance(nodes, dict) else []
    name, *rest = target.split(".")
    if not target or "" in rest:
        refused.add("an override has an empty name in it", found=shorten(target) or "nothing before =", expected=FORM)
    elif not rest and name in WORKFLOW_FIELDS:
        return (name,)
    elif name not in names:
        legal = names if rest else [*names, *WORKFLOW_FIELDS]
        refused.add(
            f'the workflow has no node "{shorten(name)}"',
            found=shorten(target),
            expected=f"one of the nodes {list_names(names)}" + ("" if rest else " with a parameter, or seed or name"),
            suggestion=refused.findings.did_you_mean(name, legal),
        )
    elif not rest or rest == ["params"]:
        refused.add(
            f'node "{name}" itself cannot be set', found=shorten(target), expected=f"a parameter of it: {name}.param=value"
        )
    elif rest[0] in FIXED_FIELDS:
        refused.add(
            f'"{rest[0]}" of node "{name}" shapes the workflow and cannot be set from outside',
            found=shorten(target),
            expected=f"a parameter, or one of {list_names(NODE_FIELDS)}",
            suggestion=f'edit the file (a parameter of this name is set with "{name}.params.{rest[0]}")',
        )
    elif rest[0] in NODE_FIELDS:
        return ("nodes", name, *rest)
    else:
        return ("nodes", name, "params", *rest)
    return None


def _scalar_above(data: Any, path: KeyPath) -> KeyPath:
    """The part of `path` that ends at a value which is neither a mapping nor absent, or an empty path."""
    for length, part in enumerate(path[:-1], 1):
        data = data.get(part)
        if data is None:
            return ()
        if not isinstance(data, dict):
            return path[:length]
    return ()


def _with_value(data: dict[str, Any], path: KeyPath, value: Any) -> dict[str, Any]:
    """A copy of `data` with `value` at `path`; shared parts (aliases) are copied along the way, never changed."""
    key, *rest = path
    below = _with_value(data.get(str(key)) or {}, tuple(rest), value) if rest else value
    return {**data, str(key): below}
