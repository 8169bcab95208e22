"""What `gc` would remove, as a table by stage, and why the rest stays."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.report.text import Column, Style, format_bytes, format_seconds, format_table, format_time, plural, printable
from orchestrator.store.gc import GcPlan
from orchestrator.store.inventory import Held
from orchestrator.store.leftovers import Leftovers

_ORDER = ("named", "pinned", "of a running run", "being made", "of a recent run", "finished lately", "imported")


def gc_lines(plan: GcPlan, leftovers: Leftovers, *, style: Style, width: int | None, show_all: bool) -> list[str]:
    """The preview; with `show_all` one line for each artifact in place of one for each stage."""
    lines = []
    if plan.removed and show_all:
        lines += _artifacts_table(plan.removed, style=style, width=width)
    elif plan.removed:
        lines += _stages_table(plan.removed, style=style, width=width)
    total = style.paint("total", "total")
    freed = f"{format_bytes(plan.freed_bytes)} of {format_bytes(plan.total_bytes)}"
    lines.append(
        f"{total}  {plural(len(plan.removed), 'artifact')}, {freed} freed;"
        f" {format_seconds(plan.seconds)} of recorded work to make it all again"
    )
    unnamed_bytes = sum(blob.size_bytes for blob in plan.unnamed)
    if unnamed_bytes:
        lines.append(f"       {format_bytes(unnamed_bytes)} of it are files that no record names")
    if plan.too_young:
        lines.append(f"       {format_bytes(plan.too_young)} more when they are older than the grace period")
    if plan.set_aside:
        lines.append(f"       {plural(len(plan.set_aside), 'record')} that were set aside")
    if leftovers.attempts:
        lines.append(f"       {plural(len(leftovers.attempts), 'attempt')} of dead processes")
    if leftovers.checkpoints:
        states = f"saved states of {plural(len(leftovers.checkpoints), 'node')}"
        lines.append(f"       {states}, {format_bytes(sum(leftovers.checkpoints.values()))}")
    if leftovers.mirrored:
        states = f"saved states of {plural(len(leftovers.mirrored), 'node')} in the store"
        lines.append(f"       {states}, {format_bytes(sum(leftovers.mirrored.values()))}")
    if leftovers.uploads:
        lines.append(f"       parts of {plural(len(leftovers.uploads), 'unfinished upload')}")
    if leftovers.runs:
        lines.append(f"       logs and events of {plural(len(leftovers.runs), 'run')}: {', '.join(leftovers.runs[:6])}")
    kept = sorted(plan.kept.items(), key=lambda item: (_ORDER.index(item[0]) if item[0] in _ORDER else len(_ORDER), item[0]))
    lines.append(f"kept   {', '.join(f'{number} {why}' for why, number in kept) or 'no artifact'}")
    return lines


def _stages_table(removed: Sequence[Held], *, style: Style, width: int | None) -> list[str]:
    by_stage: dict[str, list[Held]] = {}
    for held in removed:
        by_stage.setdefault(held.stage, []).append(held)
    rows = [
        [
            str(len(found)), format_bytes(sum(held.size_bytes for held in found)),
            format_seconds(sum(held.seconds for held in found)), format_time(min(held.finished for held in found)), stage,
        ]
        for stage, found in sorted(by_stage.items())
    ]  # fmt: skip
    columns = [
        Column("ARTIFACTS", right=True), Column("SIZE", right=True), Column("TO REBUILD", right=True), Column("OLDEST (UTC)"),
        Column("STAGE"),
    ]  # fmt: skip
    return format_table(columns, rows, style=style, width=width)


def _artifacts_table(removed: Sequence[Held], *, style: Style, width: int | None) -> list[str]:
    rows = [
        [
            held.key[:8], format_bytes(held.size_bytes), format_seconds(held.seconds), format_time(held.finished), held.run,
            held.stage, printable(held.label),
        ]
        for held in removed
    ]  # fmt: skip
    columns = [
        Column("KEY"), Column("SIZE", right=True), Column("TO REBUILD", right=True), Column("FINISHED (UTC)"), Column("RUN"),
        Column("STAGE"), Column("NODE"),
    ]  # fmt: skip
    return format_table(columns, rows, style=style, width=width)
