"""The space that a sweep searches: which parameters are active, which values they take, in which order a grid visits them.

Values are canonical JSON data: a step gives 0.3 and not 0.30000000000000004, and a number that is drawn has about six digits,
so that what is printed can be written into a workflow file and leads to the same key. Knows no sampler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from orchestrator.workflow.identity import canonical_value, encode
from orchestrator.workflow.search_space import condition_order, finite_values, is_active, is_same, points
from orchestrator.workflow.sweep_spec import Distribution

DIGITS = 6
"""Digits that tell drawn numbers apart: of the width of a uniform range, of the number itself where it is loguniform."""

Draw = Callable[[str, Distribution], Any]


class Space:
    """Searched parameters by "node.parameter"; a parameter under `when` is active where its conditions hold.

    They are in the order of their names, whatever the file's: the order of a mapping is no part of a sweep's key, so it must
    not decide what is tried.

    Example:
        >>> x, y = Distribution(choice=("low", "high")), Distribution(int=(1, 2), when={"a.x": ("high",)})
        >>> space = Space({"a.x": x, "a.y": y})
        >>> list(space.grid())
        [{'a.x': 'low'}, {'a.x': 'high', 'a.y': 1}, {'a.x': 'high', 'a.y': 2}]
        >>> space.size
        3
    """

    def __init__(self, distributions: Mapping[str, Distribution]) -> None:
        self.distributions = dict(sorted(distributions.items()))
        self.order, waiting = condition_order(self.distributions)
        if waiting:
            raise ValueError(f"the conditions of {', '.join(waiting)} wait for each other")
        self.options = {name: _options(distribution) for name, distribution in self.distributions.items()}

    def is_active(self, name: str, values: Mapping[str, Any]) -> bool:
        """Whether the conditions of a parameter hold among the values chosen so far."""
        return is_active(name, self.distributions, values)

    def fill(self, draw: Draw) -> dict[str, Any]:
        """Values of all active parameters by `draw(name, distribution)`, asked in the order of conditions."""
        values: dict[str, Any] = {}
        for name in self.order:
            if self.is_active(name, values):
                values[name] = self.canonical(name, draw(name, self.distributions[name]))
        return {name: values[name] for name in self.distributions if name in values}

    def canonical(self, name: str, value: Any) -> Any:
        """The value of the space that is meant by a drawn one: inside the bounds, on the step, with few digits."""
        distribution = self.distributions[name]
        if distribution.choice is not None:
            return canonical_value(value)
        options = self.options[name]
        if options is not None:
            low = _low(distribution)
            return canonical_value(options[min(max(round((value - low) / _step(distribution)), 0), len(options) - 1)])
        low, high = distribution.uniform or distribution.loguniform or (0.0, 0.0)
        if distribution.uniform is not None:
            rounded = round(value, DIGITS - math.floor(math.log10(high - low))) if high > low else low
        else:
            rounded = float(f"{value:.{DIGITS}g}")
        return canonical_value(float(min(max(rounded, low), high)))

    def contains(self, values: Mapping[str, Any]) -> bool:
        """Whether exactly the active parameters are given, each with a value that its distribution can take."""
        wanted = [name for name in self.order if self.is_active(name, values)]
        return set(wanted) == set(values) and all(self._takes(name, values[name]) for name in wanted)

    def grid(self) -> Iterator[dict[str, Any]]:
        """All points in the order of nested loops over the parameters, the last one fastest; each parameter must be finite."""
        options = {name: found for name, found in self.options.items() if found is not None}
        for point in points(self.distributions, options):
            yield {name: canonical_value(options[name][point[name]]) for name in self.distributions if name in point}

    @cached_property
    def size(self) -> int | None:
        """Number of different points; None where a parameter is continuous."""
        if any(options is None for options in self.options.values()):
            return None
        asked = {other for distribution in self.distributions.values() for other in distribution.when}
        return self._count([name for name in self.order if name in asked], asked, {})

    def _count(self, branching: list[str], asked: set[str], values: dict[str, Any]) -> int:
        """Branches only where a condition looks; all else multiplies."""
        if not branching:
            rest = (name for name in self.order if name not in asked and self.is_active(name, values))
            return math.prod(len(self.options[name] or ()) for name in rest)
        name, *others = branching
        if not self.is_active(name, values):
            return self._count(others, asked, values)
        return sum(self._count(others, asked, {**values, name: option}) for option in self.options[name] or ())

    def _takes(self, name: str, value: Any) -> bool:
        options, distribution = self.options[name], self.distributions[name]
        if distribution.choice is None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            return False
        if isinstance(options, range):
            return value in options
        if options is not None:
            return any(is_same(value, option) for option in options)
        low, high = distribution.uniform or distribution.loguniform or (math.inf, -math.inf)
        return bool(low <= value <= high)


def values_text(values: Any) -> str:
    """One text for equal values, whatever their order: 1 is 1.0, but never true."""
    return encode(_whole(canonical_value(values))).decode()


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _options(distribution: Distribution) -> Sequence[Any] | None:
    """All values, in order; None where they are continuous. Whole numbers are a range: there may be millions."""
    if distribution.int is not None:
        return range(distribution.int[0], distribution.int[1] + 1, max(1, int(distribution.step or 1)))
    return finite_values(distribution)


def _low(distribution: Distribution) -> float:
    bounds = distribution.int or distribution.uniform
    assert bounds is not None
    return bounds[0]


def _step(distribution: Distribution) -> float:
    return distribution.step or 1.0
