"""The stage `evaluate.compare`: evaluations side by side, as JSON and as Markdown. Loads no tensor library.

Only what follows from the evaluations' inputs is compared, so the table has the same bytes on every machine; latencies are
measurements of one machine and stay with the evaluation that took them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stages.contract import Artifact, StageContext, StageResult
from stages.evaluate.settings import CompareSettings


@dataclass(frozen=True, kw_only=True)
class _Column:
    """One measure: its heading, whether more of it is better (None: neither), and how a value is printed."""

    metric: str
    heading: str
    more_is_better: bool | None
    text: Callable[[float], str]


COLUMNS = (
    _Column(metric="top1_accuracy", heading="top-1, %", more_is_better=True, text=lambda value: f"{100 * value:.2f}"),
    _Column(metric="frechet_distance", heading="Fréchet distance", more_is_better=False, text=lambda value: f"{value:.3f}"),
    _Column(metric="class_accuracy", heading="of its class, %", more_is_better=True, text=lambda value: f"{100 * value:.2f}"),
    _Column(metric="psnr_db", heading="PSNR, dB", more_is_better=True, text=lambda value: f"{value:.2f}"),
    _Column(metric="ssim", heading="SSIM", more_is_better=True, text=lambda value: f"{value:.4f}"),
    _Column(metric="top1_drop", heading="drop, points", more_is_better=False, text=lambda value: f"{100 * value:+.2f}"),
    _Column(metric="size_bytes", heading="stored, bytes", more_is_better=False, text=lambda value: f"{value:,}"),
    _Column(metric="size_ratio", heading="stored, ratio", more_is_better=False, text=lambda value: f"{value:.2f}"),
    _Column(metric="num_nonzero_parameters", heading="non-zeros", more_is_better=False, text=lambda value: f"{value:,}"),
    _Column(metric="gmacs", heading="MMACs, dense", more_is_better=False, text=lambda value: f"{1000 * value:.3f}"),
    _Column(metric="gmacs_effective", heading="MMACs, nominal", more_is_better=False, text=lambda value: f"{1000 * value:.3f}"),
)
QUALITIES = {"top1_accuracy": "top-1", "frechet_distance": "Fréchet distance", "psnr_db": "PSNR"}
"""What evaluations say of how well a model does, one of them each, and its name in a sentence."""
FRONT_COSTS = ("size_bytes", "gmacs", "num_nonzero_parameters")
"""What the Pareto front looks at beside it."""
SIZES = ("size_bytes", "size_ratio")
"""Measures that compare only between files of one format."""


def run(context: StageContext) -> StageResult:
    """Write `table.json` and `table.md`, one row per evaluation in the workflow's order.

    Raises:
        ValueError: nothing to compare, or evaluations of different data.
    """
    settings = context.settings
    assert isinstance(settings, CompareSettings)
    results = context.many("results")
    if not results:
        raise ValueError("evaluate.compare: no evaluation is connected to `results`")
    rows = [_row(result) for result in results]
    data = sorted({row["data"] for row in rows})
    if len(data) > 1:
        raise ValueError(f"evaluate.compare: the evaluations are of different data, {', '.join(data)}; compare one at a time")
    qualities = sorted({name for row in rows for name in QUALITIES if name in row["metrics"]})
    if len(qualities) != 1:
        raise ValueError(f"evaluate.compare: the evaluations measure {', '.join(qualities) or 'nothing known'}; compare equals")
    quality = qualities[0]
    for row in rows:
        row["on_front"] = not any(_beats(other, row, measures=(quality, *FRONT_COSTS)) for other in rows)
    columns = [column for column in COLUMNS if any(column.metric in row["metrics"] for row in rows)]
    one_format = len({row["size_of"] for row in rows}) == 1
    best = {column.metric: _best(rows, column) for column in columns if one_format or column.metric not in SIZES}
    table = {"format": 1, "title": settings.title, "data": data[0], "rows": rows, "best": best}
    text = json.dumps(table, indent=2, sort_keys=True, allow_nan=False) + "\n"
    (context.output / "table.json").write_text(text, encoding="utf-8")
    (context.output / "table.md").write_text(_markdown(settings.title, rows, columns, best, quality=quality), encoding="utf-8")
    return StageResult(
        metrics={
            "num_rows": len(rows),
            "num_on_front": sum(row["on_front"] for row in rows),
            f"best_{quality}": best[quality]["value"],
            "best_label": best[quality]["labels"][0],
        }
    )


def _row(result: Artifact) -> dict[str, Any]:
    evaluation = json.loads(result.file("evaluation.json").read_text(encoding="utf-8"))
    return {
        "label": result.label or result.key[:8],
        "architecture": evaluation["architecture"],
        "transforms": evaluation["transforms"],
        "data": evaluation["data"],
        "size_of": evaluation["size_of"],
        "metrics": evaluation["metrics"],
    }


def _beats(other: dict[str, Any], own: dict[str, Any], *, measures: Sequence[str]) -> bool:
    """Whether `other` is at least as good in every measure of the front and better in one; never across formats."""
    if other["size_of"] != own["size_of"]:
        return False
    signs = {column.metric: 1 if column.more_is_better else -1 for column in COLUMNS}
    gains = [signs[metric] * (other["metrics"][metric] - own["metrics"][metric]) for metric in measures]
    return all(gain >= 0 for gain in gains) and any(gain > 0 for gain in gains)


def _best(rows: Sequence[dict[str, Any]], column: _Column) -> dict[str, Any]:
    values = [row["metrics"][column.metric] for row in rows if column.metric in row["metrics"]]
    value = max(values) if column.more_is_better else min(values)
    return {"value": value, "labels": [row["label"] for row in rows if row["metrics"].get(column.metric) == value]}


def _markdown(
    title: str, rows: Sequence[dict[str, Any]], columns: Sequence[_Column], best: dict[str, Any], *, quality: str
) -> str:
    """A table that reads well as text too: the best of each column bold, the Pareto front starred."""
    lines = [f"# {title}", "", _line(["model", *(column.heading for column in columns)])]
    lines.append(_line(["---", *("---:" for _ in columns)]))
    for row in rows:
        cells = [_cell(row, column, best) for column in columns]
        lines.append(_line([row["label"].replace("|", "\\|") + (" *" if row["on_front"] else ""), *cells]))
    lines += ["", f"Data: {rows[0]['data']}. Bold: best of the column. *: no other row is at least as good in all of "]
    lines[-1] += f"{QUALITIES[quality]}, stored bytes, dense MMACs and non-zeros. "
    lines[-1] += "Nominal MMACs leave out zero weights; that is no speed."
    formats = sorted({row["size_of"] for row in rows})
    if len(formats) > 1:
        lines[-1] += f" Stored bytes are of different formats ({', '.join(formats)}) and do not compare: "
        lines[-1] += "none is bold, and * is among rows of one format."
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any], column: _Column, best: dict[str, Any]) -> str:
    value = row["metrics"].get(column.metric)
    if value is None:
        return ""
    text = column.text(value)
    return f"**{text}**" if column.metric in best and value == best[column.metric]["value"] else text


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
