"""What a store holds, read once and kept small: an artifact's files, inputs, age and cost. Decides nothing, changes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import StoreError
from orchestrator.store.artifacts import Artifacts
from orchestrator.store.base import Blob, Store
from orchestrator.store.record_file import FORMAT, BadRecord, Record, decode_record

_KEY = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class Held:
    """One artifact. `files` are the sizes of its blobs by digest; `mentions` all keys in its identity: its inputs, at least.

    `version` is that of the record as it was read.
    """

    key: str
    stage: str
    label: str
    run: str
    finished: str
    seconds: float
    files: Mapping[str, int]
    mentions: frozenset[str]
    version: str

    @property
    def size_bytes(self) -> int:
        """Bytes of all its blobs."""
        return sum(self.files.values())


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """A record in `quarantine/`, and the blobs that it names."""

    path: str
    version: str
    files: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """All sound records by key, all that was set aside, all blobs by digest."""

    artifacts: Mapping[str, Held]
    set_aside: tuple[SetAside, ...]
    blobs: Mapping[str, Blob]

    def with_inputs(self, keys: Iterable[str]) -> set[str]:
        """These keys and all that they were made from, as far as it is in the store; other keys are left out."""
        found: set[str] = set()
        waiting = [key for key in keys if key in self.artifacts]
        while waiting:
            key = waiting.pop()
            if key not in found:
                found.add(key)
                waiting += [each for each in self.artifacts[key].mentions if each in self.artifacts]
        return found


def take_inventory(store: Store) -> Inventory:
    """Read all records and list all blobs. StoreError where a record is of a format that only a later version knows."""
    artifacts = {held.key: held for held in _held(store)}
    return Inventory(
        artifacts=artifacts,
        set_aside=tuple(_set_aside(store)),
        blobs={blob.digest: blob for blob in store.blobs()},
    )


def named_digests(store: Store) -> set[str]:
    """Digests that the records of this moment name, those set aside among them."""
    held = {digest for each in _held(store) for digest in each.files}
    return held | {digest for each in _set_aside(store) for digest in each.files}


def _held(store: Store) -> Iterator[Held]:
    for stage, key, entry in Artifacts(store).scan():
        try:
            record = decode_record(entry.data, stage=stage, key=key)
        except BadRecord as error:
            if error.found_format not in (None, FORMAT):
                raise StoreError(
                    f"the record of artifact {key[:8]} of {stage} cannot be read: {error}; nothing was removed",
                    next_step="use the version that wrote it, or: orchestrator artifacts verify --all",
                ) from error
            continue
        yield _slim(record, entry.version)


def _slim(record: Record, version: str) -> Held:
    return Held(
        key=record.key,
        stage=record.stage,
        label=record.label,
        run=record.run,
        finished=record.finished,
        seconds=record.seconds,
        files={file.digest: file.size_bytes for file in record.files.values()},
        mentions=frozenset(_keys_in(record.identity)) - {record.key},
        version=version,
    )


def _keys_in(value: Any) -> Iterator[str]:
    """Every text that has the form of a key, wherever it stands: inputs, and what a sweep's nodes and constraints refer to."""
    if isinstance(value, str):
        if _KEY.fullmatch(value):
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _keys_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _keys_in(item)


def _set_aside(store: Store) -> Iterator[SetAside]:
    for stage in list(store.list("quarantine")):
        for key in list(store.list(f"quarantine/{stage}")):
            for name in list(store.list(f"quarantine/{stage}/{key}")):
                path = f"quarantine/{stage}/{key}/{name}"
                entry = store.read(path)
                if entry is not None:
                    yield SetAside(path=path, version=entry.version, files=_files_of(entry.data))


def _files_of(data: bytes) -> dict[str, int]:
    """What a record names that may be damaged in other places."""
    try:
        files = json.loads(data)["files"]
        return {entry["digest"]: int(entry["size_bytes"]) for entry in files.values()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
