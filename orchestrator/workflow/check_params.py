"""Parameters of one node, and lists of values for them, against its stage's settings class. Knows no other node."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from orchestrator.workflow.places import Findings, KeyPath, entry, is_known, list_names, shorten
from orchestrator.workflow.spec import Node
from orchestrator.workflow.validate import Defect, defects, legal_names, report, takes_names, validate_data
from stages.contract import StageSpec

MAX_COMBINATIONS = 100_000  # nodes that one foreach may make
MAX_CHECKED_TOGETHER = 1_000  # combinations validated as a whole here; beyond, each value alone, and the rest by the plan
BESIDE_PARAMS = ("seed", "timeout", "resources", "retry", "when", "needs", "foreach", "inputs")

Choice = Mapping[str, int]
"""Which value of each list is meant."""


@dataclass(frozen=True)
class Listed:
    """Values to try for one parameter, and where each stands in the file."""

    values: Sequence[Any]
    places: Sequence[KeyPath]


def check_params(said: str, node: Node, spec: StageSpec, *, place: KeyPath, findings: Findings, is_whole: bool) -> None:
    """Report what is wrong with the parameters of the node at `place`, which messages call `said`.

    Without `is_whole` (the file has a problem in this node already) nothing is called missing: it may be what was misread.
    """
    lists = _Lists(said, node, spec, place, findings)
    lists.check()
    values = ValuesCheck(said, node.params, spec, lists.usable, place=place, findings=findings, is_whole=is_whole)
    for choice in _choices({key: len(listed.values) for key, listed in lists.usable.items()}):
        values.check(choice)


class ValuesCheck:
    """The parameters of one node, with listed values put in, against the settings of its stage.

    `together` is where a misfit of several values is placed: the node's `params` where it is left out, else the first listed
    value that the message names, or that very place.
    """

    def __init__(
        self,
        said: str,
        params: Mapping[str, Any],
        spec: StageSpec,
        listed: Mapping[str, Listed],
        *,
        place: KeyPath,
        findings: Findings,
        is_whole: bool,
        together: KeyPath = (),
    ) -> None:
        self.said = said
        self.params = params
        self.spec = spec
        self.listed = listed
        self.place = (*place, "params")
        self.together = together or self.place
        self.findings = findings
        self.is_whole = is_whole
        self.earlier = frozenset(findings.reported)
        self.told: set[tuple[KeyPath, str, str]] = set()
        self.next_step = f"orchestrator stages show {spec.name}"

    def check(self, choice: Choice) -> None:
        """Report what is wrong with one choice; what was told before is not told again."""
        for defect in self.defects(choice):
            self.report(defect, choice)

    def defects(self, choice: Choice) -> list[Defect]:
        """What the settings class says about one choice."""
        data: dict[str, Any] = {**self.params}
        for key, index in choice.items():
            data = with_value(data, key.split("."), self.listed[key].values[index])
        try:
            validate_data(self.spec.settings, data)
        except ValidationError as error:
            return defects(error, data)
        return []

    def report(self, defect: Defect, choice: Choice) -> None:
        """Report one defect of a choice."""
        place = self._misfit_place(defect, choice) if is_misfit(defect) else self._place(defect.path, choice)
        mark = (place, defect.missing, defect.expected)
        if mark in self.told or is_known(place, self.earlier) or (defect.missing and not self.is_whole):
            return
        self.told.add(mark)
        if is_misfit(defect):
            chosen = {key: self.listed[key].values[index] for key, index in choice.items()}
            self.findings.add(
                place,
                f'node "{self.said}": {defect.expected}',
                found=f'"params: {shorten({**self.params, **chosen}, limit=200)}"',
                expected=f"parameters of stage {self.spec.name} that fit together",
                suggestion="change one of the parameters that the message names",
                next_step=self.next_step,
            )
            return
        parent = defect.path if defect.missing else defect.path[:-1]
        hint = hint_for(str(defect.path[-1]), self.spec) if defect.kind == "unknown" and not parent else ""
        legal = legal_names(self.spec.settings, parent)
        owner = f'"{parent[-1]}"' if parent else f"stage {self.spec.name}"
        report(defect, place=place, findings=self.findings, legal=lambda: (owner, legal), hint=hint, next_step=self.next_step)

    def _misfit_place(self, defect: Defect, choice: Choice) -> KeyPath:
        named = [key for key in choice if self.together != self.place and key.rpartition(".")[2] in defect.expected.split()]
        return self.listed[named[0]].places[choice[named[0]]] if named else self.together

    def _place(self, path: KeyPath, choice: Choice) -> KeyPath:
        for key, index in choice.items():
            parts = tuple(key.split("."))
            if path[: len(parts)] == parts:
                return (*self.listed[key].places[index], *path[len(parts) :])
        return (*self.place, *path)


def is_misfit(defect: Defect) -> bool:
    """Whether it is about several values together, and not about one of them."""
    return not defect.path and not defect.missing and defect.kind == "value"


def hint_for(key: str, spec: StageSpec) -> str:
    """What to do with a key that is no parameter, where its name tells what it is."""
    if key in spec.inputs:
        return f"{key} is an input: write inputs: {{{key}: NODE}}"
    if key in BESIDE_PARAMS:
        return f"{key} stands beside params, not in it: move it out"
    return ""


def is_parameter(key: str, spec: StageSpec) -> bool:
    """Whether a dotted name is a parameter of the stage, or one inside a parameter that takes any names."""
    *parents, last = key.split(".")
    legal = legal_names(spec.settings, tuple(parents))
    return last in legal or bool(parents and not legal and takes_names(spec.settings, tuple(parents)))


def parameters_beside(key: str, spec: StageSpec) -> list[str]:
    """Parameters that may be meant by a dotted name that is none: those at the same depth."""
    parents = key.split(".")[:-1]
    return [".".join([*parents, name]) for name in legal_names(spec.settings, tuple(parents))]


def given_at(key: str, params: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The parameter under `params` that is the dotted `key` or holds it as a single value, with its value; None if free."""
    parts = key.split(".")
    given: Any = params
    for length, part in enumerate(parts, 1):
        if not isinstance(given, dict):
            return ".".join(parts[: length - 1]), given
        if part not in given:
            return None
        given = given[part]
    return key, given


class _Lists:
    """The lists of `foreach` as lists; those that can be tried as parameters go to `usable`."""

    def __init__(self, said: str, node: Node, spec: StageSpec, place: KeyPath, findings: Findings) -> None:
        self.said = said
        self.node = node
        self.spec = spec
        self.place = (*place, "foreach")
        self.findings = findings
        self.usable: dict[str, Listed] = {}

    def check(self) -> None:
        for key, values in self.node.foreach.items():
            place = (*self.place, key)
            if isinstance(values, str):
                self._text(key, values)
                continue
            if not values:
                self.findings.add(
                    place,
                    f'node "{self.said}": foreach "{shorten(key)}" lists nothing, so the node would vanish',
                    found=f'"{shorten(key)}: []"',
                    expected="at least one value",
                    suggestion="list a value, or remove the line",
                )
            self._duplicates(key, values)
            if key not in self.spec.inputs and self._is_parameter(key) and not self._conflict(key) and values:
                self.usable[key] = Listed(values, [(*place, index) for index in range(len(values))])
        count = math.prod(max(1, len(values)) for values in self.node.foreach.values() if not isinstance(values, str))
        if count > MAX_COMBINATIONS:
            self.findings.add(
                self.place,
                f'node "{self.said}": foreach makes too many nodes',
                found=f"{count} combinations",
                expected=f"at most {MAX_COMBINATIONS}",
                suggestion="list fewer values",
            )
            self.usable = {key: Listed(listed.values[:1], listed.places) for key, listed in self.usable.items()}

    def _text(self, key: str, text: str) -> None:
        if key in self.spec.inputs or not self._is_parameter(key):
            return
        self.findings.add(
            (*self.place, key),
            f'node "{self.said}": foreach "{shorten(key)}" has the wrong type',
            found=entry(key, text),
            expected="a list",
            suggestion=f"write {shorten(key)}: [{shorten(text)}]",
        )

    def _is_parameter(self, key: str) -> bool:
        if is_parameter(key, self.spec):
            return True
        ports = [name for name, port in self.spec.inputs.items() if not port.many]
        values = self.node.foreach[key]
        self.findings.add(
            (*self.place, key),
            f'node "{self.said}": foreach "{shorten(key)}" is neither a parameter nor an input',
            found=entry(key, values if isinstance(values, str) else list(values)),
            expected=f"stage {self.spec.name} takes {list_names([*legal_names(self.spec.settings, ()), *ports])}",
            suggestion=self.findings.did_you_mean(key, [*parameters_beside(key, self.spec), *ports])
            or hint_for(key, self.spec)
            or "remove it",
            next_step=f"orchestrator stages show {self.spec.name}",
        )
        return False

    def _conflict(self, key: str) -> bool:
        """Is the parameter that `foreach` lists given otherwise too? Then it is reported."""
        given = given_at(key, self.node.params)
        other = next((one for one in self.node.foreach if one != key and key.startswith(f"{one}.")), "")
        if given is not None:
            where, expected = f'params ("{given[0]}: {shorten(given[1])}") and foreach', "one of the two"
        elif other:
            where, expected = "two lists of foreach, one inside the other", f"{other} or {key}"
        else:
            return False
        self.findings.add(
            (*self.place, key),
            f'node "{self.said}": parameter "{shorten(key)}" is given twice',
            found=where,
            expected=expected,
            suggestion=f"remove {shorten(key)} from one of them",
        )
        return True

    def _duplicates(self, key: str, values: Sequence[Any]) -> None:
        for first, index in repeats(values):
            self.findings.add(
                (*self.place, key, index),
                f'node "{self.said}": foreach "{shorten(key)}" lists {shorten(values[index])} twice',
                found=f"{shorten(values[index])} as value {first + 1} and as value {index + 1}",
                expected="each value once",
                suggestion="remove one of the two",
            )


def repeats(values: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """(first, again) for each value that stands in the list before; 1 and 1.0 are the same, 1 and true are not."""
    seen: dict[Any, int] = {}
    for index, value in enumerate(values):
        same = (isinstance(value, bool), value if _is_scalar(value) else json.dumps(value, sort_keys=True, default=str))
        first = seen.setdefault(same, index)
        if first != index:
            yield first, index


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float | bool | None)


def _choices(lengths: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Which listed values to try together: all combinations if they are few, else each value beside the others' first."""
    if math.prod(lengths.values()) <= MAX_CHECKED_TOGETHER:
        for combination in itertools.product(*(range(length) for length in lengths.values())):
            yield dict(zip(lengths, combination, strict=True))
        return
    first = dict.fromkeys(lengths, 0)
    yield first
    for key, length in lengths.items():
        for index in range(1, length):
            yield {**first, key: index}


def with_value(data: dict[str, Any], parts: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy of `data` with `value` at the nested name `parts`."""
    head, *rest = parts
    below = data.get(head)
    inner = with_value(below if isinstance(below, dict) else {}, rest, value) if rest else value
    return {**data, head: inner}
