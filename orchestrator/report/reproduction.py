"""An artifact beside its rebuild: identical, within the interval of what was measured, or different."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.report.comparison import Compared, verdict
from orchestrator.report.text import Column, Style, format_figure, format_table
from orchestrator.store.artifacts import Artifacts, Record

IDENTICAL, WITHIN, DIFFERENT = "identical", "within interval", "different"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One artifact of the lineage and its rebuild. `metrics`: those that differ, before and now, and whether that is a tie."""

    name: str
    record: Record
    rebuilt: Record | None
    word: str
    metrics: Mapping[str, tuple[Any, Any, bool]]


def judge(name: str, record: Record, rebuilt: Record | None) -> Judged:
    """Compare content: the same bytes and metrics are identical. Measurements read off a clock are left out."""
    if rebuilt is None:
        return Judged(name=name, record=record, rebuilt=None, word=DIFFERENT, metrics={})
    if rebuilt.content_digest == record.content_digest:
        return Judged(name=name, record=record, rebuilt=rebuilt, word=IDENTICAL, metrics={})
    before, now = (Compared(name=name, record=each, settings={}) for each in (record, rebuilt))
    names = dict.fromkeys([*record.metrics, *rebuilt.metrics])
    metrics = {
        metric: (record.metrics.get(metric), rebuilt.metrics.get(metric), verdict(metric, before, now).word == "tie")
        for metric in names
        if record.metrics.get(metric) != rebuilt.metrics.get(metric)
    }
    plumbing = ("num_correct", "top1_accuracy_low", "top1_accuracy_high")  # they follow from top1_accuracy
    has_interval = any(metric == "top1_accuracy" and is_tie for metric, (_, _, is_tie) in metrics.items())
    is_within = has_interval and all(is_tie or metric in plumbing for metric, (_, _, is_tie) in metrics.items())
    return Judged(name=name, record=record, rebuilt=rebuilt, word=WITHIN if is_within else DIFFERENT, metrics=metrics)


def judged_lines(found: list[Judged], *, style: Style, width: int | None) -> list[str]:
    """One line for each artifact, and one for each metric that differs."""
    rows = [[each.word, each.name, each.record.stage, each.record.key[:8], _detail(each)] for each in found]
    columns = [Column("RESULT"), Column("NODE"), Column("STAGE"), Column("KEY"), Column("DETAIL")]
    return format_table(columns, rows, style=style, width=width, last_lines=4)


def judged_documents(found: list[Judged]) -> list[dict[str, Any]]:
    """The same as data."""
    return [
        {
            "node": each.name, "stage": each.record.stage, "key": each.record.key, "result": each.word,
            "content_digest": each.record.content_digest,
            "rebuilt_content_digest": each.rebuilt.content_digest if each.rebuilt is not None else None,
            "metrics": {name: {"before": a, "now": b, "tie": tie} for name, (a, b, tie) in each.metrics.items()},
        }
        for each in found
    ]  # fmt: skip


def copy_artifact(record: Record, source: Artifacts, target: Artifacts) -> None:
    """The artifact, with verified files, in another store; nothing where it is there."""
    import shutil

    if target.find(record.stage, record.key) is not None:
        return
    name = f"attempts/copy-{record.key}"
    folder = target.store.workspace(name)
    try:
        for file, path in source.open(record).files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / file)
        target.take_files(folder, durable=False)
    finally:
        target.store.remove_workspace(name)
    target.publish(record, durable=False)


def _detail(each: Judged) -> str:
    if each.rebuilt is None:
        return "could not be made"
    if each.word == IDENTICAL:
        return "the same bytes and metrics"
    if not each.metrics:
        files = [name for name, file in each.record.files.items() if each.rebuilt.files.get(name) != file]
        return f"the same metrics; other bytes in {', '.join(files[:3]) or 'further files'}"
    return "; ".join(f"{name} {format_figure(a)} -> {format_figure(b)}" for name, (a, b, _) in each.metrics.items())
