"""Where each value of a workflow came from, and the problems found in it. Knows no YAML, no stage and no pydantic."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import Problem
from orchestrator.workflow.core_schema import plain_value

KeyPath = tuple[str | int, ...]
"""Where a value is: ("nodes", "lbc", "params", "n_m"), with an int for a place in a list."""

MAX_SUGGESTIONS = 50  # nearest names cost a millisecond each among thousands; a broken file must still answer at once


@dataclass(frozen=True)
class Places:
    """Line and column (from 1) of each key and list item; what the file does not hold falls back to the nearest parent."""

    file: str
    positions: Mapping[KeyPath, tuple[int, int]] = field(default_factory=dict)
    aliases: Mapping[KeyPath, KeyPath] = field(default_factory=dict)
    overrides: Mapping[KeyPath, str] = field(default_factory=dict)

    def __getitem__(self, path: KeyPath) -> tuple[int, int]:
        """Line and column of `path`, or of the nearest parent that has one; (0, 0) where there is none."""
        for length in range(len(path), -1, -1):
            prefix = path[:length]
            if prefix in self.positions and (length == len(path) or prefix not in self.aliases):
                return self.positions[prefix]
            if prefix in self.aliases:
                return self[self.aliases[prefix] + path[length:]]
        return (0, 0)

    def override(self, path: KeyPath) -> str:
        """The `--set` text that gave the value at `path`, or an empty string."""
        prefixes = (path[:length] for length in range(len(path), 0, -1))
        return next((self.overrides[prefix] for prefix in prefixes if prefix in self.overrides), "")

    def problem(self, path: KeyPath, what: str, **details: str) -> Problem:
        """A Problem at `path`; one caused by an override is placed at its `--set` text, since no line of the file is wrong."""
        text = self.override(path)
        if text:
            return Problem(file=f"--set {shorten(text)}", line=0, column=0, what=what, **details)
        line, column = self[path]
        return Problem(file=self.file, line=line, column=column, what=what, **details)


class Findings:
    """Collects problems, and the paths they are about, so that one mistake is told once."""

    def __init__(self, places: Places, problems: Iterable[Problem] = (), reported: Iterable[KeyPath] = ()) -> None:
        self.places = places
        self.problems = list(problems)
        self.reported = set(reported)
        self._suggested = 0

    def add(self, path: KeyPath, what: str, **details: str) -> None:
        """Record a problem at `path`. An empty `next_step` becomes the command that checks the file again."""
        details.setdefault("next_step", validate_command(self.places.file))
        problem = self.places.problem(path, what, **details)
        if problem not in self.problems[-50:]:
            self.problems.append(problem)
        self.reported.add(path)

    def known_at(self, path: KeyPath) -> bool:
        """Was a problem already reported at `path` or at a parent of it? A workflow-wide problem does not count."""
        return is_known(path, self.reported)

    def known_below(self, path: KeyPath) -> bool:
        """Was a problem already reported at `path` or anywhere below it?"""
        return any(other[: len(path)] == path for other in self.reported)

    def did_you_mean(self, found: str, legal: Iterable[str]) -> str:
        """The suggestion "did you mean X?" for the nearest legal names, or an empty string."""
        self._suggested += 1
        names = nearest(found, legal) if self._suggested <= MAX_SUGGESTIONS else []
        return f"did you mean {' or '.join(names)}?" if names else ""

    def sorted(self) -> list[Problem]:
        """Problems in the file's order, those of `--set` last."""
        return sorted(self.problems, key=lambda problem: (problem.file != self.places.file, problem.line, problem.column))


def is_known(path: KeyPath, reported: AbstractSet[KeyPath]) -> bool:
    """Is `path`, or a parent of it other than the whole workflow, among the reported ones?"""
    return any(path[:length] in reported for length in range(1, len(path) + 1))


def validate_command(file: str) -> str:
    """The command that checks a mended file."""
    return f"mend it, then: orchestrator validate {file}"


def nearest(found: str, legal: Iterable[str], *, count: int = 2) -> list[str]:
    """The legal names most like `found`, best first; a second one only if it is about as near as the first."""
    names = {name.lower(): name for name in legal}
    word = found[:100].lower()
    close = difflib.get_close_matches(word, names, n=count, cutoff=0.6)
    if not close:
        close = [name for name in names if len(word) > 2 and (name.startswith(word) or word in name.split("."))][:count]
    ratios = [difflib.SequenceMatcher(None, word, name).ratio() for name in close]
    return [names[name] for name, ratio in zip(close, ratios, strict=True) if ratio > ratios[0] - 0.1]


def list_names(names: Iterable[str], *, limit: int = 24) -> str:
    """Names with commas, cut after `limit`."""
    found = list(names)
    more = f", ... ({len(found) - limit} more)" if len(found) > limit else ""
    return (", ".join(found[:limit]) + more) or "none"


def shorten(value: Any, *, limit: int = 80) -> str:
    """`value` as one short line, near to how YAML would write it."""
    if isinstance(value, str):
        text = value if value.isprintable() and value == value.strip() else json.dumps(value, ensure_ascii=False)
    elif value is None:
        text = "nothing (null)"
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."


def entry(name: str | int, value: Any) -> str:
    """`name: value` as found in the file, in quotes; a list item is its value alone."""
    needs_quotes = isinstance(value, str) and not isinstance(plain_value(value), str)
    text = shorten(json.dumps(value) if needs_quotes else value)
    if isinstance(name, str):
        text = f"{shorten(name)}:" if value is None else f"{shorten(name)}: {text}"
    return f'"{text}"'
