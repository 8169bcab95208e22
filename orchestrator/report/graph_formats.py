"""A workflow's graph as Mermaid, as DOT and as SVG. States are said in words; colour only repeats them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from orchestrator.report.graph import Box, WorkflowGraph
from orchestrator.report.graph_layout import Place, lay_out
from orchestrator.report.text import shorten, state_word

_FILLS = {
    "done": "#d7ecd9", "hit": "#d5e8f3", "running": "#fbe6b8", "retrying": "#fbe6b8", "failed": "#f6cfc8",
    "blocked": "#ead9e6", "cancelled": "#e4e4e4", "interrupted": "#e4e4e4", "skipped": "#eeeeee",
}  # fmt: skip
"""Told apart by people who see no red or no green; every box also says its state."""

_TIP = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z" fill="#777777"/></marker></defs>'
)
_TEXT_LETTERS = 34
_LETTER, _LINE, _PAD = 7, 15, 10
_GAP_X, _GAP_Y = 26, 40


def graph_mermaid(graph: WorkflowGraph) -> str:
    """For pages that draw Mermaid (GitHub, GitLab, many wikis)."""
    ids = {box.name: f"n{index}" for index, box in enumerate(graph.boxes)}
    lines = ["flowchart TD"]
    for group in _groups(graph):
        if group:
            lines.append(f'  subgraph g_{ids[group]}["{_quoted(group)}: one trial"]')
        indent = "    " if group else "  "
        for box in graph.boxes:
            if box.group == group:
                left, right = ('[["', '"]]') if box.stage == "sweep" else ('["', '"]')
                lines.append(f"{indent}{ids[box.name]}{left}{'<br/>'.join(map(_quoted, _words(box)))}{right}")
        if group:
            lines.append("  end")
    lines += [f"  {ids[parent]} --> {ids[child]}" for parent, child in graph.edges]
    for state in dict.fromkeys(box.state for box in graph.boxes if box.state in _FILLS):
        members = ",".join(ids[box.name] for box in graph.boxes if box.state == state)
        lines += [f"  classDef {state} fill:{_FILLS[state]},color:#111", f"  class {members} {state}"]
    return "\n".join(lines) + "\n"


def graph_dot(graph: WorkflowGraph) -> str:
    """For Graphviz."""
    lines = [
        f"digraph {_dot(graph.name)} {{",
        '  node [shape=box, style="rounded,filled", fillcolor=white, fontname=Helvetica];',
    ]
    for group in _groups(graph):
        if group:
            lines.append(f"  subgraph {_dot(f'cluster_{group}')} {{ label={_dot(f'{group}: one trial')}; style=dashed;")
        for box in graph.boxes:
            if box.group == group:
                shape = ", peripheries=2" if box.stage == "sweep" else ""
                label = "\\n".join(_dot(word)[1:-1] for word in _words(box))
                fill = f", fillcolor={_dot(_FILLS[box.state])}" if box.state in _FILLS else ""
                lines.append(f'  {_dot(box.name)} [label="{label}"{shape}{fill}];')
        if group:
            lines.append("  }")
    lines += [f"  {_dot(parent)} -> {_dot(child)};" for parent, child in graph.edges]
    return "\n".join([*lines, "}"]) + "\n"


def graph_svg(graph: WorkflowGraph) -> str:
    """A picture that needs no other program; nodes of a sweep's trials are dashed."""
    layout = lay_out([box.name for box in graph.boxes], graph.edges)
    words = {box.name: _words(box) for box in graph.boxes}
    width = 2 * _PAD + _LETTER * max((len(word) for each in words.values() for word in each), default=0)
    height = 2 * _PAD + _LINE * max((len(each) for each in words.values()), default=0)

    def middle(place: Place) -> tuple[float, float]:
        return _GAP_X + width / 2 + place.across * (width + _GAP_X), _GAP_Y / 2 + height / 2 + place.layer * (height + _GAP_Y)

    across, down = _GAP_X + layout.width * (width + _GAP_X), len(layout.layers) * (height + _GAP_Y)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across:.0f} {down:.0f}"'
    lines = [
        f'{head} width="{across:.0f}" height="{down:.0f}" role="img" font-family="Helvetica, sans-serif" font-size="12">',
        f"<title>{escape(graph.name)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        _TIP,
    ]
    for route in layout.routes.values():
        points = [middle(place) for place in route]
        lines.append(f'<path d="{edge_path(points, height)}" fill="none" stroke="#777777" marker-end="url(#tip)"/>')
    for box in graph.boxes:
        x, y = middle(layout.places[box.name])
        lines += _drawn(box, words[box.name], x=x, y=y, width=width, height=height)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _drawn(box: Box, words: Sequence[str], *, x: float, y: float, width: float, height: float) -> list[str]:
    dashes = ' stroke-dasharray="5 3"' if box.group else ""
    edge = ' stroke-width="2.5"' if box.stage == "sweep" else ""
    fill = _FILLS.get(box.state, "#ffffff")
    place = f'x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}"'
    lines = [
        f"<g><title>{escape(': '.join(part for part in (box.name, box.text) if part))}</title>",
        f'<rect {place} rx="6" fill="{fill}" stroke="#555555"{dashes}{edge}/>',
    ]
    top = y - (len(words) - 1) * _LINE / 2 + 4
    for index, word in enumerate(words):
        bold = "" if index else ' font-weight="bold"'
        lines.append(
            f'<text x="{x:.1f}" y="{top + index * _LINE:.1f}" text-anchor="middle" fill="#111111"{bold}>{escape(word)}</text>'
        )
    return [*lines, "</g>"]


def edge_path(points: Sequence[tuple[float, float]], height: float) -> str:
    """A smooth line from below the first point to above the last, upright where it passes a layer."""
    (x, y), half = points[0], height / 2
    parts = [f"M{x:.1f} {y + half:.1f}"]
    before = (x, y + half)
    for index, (x, y) in enumerate(points[1:], 1):
        is_last = index == len(points) - 1
        enter = y - half
        bend = (enter - before[1]) / 2
        parts.append(f"C{before[0]:.1f} {before[1] + bend:.1f} {x:.1f} {enter - bend:.1f} {x:.1f} {enter:.1f}")
        if not is_last:
            parts.append(f"L{x:.1f} {y + half:.1f}")
        before = (x, y + half)
    return "".join(parts)


def _words(box: Box) -> list[str]:
    """The lines of text in a box: name, stage, state and what it varies."""
    state = state_word(box.state) if box.state else ""
    beside = ", ".join(part for part in (state, box.text) if part)
    return [shorten(word, _TEXT_LETTERS) for word in (box.name, box.stage, beside) if word]


def _groups(graph: WorkflowGraph) -> list[str]:
    return list(dict.fromkeys(box.group for box in graph.boxes))


def _quoted(text: str) -> str:
    return escape(text, quote=False).replace('"', "#quot;")


def _dot(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
