"""The order in which nodes can run, and the cycles that forbid one. Knows names alone."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping


def order_of(targets: Mapping[str, Collection[str]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Names so that each comes after its targets, the given order kept where it can be; and the cycles, each once.

    What is on a cycle, or below one, is missing from the order. A cycle starts with its first name in the given order, and
    each name in it refers to the next.

    Example:
        >>> order_of({"b": ["a"], "a": []})
        (('a', 'b'), [])
        >>> order_of({"a": ["b"], "b": ["a"], "c": ["b"]})
        ((), [('a', 'b')])
    """
    names = list(targets)
    position = {name: index for index, name in enumerate(names)}
    waiting = {name: len(targets[name]) for name in names}
    below: dict[str, list[str]] = {name: [] for name in names}
    for name in names:
        for target in targets[name]:
            below[target].append(name)
    ready = [position[name] for name in names if not waiting[name]]
    order = []
    while ready:
        name = names[heapq.heappop(ready)]
        order.append(name)
        for follower in below[name]:
            waiting[follower] -= 1
            if not waiting[follower]:
                heapq.heappush(ready, position[follower])
    cycles = []
    for cycle in _cycles({name: targets[name] for name in names if waiting[name]}):
        first = min(range(len(cycle)), key=lambda index: position[cycle[index]])
        cycles.append((*cycle[first:], *cycle[:first]))
    return tuple(order), cycles


def _cycles(targets: Mapping[str, Collection[str]]) -> Iterator[list[str]]:
    """A cycle for each group of names that wait for each other; every name given has a target among those given."""
    seen: set[str] = set()
    for start in targets:
        trail: dict[str, int] = {}
        name = start
        while name not in seen:
            seen.add(name)
            trail[name] = len(trail)
            name = next(target for target in targets[name] if target in targets)
        if name in trail:
            yield list(trail)[trail[name] :]
