"""Where the boxes and lines of a run's graph are, and the texts that fit into them, for the template to draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.report.graph_formats import edge_path
from orchestrator.report.graph_layout import Place, lay_out
from orchestrator.report.text import format_seconds, shorten

WIDTH, HEIGHT = 186.0, 58.0
GAP_X, GAP_Y = 20.0, 40.0
NAME_LETTERS, STAGE_LETTERS, FIGURES_LETTERS = 20, 27, 29


def graph_shapes(graph: Mapping[str, Any]) -> dict[str, Any]:
    """Boxes and paths in pixels; whole names are in the titles."""
    nodes = {node["node"]: node for node in graph["nodes"]}
    layout = lay_out(nodes, [(one, other) for one, other in graph["edges"]])

    def middle(place: Place) -> tuple[float, float]:
        return WIDTH / 2 + place.across * (WIDTH + GAP_X), HEIGHT / 2 + place.layer * (HEIGHT + GAP_Y)

    boxes = []
    for name, place in layout.places.items():
        x, y = middle(place)
        boxes.append(_box(nodes[name], x - WIDTH / 2, y - HEIGHT / 2))
    return {
        "width": round(layout.width * (WIDTH + GAP_X) - GAP_X, 1) if nodes else 0.0,
        "height": len(layout.layers) * (HEIGHT + GAP_Y) - GAP_Y if nodes else 0.0,
        "box_width": WIDTH,
        "box_height": HEIGHT,
        "boxes": boxes,
        "paths": [edge_path([middle(place) for place in route], HEIGHT) for route in layout.routes.values()],
    }


def _box(node: Mapping[str, Any], x: float, y: float) -> dict[str, Any]:
    figures = _figures(node)
    return {
        "x": round(x, 1),
        "y": round(y, 1),
        "node": node["node"],
        "word": node["word"],
        "is_sweep": node["is_sweep"],
        "is_inside": node["sweep"] is not None,
        "name": shorten(node["node"], NAME_LETTERS),
        "stage": shorten(f"sweep: {node['detail']}" if node["is_sweep"] else node["stage"], STAGE_LETTERS),
        "figures": shorten(figures, FIGURES_LETTERS),
        "title": ", ".join(part for part in (node["node"], node["stage"], node["word"], figures, node["note"]) if part),
    }


def _figures(node: Mapping[str, Any]) -> str:
    """12.3s; of several instances also how many came to what."""
    took = format_seconds(node["seconds"]) if node["seconds"] else ""
    words = ", ".join(f"{count} {word}" for word, count in node["words"].items()) if node["instances"] > 1 else ""
    return " · ".join(part for part in (took, words) if part)
