"""What an artifact was made from, however far, and what was made from it; two artifacts' records side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.report.text import Column, Style, format_bytes, format_figure, format_table, format_time, printable
from orchestrator.report.why import difference_lines
from orchestrator.store.artifacts import Artifacts, Record
from orchestrator.workflow.explain import identity_differences
from orchestrator.workflow.spelled import input_keys
from stages.catalog import find_stage


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """One artifact of a lineage. `record` is None where it is gone from the store; `is_repeated` where it stood above."""

    key: str
    depth: int
    record: Record | None
    is_repeated: bool = False


def find_lineage(record: Record, artifacts: Artifacts) -> list[Ancestor]:
    """The artifact and all it was made from: each below the one that it was used for first."""
    stages = artifacts.stages_by_key()
    found: list[Ancestor] = []
    seen: set[str] = set()

    def add(key: str, depth: int, known: Record | None) -> None:
        each = known or (artifacts.find(stages[key], key) if key in stages else None)
        found.append(Ancestor(key=key, depth=depth, record=each, is_repeated=key in seen))
        if key in seen or each is None:
            return
        seen.add(key)
        for above in input_keys(each):
            add(above, depth + 1, None)

    add(record.key, 0, record)
    return found


def find_children(record: Record, artifacts: Artifacts) -> list[Record]:
    """Every artifact that was made from this one directly, oldest first."""
    found = [each for each in artifacts.all_records() if record.key in input_keys(each)]
    return sorted(found, key=lambda each: (each.finished, each.key))


def lineage_lines(found: Sequence[Ancestor], *, style: Style, width: int | None) -> list[str]:
    """A tree: what an artifact was made from stands below it, indented."""
    rows = []
    for each in found:
        lead = "  " * each.depth
        if each.record is None:
            rows.append([each.key[:8], f"{lead}?", "-", "gone from the store, or damaged"])
            continue
        detail = "(see above)" if each.is_repeated else f"{format_time(each.record.finished)} UTC, run {each.record.run or '-'}"
        rows.append([each.key[:8], f"{lead}{printable(each.record.label)}", each.record.stage, detail])
    columns = [Column("KEY"), Column("MADE FROM"), Column("STAGE"), Column("FINISHED")]
    return format_table(columns, rows, style=style, width=width)


def children_lines(found: Sequence[Record], *, style: Style, width: int | None) -> list[str]:
    """One line for each."""
    rows = [
        [each.key[:8], printable(each.label), each.stage, format_bytes(each.size_bytes), each.run, format_time(each.finished)]
        for each in found
    ]
    columns = [
        Column("KEY"), Column("NODE"), Column("STAGE"), Column("SIZE", right=True), Column("RUN"), Column("FINISHED (UTC)"),
    ]  # fmt: skip
    return format_table(columns, rows, style=style, width=width)


def record_difference(record: Record, other: Record) -> dict[str, Any]:
    """What sets two artifacts apart: what made them, their metrics, their content."""
    differences = identity_differences(find_stage(other.stage), record.identity, other.identity)
    names = dict.fromkeys([*record.metrics, *record.measurements, *other.metrics, *other.measurements])
    before, now = {**record.metrics, **record.measurements}, {**other.metrics, **other.measurements}
    return {
        "key": record.key,
        "other": other.key,
        "differences": [vars(each) for each in differences],
        "lines": difference_lines(differences),
        "metrics": {name: [before.get(name), now.get(name)] for name in names if before.get(name) != now.get(name)},
        "same_content": record.content_digest == other.content_digest,
    }


def record_difference_lines(found: dict[str, Any], *, style: Style) -> list[str]:
    """The same for reading."""
    lines = [f"{style.paint(found['key'][:8], 'bold')} -> {style.paint(found['other'][:8], 'bold')}"]
    lines += found["lines"] or ["nothing differs in what made them: both have the same key"]
    lines += [f"metric {name}: {format_figure(a)} -> {format_figure(b)}" for name, (a, b) in found["metrics"].items()]
    return [*lines, "the same content" if found["same_content"] else "other content"]
