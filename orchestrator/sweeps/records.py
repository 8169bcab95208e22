"""Where a search is kept: the log of its trials while it runs, and its artifact when it has ended. Decides nothing."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from blake3 import blake3

from orchestrator.engine.provenance import environment_versions
from orchestrator.store.artifacts import Artifacts, Record, content_digest
from orchestrator.store.base import Store
from orchestrator.store.ledger import now_text
from orchestrator.store.processes import process_mark
from orchestrator.sweeps.history import write_history
from orchestrator.workflow.identity import KEY_LENGTH, encode
from orchestrator.workflow.settled import RESULT_FILE
from orchestrator.workflow.sweep_result import SWEEP_STAGE, SweepResult, TrialRecord

HISTORY_FILE = "trials.parquet"


def trial_id(record: TrialRecord) -> str:
    """The trial by what it is: its number, the keys of its nodes and its parent; the same in every run that tries it.

    The number counts since two members of a generation may do the very same. One that could not be planned has no keys: it is
    known by its values.
    """
    what = {"keys": dict(record.keys)} if record.keys else {"values": dict(record.values)}
    identity = {**what, "number": record.number, "parent": record.parent}
    return blake3(encode(identity)).hexdigest(length=KEY_LENGTH // 2)


class TrialLog:
    """The trials of one family, one small object each: `sweeps/<family>/<trial id>.json`.

    A trial that is done stands for ever. What was written of one that was stopped, failed or had only begun is replaced by
    whatever is written later. Nothing is flushed to disk: what a loss of power damages is passed over, and the nodes are there.
    """

    def __init__(self, store: Store, family: str) -> None:
        self.store = store
        self.folder = f"sweeps/{family}"

    def write(self, record: TrialRecord) -> TrialRecord:
        """Keep the record; returns the one that stands."""
        path = f"{self.folder}/{trial_id(record)}.json"
        data = json.dumps(_plain(record.to_data()), sort_keys=True, allow_nan=False).encode()
        while self.store.create(path, data, durable=False) is None:
            entry = self.store.read(path)
            if entry is None:
                continue
            standing = _decoded(entry.data)
            if standing is not None and standing.state == "done":
                return standing
            if self.store.replace(path, data, version=entry.version, durable=False) is not None:
                break
        return record

    def read_all(self) -> list[TrialRecord]:
        """Every sound record by number, then by id; damaged files are passed over, their trials are tried again."""
        return sorted(self._sound(), key=lambda record: (record.number, trial_id(record)))

    def _sound(self) -> Iterator[TrialRecord]:
        for name in list(self.store.list(self.folder)):
            entry = self.store.read(f"{self.folder}/{name}")
            record = _decoded(entry.data) if entry is not None else None
            if record is not None and name == f"{trial_id(record)}.json":
                yield record


def publish(
    artifacts: Artifacts,
    result: SweepResult,
    *,
    key: str,
    identity: Mapping[str, Any],
    label: str,
    run: str,
    seconds: float,
    provenance: Mapping[str, Any],
    stopping_metric: str = "",
    attempt: int = 1,
    replaces: str = "",
) -> Record:
    """Make the finished search an artifact of stage `sweep`: sweep.json and trials.parquet, then the record.

    Returns the record that stands: ours, or that of a process that was first. `replaces` is the `record_mark` of the one that
    was searched anew on purpose, or cannot be read.
    """
    name = f"attempts/{process_mark()}-{uuid.uuid4().hex[:8]}"
    folder = artifacts.store.workspace(name)
    try:
        (folder / RESULT_FILE).write_text(json.dumps(_plain(result.to_data()), allow_nan=False, indent=1))
        write_history(folder / HISTORY_FILE, result.trials, stopping_metric=stopping_metric)
        files = artifacts.take_files(folder)
    finally:
        artifacts.store.remove_workspace(name)
    metrics = _plain(summary(result))
    record = Record(
        key=key,
        stage=SWEEP_STAGE,
        kind=SWEEP_STAGE,
        identity=identity,
        files=files,
        metrics=metrics,
        measurements={"spent_s": round(result.spent_s, 4), "avoided_s": round(result.avoided_s, 4)},
        content_digest=content_digest(files, metrics),
        input_digests={},
        source_digest="",
        label=label,
        run=run,
        attempt=attempt,
        finished=now_text(),
        seconds=round(seconds, 4),
        provenance={**provenance, "versions": environment_versions()},
    )
    return artifacts.publish(record, replaces=replaces)


def summary(result: SweepResult) -> dict[str, Any]:
    """The metrics of a sweep's artifact: how many trials ended how, which is best, and its objectives."""
    states = [trial.state for trial in result.trials]
    best = next((trial for trial in result.trials if trial.number == result.best), None)
    objectives = {name: best.metrics.get(name) for name in result.objectives} if best is not None else {}
    return {
        "num_trials": len(states),
        **{f"num_{state}": states.count(state) for state in ("done", "stopped", "failed", "infeasible")},
        "best": result.best,
        **{name: value for name, value in objectives.items() if value is not None},
    }


def _decoded(data: bytes) -> TrialRecord | None:
    try:
        return TrialRecord.from_data(json.loads(data))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _plain(value: Any) -> Any:
    """As JSON that every reader takes: NaN and infinities as texts, which `float` reads again."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
