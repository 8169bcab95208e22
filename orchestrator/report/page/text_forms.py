"""The report as Markdown and as CSV: the same document, for reviews, wikis and spreadsheets."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.report.page.sources import Sources
from orchestrator.report.sweep_table import ordered
from orchestrator.report.text import format_bytes, format_seconds, format_time, format_value, printable
from orchestrator.report.trial_export import csv_text

MAX_ROWS = 20
"""Trials that Markdown shows of a sweep."""


def markdown(document: Mapping[str, Any], *, program: str = "orchestrator") -> str:
    """The report as Markdown. What the program prints stands in blocks as it is printed."""

    def command(text: str) -> str:
        return f"`{text.replace('orchestrator ', f'{program} ', 1)}`"

    run, cost = document["run"], document["cost"]
    lines = [
        f"# {plain_text(run['workflow'])}: run {run['id']}",
        "",
        f"{plain_text(run['headline'])}. As of {format_time(document['as_of'])} UTC.",
    ]
    lines += ["", "## Verdict", ""]
    for best in document["verdict"]["sweeps"]:
        lines += [*_block(best["lines"]), ""]
        if best["best"]:
            lines += [f"Files of the best: {command(best['best']['next'])}", ""]
    files = document["verdict"]["files"]
    lines += table(
        ("node", "kind", "size", "key", "command"),
        [
            (each["label"], each["kind"], format_bytes(each["size_bytes"]), each["key"][:8], command(each["command"]))
            for each in files
        ],
    )
    if document["results"]["lines"]:
        lines += ["", "## Figures", "", *_block(document["results"]["lines"])]
    for sweep in document["sweeps"]:
        lines += [
            "",
            f"## Trials of {plain_text(sweep['sweep'])}",
            "",
            f"{plain_text(sweep['headline'])}.",
            "",
            *_trials(sweep),
        ]
    lines += ["", "## Nodes", ""]
    lines += table(
        ("status", "node", "stage", "key", "time", "note"),
        [
            (
                node["word"],
                node["label"],
                node["stage"],
                node["key"][:8],
                format_seconds(node["seconds"]) if node["state"] == "done" else "-",
                node["note"],
            )
            for node in document["nodes"]
        ],
    )
    names = ("spent_s", "avoided_by_hits_s", "avoided_by_sharing_s", "wasted_s")
    lines += ["", "## Cost", ""]
    lines += [f"- {name.removesuffix('_s').replace('_', ' ')}: {format_seconds(cost[name])}" for name in names]
    lines += [f"- sweep {plain_text(each['sweep'])}: {each['text']}" for each in cost["sweeps"]]
    lines += _failures(document["failures"], command)
    lines += ["", "## Lineage", ""]
    lines += table(
        ("artifact", "stage", "key", "from", "settings"),
        [
            (
                each["label"],
                each["stage"],
                each["key"][:8],
                ", ".join(f"{value['port']} {value['key'][:8]}" for value in each["inputs"]),
                ", ".join(f"{name} {format_value(value)}" for name, value in each["settings"].items()) or "all defaults",
            )
            for each in document["lineage"]
        ],
    )
    again = document["reproduce"]
    lines += ["", "## How to reproduce", ""]
    lines += [f"- commit {commit}{' and changes beside it' if again['is_dirty'] else ''}" for commit in again["commits"]]
    lines += [f"- {command(again['command'])}", "", *fenced(again["text"].rstrip("\n").splitlines(), "yaml")]
    return "\n".join(lines) + "\n"


def csv_form(sources: Sources, document: Mapping[str, Any]) -> str:
    """A row for each trial of the run's sweeps, as `sweep show --csv` writes them; without a sweep, for each node."""
    rows = [(found, trial) for found in sources.sweeps for trial in ordered(found)]
    if rows:
        return csv_text(rows)
    records = {node.label: sources.record_of_node(node) for node in sources.status.nodes.values()}
    values = {label: {**record.metrics, **record.measurements} for label, record in records.items() if record is not None}
    metrics = list(dict.fromkeys(name for each in values.values() for name in each))
    fixed = ("label", "node", "stage", "key", "state", "attempt", "seconds", "size_bytes", "note")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["run", *fixed, *metrics])
    for node in document["nodes"]:
        cells = [values.get(node["label"], {}).get(name) for name in metrics]
        writer.writerow([document["run"]["id"], *(node[name] for name in fixed), *map(_cell, cells)])
    return file.getvalue()


def _cell(value: Any) -> Any:
    return "" if value is None else value if isinstance(value, (int, float, str)) else json.dumps(value, sort_keys=True)


def _trials(sweep: Mapping[str, Any]) -> list[str]:
    trials = sweep["trials"]
    objectives, values = list(sweep["objectives"]), list(dict.fromkeys(name for trial in trials for name in trial["values"]))
    rows = [
        (
            trial["label"],
            trial["state"],
            trial["mark"],
            *(format_value(trial["objectives"].get(name)) for name in objectives),
            *(format_value(trial["values"][name]) if name in trial["values"] else "-" for name in values),
        )
        for trial in trials[:MAX_ROWS]
    ]
    lines = table(("trial", "state", "mark", *objectives, *values), rows)
    return [*lines, "", f"and {len(trials) - MAX_ROWS} more."] if len(trials) > MAX_ROWS else lines


def _failures(failures: Mapping[str, Any], command: Any) -> list[str]:
    if not (failures["attempts"] or failures["sweeps"] or failures["run_error"]):
        return []
    lines = ["", "## Failures", ""]
    lines += [f"- the run: {plain_text(failures['run_error'])}"] if failures["run_error"] else []
    lines += [
        f"- sweep {plain_text(each['sweep'])} {each['state']}: {plain_text(each['error'])}" for each in failures["sweeps"]
    ]
    for each in failures["attempts"]:
        error = (each["error"].strip().splitlines() or [""])[0]
        lines += [
            "",
            f"### {plain_text(each['label'])}, attempt {each['attempt']}",
            "",
            plain_text(f"{each['error_type']}: {error}"),
            "",
        ]
        lines += [*_block(each["log"]), ""] if each["log"] else []
        lines += [command(each["command"])] if each["command"] else []
    return lines


def table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    found = [f"| {' | '.join(plain_text(str(cell)) for cell in row)} |" for row in rows]
    return [f"| {' | '.join(map(plain_text, titles))} |", f"|{'---|' * len(titles)}", *found] if found else []


def plain_text(text: str) -> str:
    """Text that Markdown leaves as it is: no tags, no table columns, one line; code in backticks stays."""
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _block(lines: Sequence[str]) -> list[str]:
    return fenced([printable(line) for line in lines], "text")


def fenced(lines: Sequence[str], language: str) -> list[str]:
    """A block of code whose fence is longer than any in it."""
    ticks = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, ticks + 1)
    return [f"{fence}{language}", *lines, fence]
