"""Where the nodes of a directed graph are drawn: layers by longest path, few crossings by barycentres. Pure arithmetic.

Knows no run, no plan and no picture: what draws (SVG for a terminal's `graph`, the page of a report) scales the places itself.
"""

from __future__ import annotations

import bisect
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

NUM_SWEEPS = 6
EDGE_WIDTH = 0.25
"""The room of an edge where it passes a layer, in widths of a node."""

_Stop = Hashable  # a node's name, or (parent, child, layer) where an edge passes through a layer


class Place(NamedTuple):
    """Where something stands: its layer from 0, and across the layer in widths of a node, 0 at the leftmost."""

    layer: int
    across: float


@dataclass(frozen=True)
class Layout:
    """A drawn graph. `layers` list the nodes as they stand; `routes` are the places that an edge runs through, both ends among
    them: more than two where it passes layers between them.
    """

    layers: tuple[tuple[str, ...], ...]
    places: Mapping[str, Place]
    routes: Mapping[tuple[str, str], tuple[Place, ...]]

    @property
    def width(self) -> float:
        """Across all layers, in widths of a node."""
        every = [place.across for route in self.routes.values() for place in route]
        return 1 + max([*every, *(place.across for place in self.places.values())], default=-1.0)


def lay_out(nodes: Iterable[str], edges: Iterable[tuple[str, str]]) -> Layout:
    """Lay out a graph of (parent, child) edges; the same graph gives the same layout.

    Each node stands one layer below its lowest parent, so every edge goes down. Nodes of a layer are at least 1 apart.
    Raises ValueError for an edge between nodes that are not there, and for a cycle.

    Example:
        >>> lay_out(["a", "b", "c"], [("a", "b"), ("b", "c"), ("a", "c")]).layers
        (('a',), ('b',), ('c',))
    """
    names = list(dict.fromkeys(nodes))
    pairs = list(dict.fromkeys(edges))
    layer_of = _layers(names, pairs)
    rows: list[list[_Stop]] = [[] for _ in range(max(layer_of.values(), default=-1) + 1)]
    for name in names:
        rows[layer_of[name]].append(name)
    chains: dict[tuple[str, str], list[_Stop]] = {}
    for parent, child in pairs:
        between: list[_Stop] = [(parent, child, layer) for layer in range(layer_of[parent] + 1, layer_of[child])]
        for layer, stop in enumerate(between, layer_of[parent] + 1):
            rows[layer].append(stop)
        chains[parent, child] = [parent, *between, child]
    links = [pair for chain in chains.values() for pair in pairwise(chain)]
    above, below = _neighbours(links)
    rows = _ordered(rows, above, below)
    across = _spread(rows, above, below)
    place = {stop: Place(layer, round(across[stop], 3)) for layer, row in enumerate(rows) for stop in row}
    return Layout(
        layers=tuple(tuple(stop for stop in row if isinstance(stop, str)) for row in rows),
        places={name: place[name] for name in names},
        routes={pair: tuple(place[stop] for stop in chain) for pair, chain in chains.items()},
    )


def _layers(names: Sequence[str], pairs: Iterable[tuple[str, str]]) -> dict[str, int]:
    children: dict[str, list[str]] = {name: [] for name in names}
    num_open = dict.fromkeys(names, 0)
    for parent, child in pairs:
        if parent not in children or child not in children:
            raise ValueError(f"edge {parent!r} -> {child!r} has an end that is no node")
        children[parent].append(child)
        num_open[child] += 1
    ready = [name for name in names if not num_open[name]]
    layer = dict.fromkeys(ready, 0)
    for name in ready:
        for child in children[name]:
            layer[child] = max(layer.get(child, 0), layer[name] + 1)
            num_open[child] -= 1
            if not num_open[child]:
                ready.append(child)
    if len(ready) < len(names):
        left = [name for name in names if num_open[name]]
        raise ValueError(f"the graph has a cycle through {', '.join(left[:5])}")
    return layer


def _neighbours(links: Iterable[tuple[_Stop, _Stop]]) -> tuple[dict[_Stop, list[_Stop]], dict[_Stop, list[_Stop]]]:
    above: dict[_Stop, list[_Stop]] = {}
    below: dict[_Stop, list[_Stop]] = {}
    for upper, lower in links:
        above.setdefault(lower, []).append(upper)
        below.setdefault(upper, []).append(lower)
    return above, below


def _ordered(
    rows: list[list[_Stop]], above: Mapping[_Stop, list[_Stop]], below: Mapping[_Stop, list[_Stop]]
) -> list[list[_Stop]]:
    """Rows in the order with the fewest crossings that sweeping down and up by barycentres comes to."""
    best, fewest = rows, _crossings(rows, below)
    current = [list(row) for row in rows]
    for sweep in range(NUM_SWEEPS):
        if not fewest:
            break
        goes_down = sweep % 2 == 0
        for layer in range(1, len(current)) if goes_down else range(len(current) - 2, -1, -1):
            fixed = {stop: index for index, stop in enumerate(current[layer - 1 if goes_down else layer + 1])}
            near = above if goes_down else below
            now = {stop: float(index) for index, stop in enumerate(current[layer])}
            wanted = {
                stop: sum(fixed[other] for other in near[stop]) / len(near[stop]) if near.get(stop) else now[stop]
                for stop in current[layer]
            }
            current[layer].sort(key=lambda stop: (wanted[stop], now[stop]))
        found = _crossings(current, below)
        if found < fewest:
            best, fewest = [list(row) for row in current], found
    return best


def _crossings(rows: Sequence[Sequence[_Stop]], below: Mapping[_Stop, list[_Stop]]) -> int:
    """Number of pairs of edges that cross, counted as inversions (Barth, Juenger, Mutzel 2002; sorted by insertion)."""
    total = 0
    for upper, lower in pairwise(rows):
        index = {stop: number for number, stop in enumerate(lower)}
        seen: list[int] = []
        for stop in upper:
            ends = sorted(index[other] for other in below.get(stop, ()))
            total += sum(len(seen) - bisect.bisect_right(seen, end) for end in ends)
            for end in ends:
                bisect.insort(seen, end)
    return total


def _spread(
    rows: Sequence[Sequence[_Stop]], above: Mapping[_Stop, list[_Stop]], below: Mapping[_Stop, list[_Stop]]
) -> dict[_Stop, float]:
    """Across each layer: near the mean of its neighbours, apart by their widths, the order kept."""
    offsets = [_offsets(row) for row in rows]
    across = {stop: offset for row, places in zip(rows, offsets, strict=True) for stop, offset in zip(row, places, strict=True)}
    for sweep in range(NUM_SWEEPS):
        for layer in range(len(rows)) if sweep % 2 == 0 else reversed(range(len(rows))):
            wanted = []
            for stop in rows[layer]:
                others = [*above.get(stop, ()), *below.get(stop, ())]
                wanted.append(sum(across[other] for other in others) / len(others) if others else across[stop])
            across.update(zip(rows[layer], _apart(wanted, offsets[layer]), strict=True))
    left = min(across.values(), default=0.0)
    return {stop: value - left for stop, value in across.items()}


def _offsets(row: Sequence[_Stop]) -> list[float]:
    """Places of a row's stops side by side, the first at 0."""
    widths = [1.0 if isinstance(stop, str) else EDGE_WIDTH for stop in row]
    offsets = [0.0]
    for left, right in pairwise(widths):
        offsets.append(offsets[-1] + (left + right) / 2)
    return offsets[: len(row)]


def _apart(wanted: Sequence[float], offsets: Sequence[float]) -> list[float]:
    """The places nearest to `wanted` in squares that are as far apart as `offsets` at least (pool adjacent violators).

    Example:
        >>> _apart([0.0, 0.0, 5.0], [0.0, 1.0, 2.0])
        [-0.5, 0.5, 5.0]
    """
    blocks: list[tuple[float, int]] = []  # mean of wanted - offset, and how many
    for value, offset in zip(wanted, offsets, strict=True):
        mean, number = value - offset, 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean, number = (mean * number + before * count) / (number + count), number + count
        blocks.append((mean, number))
    means = [mean for mean, number in blocks for _ in range(number)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]
