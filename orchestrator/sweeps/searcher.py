"""What is tried next, for every sampler: the protocol, and the two that need no library, grid and random.

The n-th suggestion depends on the seed, on n and on what was told and is still open, never on the process: a search that was
killed is told its records and goes on as if nothing had happened.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from blake3 import blake3

from orchestrator.engine.cluster import choose_own_token
from orchestrator.sweeps.space import Space, values_text
from orchestrator.workflow.identity import encode
from orchestrator.workflow.sweep_result import TrialRecord
from orchestrator.workflow.sweep_spec import Distribution, Sweep

RUNNING = "running"
"""State of a record that was written when its trial began: after a kill the very same trial goes on."""

_DRAWS = 100
"""Random draws of values that are all known before a search takes the space to be exhausted."""


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """Settings to try. `parent`: the trial whose artifacts this one goes on from (population based training)."""

    values: Mapping[str, Any]
    parent: int | None = None


class Searcher(Protocol):
    """Proposes trials and learns from them. `number` is the trial's own, from 0."""

    def is_ready(self, number: int) -> bool:
        """Whether trial `number` can be suggested before another running trial has been told."""

    def suggest(self, number: int) -> Suggestion | None:
        """Settings of trial `number`, never those of a known trial; None where there is nothing more to try."""

    def tell(self, record: TrialRecord) -> None:
        """How a trial ended: done, stopped, failed or infeasible; `running` for one that was begun by a killed run."""

    def warm_start(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Tell what is known from earlier; returns the records that count here, under the numbers that they now have."""


def make_searcher(sweep: Sweep, *, seed: int, baselines: Mapping[str, Any] | None = None) -> Searcher:
    """The searcher that a sweep asks for. `baselines`: "node.metric" of the nodes outside that constraints refer to."""
    space = Space(sweep.space)
    match sweep.sampler.kind:
        case "grid":
            return GridSearcher(space)
        case "random":
            return RandomSearcher(space, seed=seed)
        case "pbt":
            from orchestrator.sweeps.pbt import PopulationSearcher

            return PopulationSearcher(sweep, seed=seed, baselines=baselines or {})
        case "tpe" | "nsga2":
            choose_own_token()
            from orchestrator.sweeps.tune import OptunaSearcher

            return OptunaSearcher(sweep, seed=seed, baselines=baselines or {})


class KnownValues:
    """What a search over a space has told and open, and the part of every searcher that follows from it."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.told: dict[int, TrialRecord] = {}
        self.open: dict[int, Mapping[str, Any]] = {}
        self._texts: set[str] = set()

    def is_ready(self, number: int) -> bool:  # noqa: ARG002 - of the protocol
        return True

    def tell(self, record: TrialRecord) -> None:
        self._texts.add(values_text(record.values))
        if record.state == RUNNING:
            self.open[record.number] = record.values
        else:
            self.open.pop(record.number, None)
            self.told[record.number] = record

    def warm_start(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        taken = renumbered([record for record in records if self.space.contains(record.values)])
        for record in taken:
            self.tell(record)
        return taken

    def is_known(self, values: Mapping[str, Any]) -> bool:
        return values_text(values) in self._texts

    def is_exhausted(self) -> bool:
        size = self.space.size
        return size is not None and len(self._texts) >= size

    def begin(self, number: int, values: Mapping[str, Any]) -> Suggestion:
        self.open[number] = values
        self._texts.add(values_text(values))
        return Suggestion(values=values)


class GridSearcher(KnownValues):
    """Every point of the grid in its order, without those that are known."""

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        self._points: Iterator[dict[str, Any]] = space.grid()

    def suggest(self, number: int) -> Suggestion | None:
        values = next((values for values in self._points if not self.is_known(values)), None)
        return None if values is None else self.begin(number, values)


class RandomSearcher(KnownValues):
    """Trial n is drawn from a generator seeded by the sweep's seed and n; where it is known, drawn again."""

    def __init__(self, space: Space, *, seed: int) -> None:
        super().__init__(space)
        self.seed = seed

    def suggest(self, number: int) -> Suggestion | None:
        values = draw_unknown(self, seed=self.seed, number=number)
        return None if values is None else self.begin(number, values)


def draw_unknown(known: KnownValues, *, seed: int, number: int) -> dict[str, Any] | None:
    """Values at random that no trial has; None where the space is exhausted, as far as can be seen."""
    if known.is_exhausted():
        return None
    for attempt in range(_DRAWS):
        values = random_values(known.space, generator(seed, number, attempt))
        if not known.is_known(values):
            return values
    if known.space.size is None:
        return None
    return next((values for values in known.space.grid() if not known.is_known(values)), None)


def random_values(space: Space, source: random.Random) -> dict[str, Any]:
    """One point at random: each active parameter by its own distribution."""
    return space.fill(lambda name, distribution: random_value(space, name, distribution, source))


def random_value(space: Space, name: str, distribution: Distribution, source: random.Random) -> Any:
    """A value of one parameter at random."""
    options = space.options[name]
    if options is not None:
        return options[int(source.random() * len(options))]
    if distribution.loguniform is not None:
        low, high = distribution.loguniform
        return low * (high / low) ** source.random()
    assert distribution.uniform is not None
    low, high = distribution.uniform
    return low + (high - low) * source.random()


def seed_of(*parts: int | str) -> int:
    """A seed of 32 bits that depends on all the parts and nothing else."""
    return int.from_bytes(blake3(encode(list(parts))).digest(length=4), "big")


def generator(*parts: int | str) -> random.Random:
    """A source of random numbers seeded by all the parts."""
    return random.Random(seed_of(*parts))  # noqa: S311 - a search, not a secret


def renumbered(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The records by number, each number once: of two with the same, the later in the list takes the lowest free one."""
    taken = {record.number for record in records}
    used: set[int] = set()
    result = []
    for record in sorted(records, key=lambda record: record.number):
        number = record.number
        if number in used:
            number = next(free for free in range(len(taken) + 1) if free not in taken)
            taken.add(number)
        used.add(number)
        result.append(record if number == record.number else replace(record, number=number))
    return sorted(result, key=lambda record: record.number)
