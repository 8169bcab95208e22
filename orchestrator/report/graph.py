"""A workflow as a graph of its names, with states where it is a run's; and as a tree of text. `graph_formats` draws it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.report.run_status import RunStatus
from orchestrator.report.text import Style, format_value, plural, shorten, state_word
from orchestrator.workflow.check import CheckedSweep, CheckedWorkflow
from orchestrator.workflow.plan import Plan
from orchestrator.workflow.references import existing_name, parse_reference

_STATES = (
    "failed", "running", "retrying", "waiting", "interrupted", "cancelled", "blocked", "planned",
    "search", "run", "wait", "later", "done", "shared", "hit", "skipped", "skip",
)  # fmt: skip
"""The state of a box is the first of these that one of its nodes has."""

States = Mapping[str, Counter[str]]
"""By name of a node or sweep, how many of its nodes are in which state."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """One node of the workflow, one sweep, or one node of a sweep's trials (`group` is the sweep, `name` "search.tune").

    `state` and `counts` are of a run: how many nodes, over foreach values and trials, are in which state.
    """

    name: str
    stage: str
    group: str = ""
    detail: str = ""
    state: str = ""
    counts: Mapping[str, int]

    @property
    def text(self) -> str:
        """What stands beside the name: of a run how its nodes are, else what it varies."""
        several = sum(self.counts.values()) > 1
        states = ", ".join(f"{number} {state}" for state, number in self.counts.items()) if several else ""
        return "; ".join(part for part in (self.detail, states) if part)


@dataclass(frozen=True, kw_only=True)
class WorkflowGraph:
    """Boxes in an order in which they can run; edges go from what is needed to what needs it."""

    name: str
    boxes: tuple[Box, ...]
    edges: tuple[tuple[str, str], ...]


def workflow_graph(checked: CheckedWorkflow, found: States | None = None) -> WorkflowGraph:
    """The graph of a workflow; `found` are states of its nodes in a run or a plan."""
    found = found or {}
    workflow = checked.loaded.workflow
    boxes: list[Box] = []
    edges: list[tuple[str, str]] = []
    for name in checked.order:
        sweep = checked.sweeps.get(name)
        if sweep is None:
            detail = "; ".join(
                f"{key}: {', '.join(format_value(value) for value in values)}"
                for key, values in workflow.nodes[name].foreach.items()
            )
            boxes.append(_box(name, checked.specs[name].name, found, detail=shorten(detail, 60)))
            edges += [(target, name) for target in checked.targets[name]]
            continue
        inner, links = _of_sweep(sweep, found)
        boxes += inner
        edges += links
    return WorkflowGraph(name=workflow.name, boxes=tuple(boxes), edges=tuple(dict.fromkeys(edges)))


def tree_lines(graph: WorkflowGraph, *, style: Style, width: int | None, is_ascii: bool) -> list[str]:
    """The graph as an indented tree: each box below the last thing that it needs; what else it needs is named beside it."""
    parents: dict[str, list[str]] = {box.name: [] for box in graph.boxes}
    for parent, child in graph.edges:
        parents[child].append(parent)
    number = {box.name: index for index, box in enumerate(graph.boxes)}
    main = {name: max(needs, key=number.__getitem__) if needs else "" for name, needs in parents.items()}
    children: dict[str, list[Box]] = {}
    for box in graph.boxes:
        children.setdefault(main[box.name], []).append(box)
    branch, last, bar = ("|- ", "`- ", "|  ") if is_ascii else ("├─ ", "└─ ", "│  ")
    rows: list[tuple[Box, str]] = []

    def add(box: Box, lead: str, mark: str) -> None:
        rows.append((box, f"{lead}{mark}{box.name}"))
        below = children.get(box.name, [])
        deeper = lead + {branch: bar, last: "   "}.get(mark, "")
        for index, child in enumerate(below):
            add(child, deeper, last if index == len(below) - 1 else branch)

    for root in children.get("", []):
        add(root, "", "")
    nodes = plural(sum(not box.group and box.stage != "sweep" for box in graph.boxes), "node")
    sweeps = sum(box.stage == "sweep" for box in graph.boxes)
    searches = f", {plural(sweeps, 'sweep')}" if sweeps else ""
    lines = [f"{style.paint(graph.name, 'bold')}  {nodes}{searches}"]
    names = max((len(text) for _, text in rows), default=0)
    stages = max((len(box.stage) for box, _ in rows), default=0)
    has_states = any(box.state for box in graph.boxes)
    for box, text in rows:
        others = [name for name in parents[box.name] if name != main[box.name]]
        beside = "; ".join(part for part in (box.text, f"also needs {', '.join(others)}" if others else "") if part)
        plain = f"{text:<{names}}  {box.stage:<{stages}}  {beside}".rstrip()
        room = width - 8 if width is not None and has_states else width
        plain = shorten(plain, room) if room is not None else plain
        lines.append(f"{style.word(state_word(box.state)) if box.state else ' ' * 6}  {plain}" if has_states else plain)
    return lines


def graph_document(graph: WorkflowGraph) -> dict[str, Any]:
    """The graph as data."""
    boxes = [{**vars(box), "counts": dict(box.counts)} for box in graph.boxes]
    return {"graph": {"name": graph.name, "nodes": boxes, "edges": [list(edge) for edge in graph.edges]}}


def _of_sweep(sweep: CheckedSweep, found: States) -> tuple[list[Box], list[tuple[str, str]]]:
    """The boxes of a sweep: the nodes of its trials, then the sweep itself, which has settled when they have ended."""
    settings, name = sweep.node.sweep, sweep.name
    inside = {part: f"{name}.{part}" for part in sweep.order}
    boxes, edges = [], []
    searched = {part: [key for key in settings.space if key.partition(".")[0] == part] for part in inside}
    for part, label in inside.items():
        keys = [key.partition(".")[2] for key in searched[part]]
        detail = f"searches {', '.join(keys)}" if keys else ""
        boxes.append(_box(label, sweep.specs[part].name, found, group=name, detail=detail))
        node = sweep.node.nodes[part]
        texts = [text for value in node.inputs.values() for text in ([value] if isinstance(value, str) else value)]
        targets = [_name(text, inside) for text in (*texts, *node.needs) if not existing_name(text)]
        if not targets:
            targets = list(dict.fromkeys(sweep.node.needs))
        edges += [(target, label) for target in targets]
    inner = set(inside.values())
    needed = {parent for parent, child in edges if child in inner}
    edges += [(label, name) for label in inside.values() if label not in needed]
    edges += [(target, name) for target in sweep.node.needs]
    edges += [(parse_reference(each.versus.rpartition(".")[0]).node, name) for each in settings.constraints if each.versus]
    trials = f"{plural(settings.trials, 'trial')}, {settings.sampler.kind}" if settings.trials is not None else "the whole grid"
    boxes.append(_box(name, "sweep", found, detail=trials))
    return boxes, edges


def _name(text: str, inside: Mapping[str, str]) -> str:
    return inside[text] if text in inside else parse_reference(text).node


def _box(name: str, stage: str, found: States, *, group: str = "", detail: str = "") -> Box:
    counts = found.get(name, Counter())
    states = [*_STATES, *counts]
    return Box(
        name=name, stage=stage, group=group, detail=detail, state=next((state for state in states if counts[state]), ""),
        counts={state: counts[state] for state in dict.fromkeys(states) if counts[state]},
    )  # fmt: skip


def states_of_run(status: RunStatus) -> States:
    """How many nodes of each name are in which state; those of a sweep's trials under "search.tune"."""
    words = {"searching": "running", "settled": "done"}
    sweeps = {sweep.name: words.get(sweep.state, sweep.state) for sweep in status.sweeps.values()}
    found = {node.node.partition(".")[0]: "hit" for node in status.nodes.values() if node.is_of_trial}  # settled before
    return _counted([*((node.node, node.state) for node in status.nodes.values()), *{**found, **sweeps}.items()])


def states_of_plan(plan: Plan) -> States:
    """What the plan has in store for the nodes of each name; trials are not planned yet."""
    sweeps = ((name, sweep.status.value) for name, sweep in plan.sweeps.items())
    late = [*((name, "later") for name in plan.later), *((name, "skip") for name in plan.skipped)]
    nodes = ((node.node, node.status.value) for node in plan.nodes.values())
    return _counted((name, state.lower()) for name, state in [*nodes, *sweeps, *late])


def _counted(pairs: Iterable[tuple[str, str]]) -> States:
    found: dict[str, Counter[str]] = {}
    for name, state in pairs:
        found.setdefault(name, Counter())[state] += 1
    return found
