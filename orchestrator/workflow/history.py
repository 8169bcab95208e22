"""How long stages took and what they held of a GPU, run by run: small objects beside the records, so that a plan can be priced
without reading every artifact.

    history/<stage>/<time>-<run>.json     at most 200 timings of one run, drawn evenly where it made more

A plan reads the newest fifty of a stage. Nothing rests on them: what is lost or damaged is one figure less.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.errors import StoreError
from orchestrator.store.artifacts import Artifacts, Record, record_path
from orchestrator.store.base import Store
from orchestrator.workflow.explain import flat_identity
from orchestrator.workflow.plan import PlanNode
from stages.contract import StageSpec

FORMAT = 1
MAX_PER_RUN = 200
MAX_READ = 50
MAX_KEPT = 200
"""Of older runs the timings are removed by the next run that writes some."""

MAX_RECORDS = 100
"""So many records of a stage are looked at where it has no history: made by an earlier version, or elsewhere."""

EFFORT = ("epochs",)
"""Settings with which the seconds of a stage grow, about in proportion."""

SUBJECT = ("model", "data")
"""Of what is trained or measured: a stage inherits it from those before it, as it gets their model."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One attempt that was made. `seconds` 0.0: it came to nothing, and tells of memory only.

    Attributes:
        settings: those that differ from their defaults, flat, as the artifact's identity has them.
        effort: those of EFFORT, defaults too.
        subject: model and data that it worked on, as far as known.
        cpus, gpus: what each of the `workers` asked for.
        peak_gpu_bytes: what it held of a GPU that has `gpu_bytes`; 0 where it had none.
    """

    settings: Mapping[str, Any]
    effort: Mapping[str, float] = field(default_factory=dict)
    subject: Mapping[str, str] = field(default_factory=dict)
    cpus: float = 1.0
    gpus: float = 0.0
    workers: int = 1
    seconds: float = 0.0
    peak_gpu_bytes: int = 0
    gpu_bytes: int = 0


class Subjects:
    """On which model and data each node works: what it names itself, else what those before it do."""

    def __init__(self) -> None:
        self._by_key: dict[str, dict[str, str]] = {}

    def of(self, node: PlanNode, nodes: Mapping[str, PlanNode]) -> Mapping[str, str]:
        """`nodes` has its parents by label, as far as they are known. A loop, since chains may be thousands long."""
        waiting = [node]
        while waiting:
            at = waiting[-1]
            parents = [nodes[label] for label in at.parents if label in nodes]
            unknown = [parent for parent in parents if parent.key not in self._by_key and parent.key != at.key]
            if unknown:
                waiting += unknown
                continue
            waiting.pop()
            found: dict[str, str] = {}
            for parent in reversed(parents):
                found |= self._by_key.get(parent.key, {})
            self._by_key[at.key] = found | subject_named(at.identity)
        return self._by_key[node.key]


def subject_named(identity: Mapping[str, Any]) -> dict[str, str]:
    """The model and the data that an identity names itself."""
    settings = identity.get("settings")
    model = settings.get("model") if isinstance(settings, Mapping) else None
    named = {"model": model, "data": identity.get("data")}
    return {name: value for name in SUBJECT if isinstance(value := named[name], str)}


def effort_of(settings: Any) -> dict[str, float]:
    """The settings by which the seconds of a stage grow, from its settings object."""
    found = {name: getattr(settings, name, None) for name in EFFORT}
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def flat_settings(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an identity by dotted name."""
    settings = identity.get("settings")
    return flat_identity(settings) if isinstance(settings, Mapping) and settings else {}


class History:
    """The timings of one store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def read(self, spec: StageSpec) -> list[Timing]:
        """Timings of a stage, the newest runs' last; where there are none, those of a bounded number of its records."""
        names = sorted(self.store.list(f"history/{spec.name}"))[-MAX_READ:]
        paths = [f"history/{spec.name}/{name}" for name in names]
        entries = self.store.read_many(paths)
        found = [timing for path in paths if path in entries for timing in _decode(entries[path].data)]
        return found or [timing_of_record(record, spec) for record in self._some_records(spec.name)]

    def _some_records(self, stage: str) -> Iterable[Record]:
        keys = sorted(self.store.list(f"artifacts/{stage}"))[:MAX_RECORDS]
        artifacts = Artifacts(self.store)
        entries = self.store.read_many(record_path(stage, key) for key in keys)
        return artifacts.decoded(stage, entries)

    def write(self, run: str, stage: str, timings: Iterable[Timing], *, began: str) -> None:
        """Put a run's timings of a stage in place of those that it wrote before."""
        moment = "".join(letter for letter in began if letter.isdigit())[:14]
        path = f"history/{stage}/{moment}-{run}.json"
        data = json.dumps({"format": FORMAT, "timings": [_encode(timing) for timing in timings]}).encode()
        while self.store.create(path, data, durable=False) is None:
            entry = self.store.read(path)
            if entry is not None and self.store.replace(path, data, version=entry.version, durable=False) is not None:
                return
        for old in sorted(self.store.list(f"history/{stage}"))[:-MAX_KEPT]:
            self.store.delete(f"history/{stage}/{old}")


class HistoryWriter:
    """Collects what a run makes, and writes it now and then: a run that is killed leaves what it had until shortly before."""

    def __init__(self, store: Store, *, run: str, began: str) -> None:
        self._history = History(store)
        self._run = run
        self._began = began
        self._timings: dict[str, list[Timing]] = {}
        self._seen: Counter[str] = Counter()
        self._unwritten: set[str] = set()
        self._subjects = Subjects()
        self._chance = random.Random(run)  # noqa: S311 - an even draw, nothing is hidden

    def attempt_ended(
        self, node: PlanNode, nodes: Mapping[str, PlanNode], *, seconds: float, peak_gpu_bytes: int = 0, gpu_bytes: int = 0
    ) -> Timing:
        """Note an attempt that this run made (not a hit); `seconds` 0.0 where it came to nothing. Returns what was noted."""
        resources = node.asked.resources
        timing = Timing(
            settings=flat_settings(node.identity),
            effort=effort_of(node.settings),
            subject=self._subjects.of(node, nodes),
            cpus=resources.cpus,
            gpus=resources.gpus,
            workers=resources.workers,
            seconds=seconds,
            peak_gpu_bytes=peak_gpu_bytes,
            gpu_bytes=gpu_bytes,
        )
        stage = node.spec.name
        self._seen[stage] += 1
        kept = self._timings.setdefault(stage, [])
        if len(kept) < MAX_PER_RUN:
            kept.append(timing)
        elif (place := self._chance.randrange(self._seen[stage])) < MAX_PER_RUN:
            kept[place] = timing
        else:
            return timing
        self._unwritten.add(stage)
        return timing

    def flush(self) -> None:
        """Write what is new. Quiet where the store cannot: nothing rests on it."""
        with suppress(StoreError, OSError):
            for stage in sorted(self._unwritten):
                self._history.write(self._run, stage, self._timings[stage], began=self._began)
                self._unwritten.discard(stage)


def timing_of_record(record: Record, spec: StageSpec) -> Timing:
    """What a record alone tells: its own settings, not on what it worked where others named that."""
    settings = flat_settings(record.identity)
    effort = {}
    for name in EFFORT:
        known = spec.settings.model_fields.get(name)
        value = settings.get(name, known.default if known is not None else None)
        if isinstance(value, int | float):
            effort[name] = float(value)
    workers = record.identity.get("workers", 1)
    return Timing(
        settings=settings, effort=effort, subject=subject_named(record.identity), workers=workers, seconds=record.seconds
    )


def _encode(timing: Timing) -> dict[str, Any]:
    """Without what is as for any one process: releases that know no `workers` leave out whole files with them."""
    return {name: value for name, value in asdict(timing).items() if (name, value) != ("workers", 1)}


def _decode(data: bytes) -> list[Timing]:
    try:
        content = json.loads(data)
        found = [Timing(**timing) for timing in content["timings"]] if content["format"] == FORMAT else []
        return [timing for timing in found if isinstance(timing.seconds, int | float) and isinstance(timing.settings, dict)]
    except (ValueError, TypeError, KeyError):
        return []
