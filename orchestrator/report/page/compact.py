"""What the scripts of the page need of a report's document, in little room: columns and rows in place of named fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.report.page.sources import finite
from orchestrator.report.text import format_value, short_names, state_word
from orchestrator.workflow.trials import trial_name

MAX_METRICS = 24
"""Metric columns of the trials table beside objectives and those that are drawn; JSON and CSV have all."""

MAX_NOTE = 300


def page_data(document: Mapping[str, Any]) -> dict[str, Any]:
    """The data that the page embeds."""
    methods = document["methods"]
    return {
        "sweeps": [sweep_table(sweep) for sweep in document["sweeps"]],
        "results": document["results"]["plot"],
        "timeline": _timeline(document["timeline"]),
        "curves": [{**curve, "series": [_rounded_series(each) for each in curve["series"]]} for curve in methods["curves"]],
        "tokens": methods["tokens"],
        "images": methods["images"],
        "layers": [{**each, "layers": [_layer(row) for row in each["layers"]]} for each in methods["layers"]],
        "nodes": {node["node"]: node for node in document["graph"]["nodes"]},
    }


def sweep_table(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """The trials of one sweep as columns and rows.

    A row begins with number, status word, mark, kind in the plots (empty: not measured), key of the file, note and reports; the
    cells of the columns follow, numbers as numbers.
    """
    trials: Sequence[Mapping[str, Any]] = sweep["trials"]
    plot = sweep["plot"]
    objectives = list(sweep["objectives"])
    drawn = [name for name in (plot["axes"] if plot else {}) if name not in objectives]
    values = list(dict.fromkeys([*sweep["space"], *(name for trial in trials for name in trial["values"])]))
    values = [name for name in values if any(name in trial["values"] for trial in trials)]
    others = _varied_metrics(trials, besides={*objectives, *drawn})
    short = short_names([*objectives, *drawn, *values, *others])
    kinds = {"objective": objectives, "drawn": drawn, "value": values, "metric": others}
    columns = [
        {
            "id": name,
            "title": short[name],
            "kind": kind,
            "direction": sweep["objectives"].get(name, ""),
            "numeric": all(
                finite(_cell(trial, name, kind)) is not None for trial in trials if _cell(trial, name, kind) is not None
            ),
        }
        for kind, names in kinds.items()
        for name in names
    ]
    rows = [
        [
            trial["trial"],
            state_word(trial["state"]),
            trial["mark"],
            plot["kinds"].get(str(trial["trial"]), "") if plot else "",
            sweep["file_keys"].get(str(trial["trial"]), ""),
            _note(trial),
            trial.get("reports"),
            *(_shown(_cell(trial, column["id"], column["kind"]), numeric=column["numeric"]) for column in columns),
        ]
        for trial in trials
    ]
    return {
        "name": sweep["sweep"],
        "columns": columns,
        "rows": rows,
        "plot": {name: plot[name] for name in ("y", "axes", "panels")} if plot else None,
        "has_reports": any("reports" in trial for trial in trials),
    }


def _cell(trial: Mapping[str, Any], name: str, kind: str) -> Any:
    return trial["values" if kind == "value" else "metrics"].get(name)


def _shown(value: Any, *, numeric: bool) -> Any:
    return _rounded(value) if numeric or value is None else format_value(value)


def _varied_metrics(trials: Sequence[Mapping[str, Any]], *, besides: set[str]) -> list[str]:
    """Numbers that are not the same in all trials, in the order in which they were reported."""
    seen: dict[str, set[float]] = {}
    for trial in trials:
        for name, value in trial["metrics"].items():
            number = finite(value)
            if name not in besides and number is not None and len(seen.setdefault(name, set())) < 2:
                seen[name].add(number)
    return [name for name, found in seen.items() if len(found) > 1][:MAX_METRICS]


def _note(trial: Mapping[str, Any]) -> str:
    parts = [] if trial["parent"] is None else [f"from {trial_name(trial['parent'])}"]
    parts += trial["violated"]
    if trial["error"].strip():
        parts.append(trial["error"].strip().splitlines()[0])
    return "; ".join(parts)[:MAX_NOTE]


def _layer(row: Mapping[str, Any]) -> list[Any]:
    return [row["name"], _rounded(row["density"]), row["weight_bits"], row["num_weights"]]


def _is_numeric(cells: Sequence[Any]) -> bool:
    """Whether all that is there are numbers."""
    return all(finite(cell) is not None for cell in cells if cell is not None)


def _timeline(lanes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    labels = list(dict.fromkeys(attempt["node"] for lane in lanes for attempt in lane["attempts"]))
    place = {label: index for index, label in enumerate(labels)}
    return {
        "workers": [lane["worker"] for lane in lanes],
        "nodes": labels,
        "attempts": [
            [
                index,
                place[attempt["node"]],
                attempt["attempt"],
                round(attempt["began_s"], 3),
                round(attempt["ended_s"], 3),
                attempt["state"],
            ]
            for index, lane in enumerate(lanes)
            for attempt in lane["attempts"]
        ],
    }


def _rounded_series(series: Mapping[str, Any]) -> dict[str, Any]:
    return {**series, "points": [[_rounded(x), _rounded(y)] for x, y in series["points"]]}


def _rounded(value: Any) -> Any:
    """Six significant digits: more than can be read off a plot, in half the room."""
    number = finite(value)
    return value if number is None or isinstance(value, int) else float(f"{number:.6g}")
