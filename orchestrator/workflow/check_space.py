"""The space of a sweep: its distributions as such, and every value that they can take against the stages' settings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from orchestrator.workflow.check_params import (
    Choice,
    Listed,
    ValuesCheck,
    given_at,
    hint_for,
    is_misfit,
    is_parameter,
    parameters_beside,
    repeats,
)
from orchestrator.workflow.places import KeyPath, entry, list_names, shorten
from orchestrator.workflow.scope import Scope
from orchestrator.workflow.search_space import condition_order, edge_values, finite_values, is_same, num_values, points
from orchestrator.workflow.sweep_spec import Distribution
from orchestrator.workflow.validate import Defect, legal_names
from stages.contract import StageSpec

MAX_CHECKED_TOGETHER = 256
"""Points of a node's part of the space that are all tried; of a larger or continuous one each value, beside some others."""

_KINDS = ("choice", "uniform", "loguniform", "int")


def check_space(name: str, space: Mapping[str, Distribution], scope: Scope) -> None:
    """Check the space of sweep `name`, whose nodes are those of `scope`, together with the parameters of these nodes."""
    _SpaceCheck(name, space, scope).check()


class _SpaceCheck:
    def __init__(self, name: str, space: Mapping[str, Distribution], scope: Scope) -> None:
        self.said = f'node "{shorten(name)}"'
        self.place: KeyPath = ("nodes", name, "sweep", "space")
        self.space = space
        self.scope = scope
        self.findings = scope.findings
        self.usable: dict[str, Distribution] = {}

    def check(self) -> None:
        for key, distribution in self.space.items():
            is_sound = self._distribution(key, distribution)
            is_named = self._name(key)
            if is_sound and is_named:
                self.usable[key] = distribution
        for key in [key for key in self.usable if not self._conditions(key)]:
            del self.usable[key]
        for key in condition_order(self.usable)[1]:
            self._add(
                (key, "when"),
                f'"{key}" is searched under a condition that waits for itself',
                found=" -> ".join([key, *self.usable[key].when]),
                expected="conditions that lead to a choice that is always searched",
                suggestion="remove one of the conditions",
            )
            del self.usable[key]
        for part, spec in self.scope.specs.items():
            self._values(part, spec)

    def _add(self, path: KeyPath, what: str, **details: str) -> None:
        self.findings.add((*self.place, *path), f"{self.said}: {what}", **details)

    def _name(self, key: str) -> bool:
        """Does the key name a parameter of a node of the sweep that is given nowhere else? Else it is reported."""
        part, _, parameter = key.partition(".")
        found = entry(key, _shown(self.space[key]))
        if not parameter or part not in self.scope.nodes:
            if parameter and (*self.scope.place, part) in self.scope.unread:
                return False
            legal = [f"{part}.{name}" for part, spec in self.scope.specs.items() for name in legal_names(spec.settings, ())]
            is_outside = self.scope.around is not None and part in self.scope.around.nodes
            self._add(
                (key,),
                f'"{shorten(key)}" does not name a parameter of one of its nodes',
                found=found,
                expected=f'"node.parameter" with one of the nodes {list_names(self.scope.nodes)}',
                suggestion=f'move node "{part}" into the sweep to search over it'
                if is_outside
                else self.findings.did_you_mean(key, legal),
            )
            return False
        spec = self.scope.specs.get(part)
        if spec is None:
            return False
        if not is_parameter(parameter, spec):
            near = self.findings.did_you_mean(key, [f"{part}.{name}" for name in parameters_beside(parameter, spec)])
            self._add(
                (key,),
                f'"{shorten(key)}" is no parameter of stage {spec.name}',
                found=found,
                expected=f"stage {spec.name} takes {list_names(legal_names(spec.settings, ()))}",
                suggestion=hint_for(parameter, spec) or near or "remove it",
                next_step=f"orchestrator stages show {spec.name}",
            )
            return False
        given = given_at(parameter, self.scope.nodes[part].params)
        if given is not None and not (self.space[key].when and given[0] == parameter):
            self._add(
                (key,),
                f'parameter "{parameter}" of node "{part}" is searched and given too',
                found=f'space and params ("{given[0]}: {shorten(given[1])}")',
                expected="one of the two",
                suggestion=f'remove {given[0]} from the params of "{part}", or the line from the space',
            )
            return False
        other = next((one for one in self.space if one != key and key.startswith(f"{one}.")), "")
        if other:
            self._add(
                (key,),
                f'"{key}" lies inside "{other}", which is searched too',
                found=found,
                expected="one of the two",
                suggestion="remove one of the two lines",
            )
        return not other

    def _distribution(self, key: str, distribution: Distribution) -> bool:
        """Is the distribution one that values can be drawn from? Else it is reported."""
        kinds = [kind for kind in _KINDS if getattr(distribution, kind) is not None]
        if len(kinds) != 1:
            self._add(
                (key,),
                f'"{shorten(key)}" has {"no distribution" if not kinds else "more than one distribution"}',
                found=entry(key, _shown(distribution)),
                expected=f"exactly one of {list_names(_KINDS)}",
                suggestion=f"keep {kinds[0]} and remove {list_names(kinds[1:])}"
                if kinds
                else f"write {key}: {{choice: [...]}}",
            )
            return False
        problem = self._range_problem(kinds[0], distribution) if kinds[0] != "choice" else None
        if problem is not None:
            what, expected, suggestion = problem
            self._add(
                (key,),
                f'"{shorten(key)}" {what}',
                found=entry(key, _shown(distribution)),
                expected=expected,
                suggestion=suggestion,
            )
            return False
        return kinds[0] != "choice" or self._choice(key, distribution)

    def _choice(self, key: str, distribution: Distribution) -> bool:
        values = distribution.choice or ()
        if not values:
            self._add(
                (key, "choice"),
                f'"{shorten(key)}" is a choice among nothing',
                found='"choice: []"',
                expected="at least one value",
                suggestion="list values, or remove the line",
            )
        if distribution.step is not None:
            self._add(
                (key, "step"),
                f'"{shorten(key)}" is a choice, which has no step',
                found=f'"step: {distribution.step:g}"',
                expected="step beside uniform or int",
                suggestion="remove step",
            )
        for first, index in repeats(values):
            self._add(
                (key, "choice", index),
                f'"{shorten(key)}" lists {shorten(values[index])} twice',
                found=f"{shorten(values[index])} as value {first + 1} and as value {index + 1}",
                expected="each value once",
                suggestion="remove one of the two",
            )
        return bool(values)

    def _range_problem(self, kind: str, distribution: Distribution) -> tuple[str, str, str] | None:
        """(what, expected, suggestion) of what is wrong with a range, or None."""
        low, high = getattr(distribution, kind)
        step = distribution.step
        if low >= high:
            what = "has its bounds in reverse" if low > high else "is a range without width"
            return (
                what,
                "a lower and then a higher bound",
                f"write {kind}: [{high:g}, {low:g}]" if low > high else "give it under params",
            )
        if kind == "loguniform" and low <= 0:
            return (
                "cannot have a logarithm at its lower bound",
                "bounds above 0",
                f"write loguniform: [{high / 1000:g}, {high:g}]",
            )
        if kind == "loguniform" and step is not None:
            return (
                "has a step on a logarithmic scale",
                "step beside uniform or int",
                "remove step, or list the values as a choice",
            )
        if step is not None and step > high - low:
            return "has a step larger than its range", f"a step of at most {high - low:g}", f"write step: {(high - low) / 4:g}"
        if kind == "int" and step is not None and step != int(step):
            return "counts in whole numbers, and its step is none", "a whole step", f"write step: {max(1, round(step))}"
        return None

    def _conditions(self, key: str) -> bool:
        """Do the conditions name choices of this space, and values that these have? Else it is reported."""
        is_sound = True
        for other, accepted in self.space[key].when.items():
            path: KeyPath = (key, "when", other)
            choice = self.space[other].choice if other in self.space else None
            if choice is None:
                is_sound = False
                choices = [name for name, one in self.space.items() if one.choice is not None and name != key]
                self._add(
                    path,
                    f'"{shorten(key)}" depends on "{shorten(other)}", which is no choice of this space',
                    found=entry(other, list(accepted)),
                    expected=f"one of the choices {list_names(choices)}",
                    suggestion=self.findings.did_you_mean(other, choices),
                )
                continue
            for index, value in enumerate(accepted):
                if not any(is_same(value, one) for one in choice):
                    self._add(
                        (*path, index),
                        f'"{shorten(key)}" depends on a value that "{other}" does not have',
                        found=entry(other, list(accepted)),
                        expected=f"values of {list_names(map(shorten, choice))}",
                        suggestion=self.findings.did_you_mean(str(value), map(str, choice)),
                    )
            if not accepted:
                is_sound = False
                self._add(
                    path,
                    f'"{shorten(key)}" is searched for no value of "{other}"',
                    found=f'"{shorten(other)}: []"',
                    expected=f"values of {list_names(map(shorten, choice))}",
                    suggestion="list a value, or remove the condition",
                )
        return is_sound

    def _values(self, part: str, spec: StageSpec) -> None:
        """Try the parameters of one node with the values that it can get in a trial."""
        own = [key for key in self.usable if key.partition(".")[0] == part]
        space = {key: self.usable[key] for key in self.usable if key in _with_conditions(own, self.usable)}
        counts = [num_values(distribution) for distribution in space.values()]
        is_finite = math.prod(count or MAX_CHECKED_TOGETHER + 1 for count in counts) <= MAX_CHECKED_TOGETHER
        candidates: dict[str, Sequence[Any]] = {
            key: (finite_values(distribution) if is_finite else None) or edge_values(distribution)
            for key, distribution in space.items()
        }
        node_place: KeyPath = (*self.scope.place, part)
        asked = {key for key in self.space if key.partition(".")[0] == part}
        check = ValuesCheck(
            self.scope.said(part),
            self.scope.nodes[part].params,
            spec,
            {key.partition(".")[2]: self._listed(key, candidates[key]) for key in own},
            place=node_place,
            findings=self.findings,
            # What is not usable, or was left out on loading, may be what would be called missing.
            is_whole=asked == set(own) and not any(map(self.findings.known_below, (node_place, self.place))),
            together=self.place if own else (),
        )
        if is_finite:
            for choice in _distinct(points(space, candidates), own):
                check.check(choice)
            return
        some = list(_distinct(islice(points(space, candidates), MAX_CHECKED_TOGETHER), own))
        seen = {item for choice in some for item in choice.items()}
        for key in own:
            for index in range(len(candidates[key])):
                if (key.partition(".")[2], index) not in seen:
                    some += _distinct(iter([_point_with(key, index, space, candidates)]), own)
        self._each_value(check, some)

    def _each_value(self, check: ValuesCheck, choices: Sequence[Choice]) -> None:
        """Report values that are wrong by themselves; those that only do not fit others count where they fit none of these.

        In a range that another one bounds, some corners are wrong; such trials are refused when they come up.
        """
        fits: set[tuple[str, int]] = set()
        misfits: list[tuple[Defect, Choice]] = []
        for choice in choices:
            defects = check.defects(choice)
            for defect in defects:
                if is_misfit(defect):
                    misfits.append((defect, choice))
                else:
                    check.report(defect, choice)
            if not any(map(is_misfit, defects)):
                fits.update(choice.items())
        told: set[tuple[str, int]] = set()
        for defect, choice in misfits:
            culprits = choice.items() - fits
            if not choice or culprits - told:
                check.report(defect, choice)
                told |= culprits

    def _listed(self, key: str, values: Sequence[Any]) -> Listed:
        """The candidates of a parameter, each at its place: an item of the choice, a bound of the range."""
        distribution = self.usable[key]
        kind = next(kind for kind in _KINDS if getattr(distribution, kind) is not None)
        place: KeyPath = (*self.place, key, kind)
        if kind == "choice":
            return Listed(values, [(*place, index) for index in range(len(values))])
        return Listed(values, [(*place, 0), *([place] * (len(values) - 2)), (*place, 1)])


def _with_conditions(keys: Sequence[str], space: Mapping[str, Distribution]) -> set[str]:
    """The keys and all that their conditions ask, however far."""
    found, waiting = set(keys), list(keys)
    while waiting:
        for other in space[waiting.pop()].when:
            if other not in found and other in space:
                found.add(other)
                waiting.append(other)
    return found


def _point_with(
    key: str, index: int, space: Mapping[str, Distribution], candidates: Mapping[str, Sequence[Any]]
) -> dict[str, int]:
    """A point in which `key` has that candidate: what its conditions ask is chosen so, all else takes its first."""
    fixed = {key: index}
    waiting = [key]
    while waiting:
        for other, accepted in space[waiting.pop()].when.items():
            if other not in fixed and other in space:
                fixed[other] = next((i for i, value in enumerate(candidates[other]) if is_same(value, accepted[0])), 0)
                waiting.append(other)
    chosen = {name: [values[fixed.get(name, 0)]] for name, values in candidates.items()}
    return {name: fixed.get(name, 0) for name in next(points(space, chosen))}


def _distinct(found: Iterator[dict[str, int]], own: Sequence[str]) -> Iterator[dict[str, int]]:
    """The points as one node sees them: its own parameters, by their names in the stage, each choice once."""
    seen: set[tuple[tuple[str, int], ...]] = set()
    for point in found:
        choice = {key.partition(".")[2]: point[key] for key in own if key in point}
        mark = tuple(choice.items())
        if mark not in seen:
            seen.add(mark)
            yield choice


def _shown(distribution: Distribution) -> dict[str, Any]:
    return distribution.model_dump(mode="json", exclude_unset=True)
