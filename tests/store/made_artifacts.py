"""Small artifacts in a local store, of any age, and a look at whether the store holds what its records name."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping

from orchestrator.store.artifacts import Artifacts, Record, content_digest
from orchestrator.store.local import LocalStore

OLD = "2026-01-01T00:00:00.000Z"
NOW = "2026-06-01T00:00:00.000Z"
DAY_S = 86_400.0


def make(
    artifacts: Artifacts,
    key: str,
    contents: Mapping[str, bytes],
    *,
    inputs: Iterable[str] = (),
    finished: str = OLD,
    seconds: float = 1.0,
    stage: str = "probe.echo",
    age_days: float = 10,
) -> Record:
    """Publish an artifact with these files, made long ago."""
    record = taken(artifacts, key, contents, inputs=inputs, finished=finished, seconds=seconds, stage=stage)
    for file in record.files.values():
        make_older(artifacts.store, file.digest, days=age_days)
    return artifacts.publish(record)


def taken(
    artifacts: Artifacts,
    key: str,
    contents: Mapping[str, bytes],
    *,
    inputs: Iterable[str] = (),
    finished: str = OLD,
    seconds: float = 1.0,
    stage: str = "probe.echo",
) -> Record:
    """Everything but publishing: the files are in the store, and the record is not."""
    folder = artifacts.store.workspace(f"out-{key}")
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    files = artifacts.take_files(folder)
    return Record(
        key=key, stage=stage, kind="probe", identity={"stage": stage, "inputs": {"inputs": list(inputs)}}, files=files,
        metrics={}, measurements={}, content_digest=content_digest(files, {}), input_digests={}, source_digest="", label="n",
        run="r", attempt=1, finished=finished, seconds=seconds,
    )  # fmt: skip


def make_older(store: object, digest: str, *, days: float) -> None:
    """As if the blob had been put so long ago."""
    assert isinstance(store, LocalStore)
    then = time.time() - days * DAY_S
    os.utime(store.blob_path(digest), (then, then))


def key_of(number: int) -> str:
    """A key, told from others by its number."""
    return f"{number:08x}" + "0" * 24


def hits(artifacts: Artifacts) -> set[str]:
    """Keys of the artifacts that are whole; asserts that no record names a blob that is not there."""
    found = set()
    for record in artifacts.all_records():
        assert artifacts.find(record.stage, record.key) == record, f"{record.key} names a blob that is gone"
        artifacts.open(record)
        found.add(record.key)
    return found
