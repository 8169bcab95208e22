"""Parameters and `foreach` values of one node against its stage's settings class. Knows no other node."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
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
"""Which value of each `foreach` list is meant."""


def check_params(name: str, node: Node, spec: StageSpec, *, findings: Findings, is_whole: bool) -> None:
    """Report what is wrong with the parameters of a node.

    Without `is_whole` (the file has a problem in this node already) nothing is called missing: it may be what was misread.
    """
    check = _Params(name, node, spec, findings, is_whole=is_whole)
    check.lists()
    check.values()


class _Params:
    def __init__(self, name: str, node: Node, spec: StageSpec, findings: Findings, *, is_whole: bool) -> None:
        self.name = name
        self.node = node
        self.spec = spec
        self.findings = findings
        self.is_whole = is_whole
        self.usable: dict[str, Sequence[Any]] = {}
        self.next_step = f"orchestrator stages show {spec.name}"

    def lists(self) -> None:
        """Check the lists as lists; those that can be tried as parameters go to `usable`."""
        for key, values in self.node.foreach.items():
            place: KeyPath = ("nodes", self.name, "foreach", key)
            if not values:
                self.findings.add(
                    place,
                    f'node "{self.name}": foreach "{shorten(key)}" lists nothing, so the node would vanish',
                    found=f'"{shorten(key)}: []"',
                    expected="at least one value",
                    suggestion="list a value, or remove the line",
                )
            self._duplicates(key, values)
            if key not in self.spec.inputs and self._is_parameter(key) and not self._conflict(key) and values:
                self.usable[key] = values
        count = math.prod(max(1, len(values)) for values in self.node.foreach.values())
        if count > MAX_COMBINATIONS:
            self.findings.add(
                ("nodes", self.name, "foreach"),
                f'node "{self.name}": foreach makes too many nodes',
                found=f"{count} combinations",
                expected=f"at most {MAX_COMBINATIONS}",
                suggestion="list fewer values",
            )
            self.usable = {key: values[:1] for key, values in self.usable.items()}

    def values(self) -> None:
        """Validate the parameters with every listed value put in."""
        earlier = frozenset(self.findings.reported)
        told: set[tuple[KeyPath, str, str]] = set()
        for choice in _choices({key: len(values) for key, values in self.usable.items()}):
            data: dict[str, Any] = {**self.node.params}
            for key, index in choice.items():
                data = _with_value(data, key.split("."), self.usable[key][index])
            try:
                validate_data(self.spec.settings, data)
            except ValidationError as error:
                for defect in defects(error, data):
                    place = self._place(defect.path, choice)
                    mark = (place, defect.missing, defect.expected)
                    if mark not in told and not is_known(place, earlier) and (self.is_whole or not defect.missing):
                        told.add(mark)
                        self._report(defect, place, choice)

    def _report(self, defect: Defect, place: KeyPath, choice: Choice) -> None:
        if not defect.path and not defect.missing and defect.kind == "value":
            chosen = {key: self.usable[key][index] for key, index in choice.items()}
            self.findings.add(
                place,
                f'node "{self.name}": {defect.expected}',
                found=f'"params: {shorten({**self.node.params, **chosen}, limit=200)}"',
                expected=f"parameters of stage {self.spec.name} that fit together",
                suggestion="change one of the parameters that the message names",
                next_step=self.next_step,
            )
            return
        parent = defect.path if defect.missing else defect.path[:-1]
        hint = self._hint(str(defect.path[-1])) if defect.kind == "unknown" and not parent else ""
        legal = legal_names(self.spec.settings, parent)
        owner = f'"{parent[-1]}"' if parent else f"stage {self.spec.name}"
        report(defect, place=place, findings=self.findings, legal=lambda: (owner, legal), hint=hint, next_step=self.next_step)

    def _place(self, path: KeyPath, choice: Choice) -> KeyPath:
        for key, index in choice.items():
            parts = tuple(key.split("."))
            if path[: len(parts)] == parts:
                return ("nodes", self.name, "foreach", key, index, *path[len(parts) :])
        return ("nodes", self.name, "params", *path)

    def _hint(self, key: str) -> str:
        """What to do with a key that is no parameter, where its name tells what it is."""
        if key in self.spec.inputs:
            return f"{key} is an input: write inputs: {{{key}: NODE}}"
        if key in BESIDE_PARAMS:
            return f"{key} stands beside params, not in it: move it out"
        return ""

    def _is_parameter(self, key: str) -> bool:
        *parents, last = key.split(".")
        legal = legal_names(self.spec.settings, tuple(parents))
        if last in legal or (parents and not legal and takes_names(self.spec.settings, tuple(parents))):
            return True
        ports = [name for name, port in self.spec.inputs.items() if not port.many]
        prefix = ".".join([*parents, ""])
        self.findings.add(
            ("nodes", self.name, "foreach", key),
            f'node "{self.name}": foreach "{shorten(key)}" is neither a parameter nor an input',
            found=entry(key, list(self.node.foreach[key])),
            expected=f"stage {self.spec.name} takes {list_names([*legal_names(self.spec.settings, ()), *ports])}",
            suggestion=self.findings.did_you_mean(key, [*(prefix + name for name in legal), *ports])
            or self._hint(key)
            or "remove it",
            next_step=self.next_step,
        )
        return False

    def _conflict(self, key: str) -> bool:
        """Is the parameter that `foreach` lists given otherwise too? Then it is reported."""
        parts = key.split(".")
        given: Any = self.node.params
        for length, part in enumerate(parts, 1):
            if not isinstance(given, dict):
                break
            if part not in given:
                other = next((one for one in self.node.foreach if one != key and key.startswith(f"{one}.")), "")
                if not other:
                    return False
                where, expected = "two lists of foreach, one inside the other", f"{other} or {key}"
                break
            given = given[part]
            where, expected = f'params ("{".".join(parts[:length])}: {shorten(given)}") and foreach', "one of the two"
        self.findings.add(
            ("nodes", self.name, "foreach", key),
            f'node "{self.name}": parameter "{shorten(key)}" is given twice',
            found=where,
            expected=expected,
            suggestion=f"remove {shorten(key)} from one of them",
        )
        return True

    def _duplicates(self, key: str, values: Sequence[Any]) -> None:
        seen: dict[Any, int] = {}
        for index, value in enumerate(values):
            same = (isinstance(value, bool), value if _is_scalar(value) else json.dumps(value, sort_keys=True, default=str))
            first = seen.setdefault(same, index)
            if first != index:
                self.findings.add(
                    ("nodes", self.name, "foreach", key, index),
                    f'node "{self.name}": foreach "{shorten(key)}" lists {shorten(value)} twice',
                    found=f"{shorten(value)} as value {first + 1} and as value {index + 1}",
                    expected="each value once",
                    suggestion="remove one of the two",
                )


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


def _with_value(data: dict[str, Any], parts: Sequence[str], value: Any) -> dict[str, Any]:
    head, *rest = parts
    below = data.get(head)
    inner = _with_value(below if isinstance(below, dict) else {}, rest, value) if rest else value
    return {**data, head: inner}
