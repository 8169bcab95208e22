"""Artifacts side by side: the settings that differ, in them and in what they were made from; metrics with a verdict; cost.

The first artifact is what the others are held against.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from typing import Any

from orchestrator.report.directions import better
from orchestrator.report.text import Column, Style, format_figure, format_seconds, format_table, format_value, shorten
from orchestrator.store.artifacts import Artifacts, Record
from orchestrator.sweeps.constraints import number as finite
from stages.catalog import find_stage
from stages.evaluate.statistics import wilson_interval

NOISE = 0.03
"""Of a figure read off a clock: what alternating timings of one and the same model differ by."""

RULE = (
    f"accuracies tie where the 95% interval of their difference holds 0 (Newcombe, unpaired); times within {NOISE:.0%} tie; "
    "all else is exact"
)

_PART = " is part of it"
"""Ends the name of the row that says whether a stage is in the lineage at all."""

_TIMED = ("latency_ms", "images_per_s", "training_s", "training_images_per_s", "latency_ratio", "seconds")
_PLUMBING = ("num_correct", "num_test", "top1_accuracy_low", "top1_accuracy_high")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One artifact: what it is called here, its record, the settings of its whole lineage, its metrics and measurements."""

    name: str
    record: Record
    settings: Mapping[str, Any]

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Metrics and measurements by name."""
        return {**self.record.metrics, **self.record.measurements}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How one figure stands to the first artifact's: better, worse, tie, or "" where the name does not say which is better."""

    word: str
    low: float | None = None
    high: float | None = None


def compared(name: str, record: Record, artifacts: Artifacts, stages: Mapping[str, str]) -> Compared:
    """An artifact with the settings of everything it was made from. `stages` by key are those that are known already."""
    settings: dict[str, Any] = {}
    _add_lineage(record, artifacts, dict(stages), settings, seen=set())
    return Compared(name=name, record=record, settings=settings)


def differing_settings(found: Sequence[Compared]) -> dict[str, list[Any]]:
    """By "stage.parameter", the value of each artifact, where they are not all the same; None where it has no such stage."""
    names = list(dict.fromkeys(name for each in found for name in each.settings))
    rows = {name: [each.settings.get(name, _default(name, each)) for each in found] for name in names}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values[1:])}


def verdict(metric: str, first: Compared, other: Compared) -> Verdict:
    """How the other's figure stands to the first's by the rule that `RULE` tells."""
    before, now = finite(first.metrics.get(metric)), finite(other.metrics.get(metric))
    direction = better(metric)
    if before is None or now is None or isinstance(first.metrics.get(metric), bool):
        return Verdict(word="")
    low = high = None
    if metric == "top1_accuracy" and (counts := _counts(first)) and (own := _counts(other)):
        low, high = difference_interval(own, counts)
        is_tie = low <= 0 <= high
    elif metric.startswith(_TIMED):
        is_tie = abs(now - before) <= NOISE * abs(before)
    else:
        is_tie = now == before
    if is_tie:
        return Verdict(word="tie", low=low, high=high)
    if direction is None:
        return Verdict(word="")
    return Verdict(word="better" if (now > before) == (direction == "maximize") else "worse", low=low, high=high)


def difference_interval(one: tuple[int, int], other: tuple[int, int]) -> tuple[float, float]:
    """95 % interval of the difference of two accuracies of (right, all), one minus other, each with its own images.

    With p, q the accuracies and (l, u), (m, v) their Wilson intervals: p - q - sqrt((p-l)^2 + (v-q)^2) to
    p - q + sqrt((u-p)^2 + (q-m)^2).

    Example:
        >>> [round(value, 4) for value in difference_interval((56, 70), (48, 80))]
        [0.0524, 0.3339]

    Source: Newcombe 1998, Statistics in Medicine 17, 873-890, method 10.
    """
    (low, high), (other_low, other_high) = wilson_interval(*one), wilson_interval(*other)
    p, q = one[0] / one[1], other[0] / other[1]
    return p - q - hypot(p - low, other_high - q), p - q + hypot(high - p, q - other_low)


def comparison_lines(found: Sequence[Compared], *, style: Style, width: int | None) -> list[str]:
    """Three tables: settings that differ, metrics with verdicts, cost."""
    letters = [chr(ord("A") + index) if index < 26 else str(index + 1) for index in range(len(found))]
    lines = [
        f"{style.paint(letter, 'bold')}  {each.record.key[:8]}  {each.record.stage}  {each.name}"
        for letter, each in zip(letters, found, strict=True)
    ]
    settings = differing_settings(found)
    if settings:
        rows = [[name, *(_cell(value, name) for value in values)] for name, values in settings.items()]
        lines += ["", *format_table([Column("SETTING"), *map(Column, letters)], rows, style=style, width=width)]
    else:
        lines += ["", "no setting differs, in them or in what they were made from"]
    rows = [_metric_row(name, found) for name in _metrics(found)]
    rows.append(["seconds to make", *_spread([format_seconds(each.record.seconds) for each in found])])
    columns = [Column("METRIC"), Column(letters[0], right=True)]
    for letter in letters[1:]:
        columns += [Column(letter, right=True), Column("")]
    lines += ["", *format_table(columns, rows, style=style, width=width)]
    return [*lines, f"against {letters[0]}: {RULE}"]


def comparison_document(found: Sequence[Compared]) -> dict[str, Any]:
    """The same as data, with every metric."""
    first = found[0]
    metrics = []
    for name in _metrics(found, shows_all=True):
        judged = [verdict(name, first, each) for each in found[1:]]
        metrics.append({
            "metric": name,
            "direction": better(name),
            "values": [each.metrics.get(name) for each in found],
            "intervals": [_interval(name, each) for each in found],
            "verdicts": [{"word": each.word, "difference_low": each.low, "difference_high": each.high} for each in judged],
        })  # fmt: skip
    return {
        "artifacts": [
            {
                "name": each.name, "key": each.record.key, "stage": each.record.stage, "seconds": each.record.seconds,
                "size_bytes": each.record.size_bytes,
            }
            for each in found
        ],
        "settings": [{"setting": name, "values": values} for name, values in differing_settings(found).items()],
        "metrics": metrics,
        "rule": RULE,
    }  # fmt: skip


def _add_lineage(
    record: Record, artifacts: Artifacts, stages: dict[str, str], settings: dict[str, Any], *, seen: set[str]
) -> None:
    """The settings of a record and of all above it; a stage that comes twice is numbered from the second on."""
    if record.key in seen:
        return
    seen.add(record.key)
    name, number = record.stage, 1
    while f"{name}{_PART}" in settings:
        number += 1
        name = f"{record.stage}#{number}"
    settings[f"{name}{_PART}"] = record.stage
    settings |= {f"{name}.{parameter}": value for parameter, value in record.identity.get("settings", {}).items()}
    if (seed := record.identity.get("seed")) is not None:
        settings[f"{name}.seed"] = seed
    for value in record.identity.get("inputs", {}).values():
        for key in [value] if isinstance(value, str) else value:
            stage = stages.get(key) or next((stage for stage, found in artifacts.keys_starting(key) if found == key), None)
            above = artifacts.find(stage, key) if stage is not None else None
            if above is not None:
                stages[key] = above.stage
                _add_lineage(above, artifacts, stages, settings, seen=seen)


def _default(name: str, compared: Compared) -> Any:
    """Keys leave a default out; what stands there then is looked up. None where the lineage has no such stage."""
    stage, _, parameter = name.rpartition(".")
    if f"{stage}{_PART}" not in compared.settings:
        return None
    spec = find_stage(stage.partition("#")[0])
    field = spec.settings.model_fields.get(parameter) if spec is not None else None
    return field.default if field is not None and not field.is_required() else None


def _metrics(found: Sequence[Compared], *, shows_all: bool = False) -> list[str]:
    names = dict.fromkeys(name for each in found for name in each.metrics)
    if shows_all:
        return list(names)
    shared = [name for name in names if sum(_is_shown(each.metrics.get(name)) for each in found) > 1]
    shown = [name for name in shared if name not in _PLUMBING]
    known = [name for name in shown if better(name) is not None]
    return sorted(known, key=lambda name: (name != "top1_accuracy", shown.index(name))) + [
        name for name in shown if better(name) is None and len({repr(each.metrics.get(name)) for each in found}) > 1
    ]


def _is_shown(value: Any) -> bool:
    return isinstance(value, (int, float, str)) and value != ""


def _metric_row(name: str, found: Sequence[Compared]) -> list[str]:
    row = [name, _with_interval(name, found[0])]
    for each in found[1:]:
        judged = verdict(name, found[0], each)
        text = judged.word
        if judged.low is not None and judged.high is not None:
            text += f" ({judged.low:+.3f} to {judged.high:+.3f})"
        row += [_with_interval(name, each), text]
    return row


def _spread(cells: Iterable[str]) -> list[str]:
    first, *others = cells
    return [first, *(cell for other in others for cell in (other, ""))]


def _with_interval(name: str, each: Compared) -> str:
    value = each.metrics.get(name)
    interval = _interval(name, each)
    text = shorten(format_figure(value), 24)
    return f"{text} ({interval[0]:.3f}-{interval[1]:.3f})" if interval is not None else text


def _interval(name: str, each: Compared) -> tuple[float, float] | None:
    counts = _counts(each)
    return wilson_interval(*counts) if name == "top1_accuracy" and counts is not None else None


def _counts(each: Compared) -> tuple[int, int] | None:
    right, total = each.metrics.get("num_correct"), each.metrics.get("num_test")
    return (right, total) if isinstance(right, int) and isinstance(total, int) and total > 0 else None


def _cell(value: Any, name: str) -> str:
    if name.endswith(_PART):
        return "no" if value is None else "yes"
    return "-" if value is None else shorten(format_value(value), 40)
