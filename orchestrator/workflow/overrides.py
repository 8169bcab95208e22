"""`--set node.param=value` on top of the data of a workflow file. Types nothing: validation follows as for the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.errors import WorkflowError
from orchestrator.workflow.places import Findings, KeyPath, Places, list_names, shorten
from orchestrator.workflow.sweep_spec import Sweep

WORKFLOW_FIELDS = ("seed", "name")
NODE_FIELDS = ("resources", "retry", "timeout", "seed", "params")
FIXED_FIELDS = ("stage", "inputs", "foreach", "needs", "when", "sweep", "nodes")
FORM = "node.param=value, node.resources.cpus=2, search.trials=4, search.node.param=value or seed=3"
DOTTED_NAMES = ("space", "objectives", "carry")
"""Mappings of a sweep whose own names hold dots: `search.space.sparsify.n_m=...` means the entry "sparsify.n_m"."""


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
    elif isinstance(nodes, dict) and isinstance(nodes[name], dict) and "sweep" in nodes[name]:
        return _sweep_path(target, name, rest, nodes[name], refused)
    else:
        return _node_path(target, name, rest, ("nodes", name), refused)
    return None


def _node_path(target: str, name: str, rest: list[str], place: KeyPath, refused: _Refusal) -> KeyPath | None:
    """The place that `rest` names in the node at `place`; `name` is what the node is called here."""
    if not rest or rest == ["params"]:
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
        return (*place, *rest)
    else:
        return (*place, "params", *rest)
    return None


def _sweep_path(target: str, name: str, rest: list[str], sweep: Mapping[str, Any], refused: _Refusal) -> KeyPath | None:
    """`search.trials` is of the sweep, `search.sparsify.epochs` of its node; `search.sweep.` and `search.nodes.` say which."""
    nodes, settings = sweep.get("nodes"), sweep.get("sweep")
    parts = list(nodes) if isinstance(nodes, dict) else []
    is_of_node = bool(rest) and (rest[0] in parts if rest[0] not in {"sweep", "nodes"} else rest[0] == "nodes")
    words = rest[1:] if rest and rest[0] in {"sweep", "nodes"} else rest
    if is_of_node and words and words[0] in parts:
        part = words[0]
        return _node_path(target, f"{name}.{part}", words[1:], ("nodes", name, "nodes", part), refused)
    if is_of_node or not words or (words[0] not in Sweep.model_fields and len(words) > 1) or words[0] == "needs":
        fields = [] if is_of_node else list(Sweep.model_fields)
        refused.add(
            f'"{target}" is nothing that can be set of sweep "{name}"',
            found=shorten(target),
            expected=f"a parameter of one of its nodes {list_names(parts)} ({name}.node.param=value)"
            + (f", or one of {list_names(fields)} ({name}.trials=4)" if fields else ""),
            suggestion=refused.findings.did_you_mean(words[0], [*parts, *fields]) if words else "",
        )
        return None
    return ("nodes", name, "sweep", *_with_dotted_names(tuple(words), settings))


def _with_dotted_names(words: tuple[str, ...], data: Any) -> KeyPath:
    """`words` as a path in which a name of a mapping in DOTTED_NAMES is one part: the longest that is there, or all."""
    for index, word in enumerate(words[:-1]):
        data = data.get(word) if isinstance(data, dict) else None
        if word in DOTTED_NAMES:
            head, inside = words[: index + 1], words[index + 1 :]
            there = [tuple(name.split(".")) for name in data] if isinstance(data, dict) else []
            length = max((len(name) for name in there if inside[: len(name)] == name), default=len(inside))
            return (*head, ".".join(inside[:length]), *inside[length:])
    return words


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
