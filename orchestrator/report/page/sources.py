"""What a report is made of, each read once: the run, its sweeps, its events, the records of its nodes and their small files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from orchestrator.errors import IntegrityError, WorkflowError
from orchestrator.report.found_sweeps import FoundSweep, found_sweeps
from orchestrator.report.run_status import NodeStatus, RunStatus, read_run_status
from orchestrator.report.status_table import LIVE_STATES
from orchestrator.store.artifacts import Artifacts, Record
from orchestrator.store.base import Store
from orchestrator.store.blobs import verify_file
from orchestrator.store.ledger import Ledger
from orchestrator.workflow.check import CheckedWorkflow, check_workflow
from orchestrator.workflow.load import load_text
from orchestrator.workflow.trials import trial_label

MAX_FILE_BYTES = 4 * 2**20
"""Files of an artifact that a report reads are curves and tables; what is larger is none."""


@dataclass
class Sources:
    """One run in one store, at one moment (`now`, ISO 8601)."""

    store: Store
    status: RunStatus
    now: str
    _records: dict[str, Record | None] = field(default_factory=dict)

    @cached_property
    def artifacts(self) -> Artifacts:
        return Artifacts(self.store)

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.store)

    @cached_property
    def sweeps(self) -> list[FoundSweep]:
        return found_sweeps(self.status, self.artifacts)

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        return self.ledger.events(self.status.id)[0]

    @cached_property
    def checked(self) -> CheckedWorkflow | None:
        """What was asked for; None where the text was written for another version, or for stages that are not here."""
        request = self.status.request
        try:
            return check_workflow(
                load_text(request.get("text", ""), file=self.status.file, overrides=request.get("overrides", ()))
            )
        except WorkflowError:
            return None

    @property
    def is_live(self) -> bool:
        """Whether the run goes on."""
        return self.status.state in LIVE_STATES

    def record(self, stage: str, key: str) -> Record | None:
        """The artifact's record, if it is there."""
        if key not in self._records:
            self._records[key] = self.artifacts.find(stage, key)
        return self._records[key]

    def record_of_node(self, node: NodeStatus) -> Record | None:
        """The record of a node that has one by what the ledger says."""
        return self.record(node.stage, node.key) if node.state in ("hit", "done") else None

    def look_ahead(self, nodes: Iterable[NodeStatus]) -> None:
        """Ask for the records of all these nodes at once, where requests travel."""
        self.artifacts.look_ahead((node.stage, node.key) for node in nodes if node.key not in self._records)

    def record_of_key(self, key: str) -> Record | None:
        """The record of a key of whatever stage; of another run's too."""
        if key in self._records:
            return self._records[key]
        stage = self._stages.get(key)
        if stage is None:
            stage = next((stage for stage, found in self.artifacts.keys_starting(key) if found == key), None)
        return self.record(stage, key) if stage is not None else None

    def json_file(self, record: Record, name: str) -> Any:
        """The content of a small JSON file of an artifact, verified; None where there is none or it is damaged."""
        content = self.bytes_of_file(record, name)
        try:
            return None if content is None else json.loads(content)
        except (ValueError, RecursionError):
            return None

    def bytes_of_file(self, record: Record, name: str) -> bytes | None:
        """The content of a small file of an artifact, verified; None where there is none or it is damaged."""
        file = record.files.get(name)
        if file is None or file.size_bytes > MAX_FILE_BYTES:
            return None
        try:
            path = self.store.blob_path(file.digest)
            verify_file(path, digest=file.digest, size_bytes=file.size_bytes)
            return path.read_bytes()
        except (IntegrityError, OSError):
            return None

    @cached_property
    def _stages(self) -> Mapping[str, str]:
        of_trials = {
            key: found.parts[part]
            for found in self.sweeps
            for trial in found.trials
            for part, key in trial.keys.items()
            if part in found.parts
        }
        return {**of_trials, **{node.key: node.stage for node in self.status.nodes.values()}}

    def nodes_of_trial(self, found: FoundSweep, number: int) -> list[NodeStatus]:
        """The nodes of a trial as this run has them; those of one that an earlier run ended, from its keys."""
        trial = found.trial(number)
        prefix = trial_label(found.name, number)
        return [
            self.status.nodes.get(f"{prefix}/{part}")
            or NodeStatus(f"{prefix}/{part}", f"{found.name}.{part}", found.parts.get(part, ""), key, "hit", group=prefix)
            for part, key in found.keys_of(trial).items()
        ]


def read_sources(store: Store, run: str, *, now: str) -> Sources:
    """The sources of the run with this id."""
    return Sources(store=store, status=read_run_status(store, run), now=now)


def finite(value: Any) -> float | None:
    """A number that JSON and plots can hold; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if value - value == 0 else None


def plain(value: Any) -> Any:
    """As JSON that every reader takes: what is not finite becomes null, what is no JSON becomes text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (Sequence, set, frozenset)):
        return [plain(item) for item in value]
    return str(value)
