"""One artifact's record, or what a run was asked, in full for reading: settings, inputs, metrics, files, provenance."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from orchestrator.report.found_sweeps import FoundSweep
from orchestrator.report.run_status import RunStatus
from orchestrator.report.sweep_table import sweep_lines
from orchestrator.report.text import Style, format_bytes, format_seconds, format_time, format_value
from orchestrator.store.artifacts import Record

_INDENT = "   "


def record_lines(record: Record, *, style: Style, width: int | None, found: FoundSweep | None = None) -> list[str]:
    """What `show KEY` prints. `found` is what a sweep's artifact holds: shown in place of what only a program reads."""
    took = format_seconds(record.seconds)
    lines = [
        f"artifact {style.paint(record.key, 'bold')}",
        f"{_INDENT}{record.kind}, made by stage {record.stage} as node {record.label}",
        f"{_INDENT}finished {format_time(record.finished)} UTC in {took}, run {record.run}, attempt {record.attempt}",
    ]
    if found is not None:
        took = f"{_INDENT}settled {format_time(record.finished)} UTC by run {record.run}"
        lines = [f"artifact {style.paint(record.key, 'bold')}", took]
        lines += [
            *sweep_lines(found, style=style, width=width, more=f"orchestrator sweep show {record.run} {found.name} --all")
        ]
        lines += _section("made with", _flat(record.provenance), style=style, width=width)
        return [*lines, f"next: orchestrator artifacts get {record.key[:8]} ./out    (sweep.json, trials.parquet)"]
    identity = record.identity
    known = {"settings", "inputs"}
    lines += _section("settings", identity.get("settings", {}), empty="all defaults", style=style, width=width)
    lines += _section("inputs", identity.get("inputs", {}), style=style, width=width)
    lines += _section(
        "identity", {name: value for name, value in identity.items() if name not in known}, style=style, width=width
    )
    lines += _section("metrics", record.metrics, style=style, width=width)
    lines += _section("measurements", record.measurements, style=style, width=width)
    sizes = {name: f"{format_bytes(file.size_bytes)}  {file.digest[:12]}" for name, file in record.files.items()}
    lines += _section(f"files ({format_bytes(record.size_bytes)})", sizes, style=style, width=width)
    lines += _section("made with", _flat(record.provenance), style=style, width=width)
    lines.append(f"next: orchestrator artifacts get {record.key[:8]} ./out")
    return lines


def record_document(record: Record) -> dict[str, Any]:
    """The same as data: the record itself."""
    return {"artifact": {**asdict(record), "size_bytes": record.size_bytes}}


def run_lines(status: RunStatus, *, style: Style, width: int | None) -> list[str]:
    """What a run was asked to do, above the table of its nodes."""
    request = status.request
    asked = {
        "file": status.file,
        "command": shlex.join(str(word) for word in request.get("command", ())),
        "overrides": ", ".join(request.get("overrides", ())),
        "executor": request.get("executor", ""),
        "tags": ", ".join(f"{name}={value}" for name, value in (request.get("tags") or {}).items()),
    }
    return _section("asked", {name: value for name, value in asked.items() if value}, style=style, width=width)


def _section(title: str, values: Mapping[str, Any], *, style: Style, width: int | None, empty: str = "") -> list[str]:
    if not values and not empty:
        return []
    name_width = max((len(name) for name in values), default=0)
    rows = []
    for name, value in values.items():
        first, *more = _in_lines(format_value(value), width=width, indent=len(_INDENT) + name_width + 2)
        rows += [f"{_INDENT}{name:<{name_width}}  {first}", *(" " * (len(_INDENT) + name_width + 2) + line for line in more)]
    return [style.paint(title, "bold"), *(rows or [f"{_INDENT}{empty}"])]


def _in_lines(text: str, *, width: int | None, indent: int) -> list[str]:
    """Keys and commands are there to be copied, so that words are never broken."""
    if width is None or len(text) + indent <= width:
        return [text]
    return textwrap.wrap(text, max(20, width - indent), break_long_words=False, break_on_hyphens=False) or [""]


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Versions as one line, a command as it was typed."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat[name] = ", ".join(f"{part} {version}" for part, version in value.items())
        elif isinstance(value, (list, tuple)):
            flat[name] = shlex.join(str(word) for word in value)
        elif value not in ("", None):
            flat[name] = value
    return flat
