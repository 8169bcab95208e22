"""Population based training (Jaderberg et al., arXiv 1711.09846) in generations: trial n is member n % P of generation n // P.

Generation 0 is drawn at random. In each later one a member goes on from its own artifact of the generation before with its
settings unchanged, except that the worst `quantile` go on from one of the best instead, with settings explored from its own.

Exploring follows the rule that Ray Tune documents for `PopulationBasedTraining` (its `_explore` draws from the process-wide
random generator, so a killed search could not be continued with it): each parameter is drawn anew with
`resample_probability`; else a number is multiplied by one of the `perturbation` factors, an ordered choice shifts to a
neighbour. Beyond Tune, the result stays within the bounds and on the step.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.sweeps.scores import Scores
from orchestrator.sweeps.searcher import RUNNING, Suggestion, generator, random_value, random_values
from orchestrator.sweeps.space import Space, values_text
from orchestrator.workflow.sweep_result import TrialRecord
from orchestrator.workflow.sweep_spec import Distribution, Sweep


class PopulationSearcher:
    """Suggests generation after generation. A member without a result (failed, stopped) is replaced like the worst."""

    def __init__(self, sweep: Sweep, *, seed: int, baselines: Mapping[str, Any]) -> None:
        self.space = Space(sweep.space)
        self.settings = sweep.sampler
        self.seed = seed
        self.scores = Scores(sweep, baselines)
        self._told: dict[int, TrialRecord] = {}

    def is_ready(self, number: int) -> bool:
        """Whether all of the generation before have ended."""
        first = self._first(number) - self.settings.population
        return first < 0 or all(other in self._told for other in range(first, first + self.settings.population))

    def suggest(self, number: int) -> Suggestion | None:
        assert self.is_ready(number), "the generation before is not complete"
        source = generator(self.seed, number)
        before = self._first(number) - self.settings.population
        if before < 0:
            return Suggestion(values=random_values(self.space, source))
        ranking = self._ranking(before)
        able = [member for member in ranking if self._worth(self._told[member]) is not None]
        if not able:
            return None
        own = number - self.settings.population
        replaced = self._num_replaced()
        if own in able and own not in ranking[len(ranking) - replaced :]:
            return Suggestion(values=self._told[own].values, parent=own)
        best = able[: max(1, replaced)]
        parent = best[int(source.random() * len(best))]
        return Suggestion(values=self.explore(self._told[parent].values, source), parent=parent)

    def tell(self, record: TrialRecord) -> None:
        if record.state != RUNNING:
            self._told[record.number] = record

    def warm_start(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """A record counts where this search would propose the same settings and parent under the same number."""
        taken = []
        for record in sorted(records, key=lambda record: record.number):
            if record.number in self._told or not self.is_ready(record.number):
                continue
            found = self.suggest(record.number)
            if found is not None and (values_text(found.values), found.parent) == (values_text(record.values), record.parent):
                self.tell(record)
                taken.append(record)
        return taken

    def explore(self, values: Mapping[str, Any], source: random.Random) -> dict[str, Any]:
        """Settings near those given. What becomes active only by a change is drawn at random."""

        def changed(name: str, distribution: Distribution) -> Any:
            if name not in values or source.random() < self.settings.resample_probability:
                return random_value(self.space, name, distribution, source)
            is_up = source.random() < 0.5
            options = self.space.options[name]
            if distribution.choice is not None and options is not None:
                here = [values_text(option) for option in options].index(values_text(values[name]))
                return options[min(max(here + (1 if is_up else -1), 0), len(options) - 1)]
            return values[name] * self.settings.perturbation[is_up]

        return self.space.fill(changed)

    def _first(self, number: int) -> int:
        return number - number % self.settings.population

    def _num_replaced(self) -> int:
        size = self.settings.population
        return min(math.ceil(size * self.settings.quantile), size // 2)

    def _ranking(self, first: int) -> list[int]:
        """The members of a generation, best first: those that meet the constraints, then by how far they are off."""
        members = range(first, first + self.settings.population)
        return sorted(members, key=lambda member: (self._worth(self._told[member]) or (math.inf, 0.0), member))

    def _worth(self, record: TrialRecord) -> tuple[float, float] | None:
        values = self.scores.objectives(record.metrics) if record.state == "done" else None
        if values is None:
            return None
        is_maximized = next(iter(self.scores.directions.values())) == "maximize"
        return sum(self.scores.violations(record).values()), -values[0] if is_maximized else values[0]
