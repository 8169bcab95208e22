"""A search space as a set of points: which values a distribution has, when a parameter is active, all points in order.

Pure: what is drawn, and from what, is the samplers' business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from orchestrator.workflow.identity import NotEncodable, canonical_value
from orchestrator.workflow.sweep_spec import Distribution

Space = Mapping[str, Distribution]


def finite_values(distribution: Distribution) -> tuple[Any, ...] | None:
    """All values in order; None where they are continuous.

    Example:
        >>> finite_values(Distribution(uniform=(0.1, 0.4), step=0.1)), finite_values(Distribution(uniform=(0.1, 0.4)))
        ((0.1, 0.2, 0.3, 0.4), None)
    """
    if distribution.choice is not None:
        return distribution.choice
    if distribution.int is not None:
        low, high = distribution.int
        return tuple(range(low, high + 1, max(1, int(distribution.step or 1))))
    if distribution.uniform is not None and distribution.step is not None:
        start, end, step = (Decimal(repr(number)) for number in (*distribution.uniform, distribution.step))
        return tuple(float(start + index * step) for index in range(int((end - start) / step) + 1))
    return None


def num_values(distribution: Distribution) -> int | None:
    """How many values a distribution has, without listing them; None where they are continuous."""
    if distribution.choice is not None:
        return len(distribution.choice)
    bounds = distribution.int or (distribution.uniform if distribution.step is not None else None)
    if bounds is None:
        return None
    return int(min((bounds[1] - bounds[0]) / (distribution.step or 1) + 1e-9, 2.0**62)) + 1  # of the widest floats, infinity


def edge_values(distribution: Distribution) -> tuple[Any, ...]:
    """The values to try where not all can be: every one of a choice, else both bounds."""
    if distribution.choice is not None:
        return distribution.choice
    return tuple(dict.fromkeys(distribution.int or distribution.uniform or distribution.loguniform or ()))


def condition_order(space: Space) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The file's order with each parameter after those its conditions ask; and those whose conditions wait for each other."""
    order: list[str] = []
    left = list(space)
    while left:
        ready = [name for name in left if all(other in order or other not in space for other in space[name].when)]
        if not ready:
            break
        order.append(ready[0])
        left.remove(ready[0])
    return tuple(order), tuple(left)


def is_active(name: str, space: Space, values: Mapping[str, Any]) -> bool:
    """Whether the conditions of a parameter hold among the values chosen so far."""
    return all(
        other in values and any(is_same(values[other], allowed) for allowed in accepted)
        for other, accepted in space[name].when.items()
    )


def active_values(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of searched parameters whose conditions hold, in the file's order."""
    found: dict[str, Any] = {}
    for name in condition_order(space)[0]:
        if name in values and is_active(name, space, found):
            found[name] = values[name]
    return {name: found[name] for name in space if name in found}


def points(space: Space, candidates: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, int]]:
    """Every point among the candidates: which of its candidates each active parameter has; the last changes fastest.

    Example:
        >>> space = {"a.x": Distribution(choice=(0, 1)), "a.y": Distribution(choice=(5, 6), when={"a.x": (1,)})}
        >>> list(points(space, {"a.x": (0, 1), "a.y": (5, 6)}))
        [{'a.x': 0}, {'a.x': 1, 'a.y': 0}, {'a.x': 1, 'a.y': 1}]
    """
    order = condition_order(space)[0]

    def below(chosen: dict[str, int], values: dict[str, Any], start: int) -> Iterator[dict[str, int]]:
        index = start
        while index < len(order) and not is_active(order[index], space, values):
            index += 1
        if index == len(order):
            yield chosen
            return
        name = order[index]
        for number, value in enumerate(candidates[name]):
            yield from below({**chosen, name: number}, {**values, name: value}, index + 1)

    return below({}, {}, 0)


def is_same(one: Any, other: Any) -> bool:
    """Equal as JSON data: the number 1 is 1.0, but never true."""
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    try:
        return bool(canonical_value(one) == canonical_value(other))
    except NotEncodable:
        return False
