"""Trade-offs between objectives: the non-dominated ones, the area that they cover and their knee. Knows points, no trials.

A point is a sequence of numbers, one per objective; `directions` says for each whether more or less is better. A point with a
missing, NaN or infinite number is in no front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from orchestrator.sweeps.constraints import number

Point = Sequence[Any]


def ranks(points: Sequence[Point], *, directions: Sequence[str]) -> list[int | None]:
    """Rank of each point: 0 is dominated by none, 1 only by those of rank 0, and so on; None: not all of it is known.

    A point dominates another if it is nowhere worse and somewhere better; equal points share a rank. Peels front after front
    off the points in the order of their first objective, where whatever comes first is dominated by nothing that is left:
    n comparisons of one point with all others in numpy, a second for 10,000 points.
    """
    import numpy as np

    costs = [_cost(point, directions) for point in points]
    result: list[int | None] = [None] * len(points)
    known = sorted((index for index, cost in enumerate(costs) if cost is not None), key=lambda index: costs[index] or ())
    table = np.array([costs[index] for index in known], dtype=float).reshape(len(known), len(directions))
    left = np.arange(len(known))
    rank = 0
    while left.size:
        candidates, dominated = left, []
        while candidates.size:
            first, others = candidates[0], candidates[1:]
            result[known[first]] = rank
            beaten = (table[first] <= table[others]).all(axis=1) & (table[first] < table[others]).any(axis=1)
            dominated.append(others[beaten])
            candidates = others[~beaten]
        left = np.sort(np.concatenate(dominated))
        rank += 1
    return result


def front(points: Sequence[Point], *, directions: Sequence[str]) -> list[int]:
    """Indices of the non-dominated points, best first objective first; equal points are all in it."""
    found = [index for index, rank in enumerate(ranks(points, directions=directions)) if rank == 0]
    return sorted(found, key=lambda index: (_cost(points[index], directions) or (), index))


def knee(points: Sequence[Point], *, directions: Sequence[str]) -> int | None:
    """Index of the point of the front that is nearest to the ideal, each objective scaled to the front's own range.

    The ideal has the best of every objective. Of equally near points the one with the better first objective is taken.
    """
    members = front(points, directions=directions)
    if not members:
        return None
    return min(members, key=lambda index: distance_to_ideal(points[index], [points[m] for m in members], directions=directions))


def distance_to_ideal(point: Point, members: Sequence[Point], *, directions: Sequence[str]) -> float:
    """Euclidean distance of a point to the best of every objective among `members`, each scaled to their range."""
    costs = [cost for cost in (_cost(member, directions) for member in members) if cost is not None]
    cost = _cost(point, directions)
    if cost is None or not costs:
        return math.inf
    lows, highs = [min(column) for column in zip(*costs, strict=True)], [max(column) for column in zip(*costs, strict=True)]
    scaled = ((value - low) / (high - low) if high > low else 0.0 for value, low, high in zip(cost, lows, highs, strict=True))
    return round(math.hypot(*scaled), 12)


def hypervolume(points: Sequence[Point], *, reference: Point, directions: Sequence[str]) -> float:
    """Area that the front of two objectives dominates, up to the `reference` point; what lies beyond it adds nothing.

    Example:
        >>> hypervolume([(1, 3), (2, 2)], reference=(0, 0), directions=("maximize", "maximize"))
        5.0
    """
    assert len(directions) == 2, "the area is defined for two objectives"
    corner = _cost(reference, directions)
    assert corner is not None
    area, reached = 0.0, corner[1]
    for index in front(points, directions=directions):
        cost = _cost(points[index], directions)
        if cost is not None and cost[0] < corner[0] and cost[1] < reached:
            area += (corner[0] - cost[0]) * (reached - cost[1])
            reached = cost[1]
    return area


def _cost(point: Point, directions: Sequence[str]) -> tuple[float, ...] | None:
    """The point with every objective turned so that less is better."""
    values = [number(value) for value in point]
    if any(value is None for value in values):
        return None
    return tuple(
        (-value if direction == "maximize" else value) + 0.0  # no -0.0
        for value, direction in zip(values, directions, strict=True)
        if value is not None
    )
