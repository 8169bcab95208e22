"""What `doctor --bundle` puts into a zip for whoever is asked for help: versions, settings, checks, the ends of logs.

Values of secret variables of the environment, and what stands behind a secret's name in any text, are replaced before anything
is written. No artifact and no data are in it.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from orchestrator.api import Workspace
from orchestrator.cli.files import write_file
from orchestrator.engine.provenance import command_provenance, environment_versions
from orchestrator.errors import OrchestratorError
from orchestrator.report.run_status import RunStatus, read_run_status

MOST_RUNS = 5
MOST_TRACES = 3
LAST_EVENTS = 200
LAST_LINES = 100
HIDDEN = "***"
_SECRET_VARIABLE = re.compile(r"(?i)secret|token|passw|credential|key|auth")
_NAMED_SECRET = re.compile(
    r"(?i)(\w*(?:secret|passw(?:or)?d|credentials?|api_?key|access_?key|[a-z]_token|bearer)\b"
    r"""["']?\s*[=: ]\s*["']?)[^\s"',}]+"""
)
_ADDRESS_WITH_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")
_SHORTEST_SECRET = 6


def write_bundle(
    path: str, workspace: Workspace, *, checks: Sequence[Mapping[str, Any]], settings: Sequence[Mapping[str, str]]
) -> list[str]:
    """Write the zip and return the names in it; UsageError where it cannot be written."""
    hide = Hider(os.environ)
    data = BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, text in _entries(workspace, checks, settings):
            bundle.writestr(name, hide(text))
        names = bundle.namelist()
    write_file(path, data.getvalue())
    return names


class Hider:
    """Replaces secrets in a text: values of variables that are called like one, and what follows such a name and `=` or `:`."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        values = {value for name, value in environment.items() if _SECRET_VARIABLE.search(name)}
        self._values = sorted((value for value in values if len(value) >= _SHORTEST_SECRET), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for value in self._values:
            text = text.replace(value, HIDDEN).replace(json.dumps(value)[1:-1], HIDDEN)
        text = _ADDRESS_WITH_PASSWORD.sub(rf"\g<1>{HIDDEN}@", text)
        return _NAMED_SECRET.sub(rf"\g<1>{HIDDEN}", text)


def _entries(
    workspace: Workspace, checks: Sequence[Mapping[str, Any]], settings: Sequence[Mapping[str, str]]
) -> Iterator[tuple[str, str]]:
    yield "versions.json", _json({"versions": environment_versions(), **command_provenance()})
    yield "packages.txt", "".join(f"{line}\n" for line in _packages())
    yield "settings.json", _json({"settings": list(settings)})
    yield "checks.json", _json({"checks": list(checks)})
    for file in _traces():
        yield f"traces/{file.name}", file.read_text(encoding="utf-8", errors="replace")
    try:
        for request in workspace.ledger.runs()[:MOST_RUNS]:
            yield from _run_entries(workspace, read_run_status(workspace.store, request.id))
    except OrchestratorError as error:
        yield "runs/unreadable.txt", f"{error.message}\n"


def _run_entries(workspace: Workspace, status: RunStatus) -> Iterator[tuple[str, str]]:
    """A run: what was asked for, its last events, and the end of what each node printed that did not end well."""
    ledger = workspace.ledger
    yield f"runs/{status.id}/run.json", _json({"state": status.state, "error": status.error, **status.request})
    events = ledger.events(status.id)[0][-LAST_EVENTS:]
    yield f"runs/{status.id}/events.jsonl", "".join(f"{json.dumps(event)}\n" for event in events)
    for node in status.nodes.values():
        if node.state in ("hit", "done", "planned", "skipped", "blocked"):
            continue
        for attempt in ledger.log_attempts(status.id, node.folder)[-1:]:
            lines = ledger.read_log(status.id, node.folder, attempt).decode("utf-8", "replace").splitlines()[-LAST_LINES:]
            yield f"runs/{status.id}/{node.folder}/attempt-{attempt}.log", "".join(f"{line}\n" for line in lines)


def _packages() -> list[str]:
    from importlib import metadata

    return sorted({f"{each.metadata['Name']}=={each.version}" for each in metadata.distributions()}, key=str.lower)


def _traces() -> list[Path]:
    """The newest traces of internal errors that this user's calls have left."""
    files = [file for file in Path(tempfile.gettempdir()).glob("orchestrator-error-*.txt") if file.stat().st_uid == os.getuid()]
    return sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)[:MOST_TRACES]


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, default=str) + "\n"
