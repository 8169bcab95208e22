"""`ls --where`: conditions on runs, such as 'tag.team=vision and status=failed and age<7d'. A list, no language."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.report.run_status import RunStatus
from orchestrator.report.text import shorten
from orchestrator.store.ledger import RunRequest
from orchestrator.store.parallel import in_parallel
from orchestrator.workflow.units import parse_duration_s

TEXTS = ("status", "workflow", "file", "id", "user", "executor", "tag.NAME")
DURATIONS = ("age", "seconds")
_CONDITION = re.compile(r"([a-z]+(?:\.[^\s=!~<>]+)?)\s*(!=|=|~|<|>)\s*(.*)", re.DOTALL)
EXAMPLE = "--where 'tag.team=vision and status=failed'"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition: `=` and `!=` compare, `~` is contained, `<` and `>` are for durations."""

    field: str
    operator: str
    value: str

    @property
    def needs_status(self) -> bool:
        """Whether the run's events have to be read for it; the request alone answers the others."""
        return self.field in ("status", "seconds")

    def holds(self, found: str | float) -> bool:
        """Whether a run with this value meets it."""
        if isinstance(found, float):
            limit = parse_duration_s(self.value)
            return found < limit if self.operator == "<" else found > limit
        if self.operator == "~":
            return self.value in found
        return (found == self.value) == (self.operator == "=")


def parse_where(text: str) -> list[Condition]:
    """The conditions of a text; UsageError says which one cannot be meant, and what can be asked."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise _refused(text, f"a quote is not closed ({error})") from error
    parts: list[list[str]] = [[]]
    for word in words:
        if word.lower() == "and":
            parts.append([])
        else:
            parts[-1].append(word)
    return [_condition(" ".join(part)) for part in parts]


def select_runs(
    requests: list[RunRequest], conditions: list[Condition], read: Callable[[str], RunStatus], *, limit: int, width: int = 1
) -> tuple[list[RunStatus], bool]:
    """The first runs that meet all conditions, and whether there are more; reads the events of no run that it need not.

    `width` runs are read at once; where events decide, some may be read in vain.
    """
    early = [condition for condition in conditions if not condition.needs_status]
    late = [condition for condition in conditions if condition.needs_status]
    asked = [
        request.id for request in requests if all(condition.holds(_asked(condition.field, request)) for condition in early)
    ]
    if not late:
        return list(in_parallel(read, asked[:limit], width=width)), len(asked) > limit
    found: list[RunStatus] = []
    with closing(in_parallel(read, asked, width=width)) as statuses:
        for status in statuses:
            known: Mapping[str, str | float] = {"status": status.state, "seconds": float(status.seconds)}
            if all(condition.holds(known[condition.field]) for condition in late):
                if len(found) == limit:
                    return found, True
                found.append(status)
    return found, False


def _asked(field: str, request: RunRequest) -> str | float:
    content: Mapping[str, Any] = request.content
    if field == "id":
        return request.id
    if field == "age":
        return (datetime.now(UTC) - datetime.fromisoformat(request.created)).total_seconds()
    if field.startswith("tag."):
        return str((content.get("tags") or {}).get(field.removeprefix("tag."), ""))
    return str(content.get(field, ""))


def _condition(text: str) -> Condition:
    match = _CONDITION.fullmatch(text.strip())
    if match is None:
        raise _refused(text, "expected FIELD=VALUE, and between two of them the word and")
    field, operator, value = match.groups()
    is_tag = field.startswith("tag.")
    if not is_tag and field not in (*TEXTS, *DURATIONS):
        raise _refused(text, f'there is no "{field}" to ask for; there are {", ".join((*TEXTS, *DURATIONS))}')
    if (field in DURATIONS) != (operator in ("<", ">")):
        wanted = "< or >" if field in DURATIONS else "=, != or ~ (contains)"
        raise _refused(text, f"{field} is asked with {wanted}")
    if field in DURATIONS:
        try:
            parse_duration_s(value)
        except ValueError as error:
            raise _refused(text, str(error)) from error
    return Condition(field=field, operator=operator, value=value)


def _refused(text: str, why: str) -> UsageError:
    return UsageError(f'--where "{shorten(text, 60)}": {why}', next_step=f"orchestrator ls {EXAMPLE}")
