"""Artifact records: the only place where a path inside the store's `artifacts/` is spelled.

`artifacts/<stage>/<key>/record.json` is the finished mark. It is created last, by its first writer only; whoever sees it can
read every blob that it names. A record that cannot be read, or whose blobs are gone, is no hit: it is set aside under
`quarantine/` by the next process that makes the artifact.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import IntegrityError, StageFailed
from orchestrator.store.base import Store
from orchestrator.store.blobs import digest_bytes, digest_file, verify_file
from stages.contract import Artifact

FORMAT = 1
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of an artifact: the blob that holds its content."""

    digest: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is kept of an artifact beside its files. `content_digest` covers files and metrics, not measurements."""

    key: str
    stage: str
    kind: str
    identity: Mapping[str, Any]
    files: Mapping[str, FileEntry]
    metrics: Mapping[str, Any]
    measurements: Mapping[str, Any]
    content_digest: str
    input_digests: Mapping[str, str]
    source_digest: str
    label: str
    run: str
    attempt: int
    finished: str
    seconds: float
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(entry.size_bytes for entry in self.files.values())


class Artifacts:
    """Records and files of finished artifacts in one store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def find(self, stage: str, key: str) -> Record | None:
        """The finished artifact, if its record is sound and its blobs are there; reads no blob."""
        entry = self.store.read(_record_path(stage, key))
        record = _decode(entry.data, key=key) if entry is not None else None
        if record is None or not all(self.store.has_blob(file.digest, file.size_bytes) for file in record.files.values()):
            return None
        return record

    def all_records(self, stage: str | None = None) -> Iterator[Record]:
        """Every sound record, of one stage or of all, in no order."""
        for name in [stage] if stage is not None else list(self.store.list("artifacts")):
            for key in self.store.list(f"artifacts/{name}"):
                entry = self.store.read(_record_path(name, key))
                record = _decode(entry.data, key=key) if entry is not None else None
                if record is not None:
                    yield record

    def keys_starting(self, prefix: str) -> list[tuple[str, str]]:
        """(stage, key) of the finished artifacts whose key starts so."""
        return [
            (stage, key)
            for stage in self.store.list("artifacts")
            for key in self.store.list(f"artifacts/{stage}")
            if key.startswith(prefix) and self.store.read(_record_path(stage, key)) is not None
        ]

    def take_files(self, folder: Path, *, durable: bool = True) -> dict[str, FileEntry]:
        """Move every file under `folder` into the store's blobs; returns them by name.

        What is not `durable` is whole to every process, but may be missing or damaged after a loss of power. Raises StageFailed
        for links, odd names and a missing folder, before anything is moved.
        """
        if folder.is_symlink() or not folder.is_dir():
            raise StageFailed("the stage removed or replaced its output folder", next_step="write below it only")
        names = {}
        for path in sorted(folder.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                continue
            name = path.relative_to(folder).as_posix()
            if path.is_symlink() or not path.is_file() or not _SAFE_NAME.fullmatch(name):
                raise StageFailed(
                    f"the stage wrote {name!r}, which cannot be part of an artifact",
                    next_step="write plain files named in letters, digits, '.', '_' and '-' only",
                )
            names[name] = path
        files = {}
        for name, path in names.items():
            size_bytes = path.stat().st_size
            digest = digest_file(path, size_bytes)
            self._drop_if_damaged(digest, size_bytes)
            self.store.put_blob(path, digest, durable=durable)
            files[name] = FileEntry(digest=digest, size_bytes=size_bytes)
        return files

    def _drop_if_damaged(self, digest: str, size_bytes: int) -> None:
        """A blob of this content that is there already must be whole, or it would be taken for what was just made."""
        if self.store.has_blob(digest, size_bytes):
            try:
                verify_file(self.store.blob_path(digest), digest=digest, size_bytes=size_bytes)
            except (IntegrityError, FileNotFoundError):
                self.store.remove_blob(digest)

    def publish(self, record: Record, *, supersede: bool = False, durable: bool = True) -> Record:
        """Create the record and return the one that stands: ours, or an earlier writer's.

        `supersede` puts ours in place of an earlier one (a re-run on purpose); the earlier one is kept beside it. A record
        that stands but is no hit (damaged, blobs missing) is always superseded.
        """
        path = _record_path(record.stage, record.key)
        data = json.dumps({"format": FORMAT, **vars(record)}, sort_keys=True, default=vars).encode()
        while self.store.create(path, data, durable=durable) is None:
            standing = None if supersede else self.find(record.stage, record.key)
            if standing is not None:
                return standing
            entry = self.store.read(path)
            if entry is not None:
                self.store.create(_quarantine_path(record.stage, record.key, entry.version), entry.data)
                if self.store.replace(path, data, version=entry.version, durable=durable) is not None:
                    return record
        return record

    def set_aside(self, record: Record) -> None:
        """Make a damaged artifact no hit any more: its record goes to `quarantine/`, its damaged blobs go away.

        A record that another process has put in its place meanwhile stays.
        """
        is_damaged = False
        for file in record.files.values():
            try:
                verify_file(self.store.blob_path(file.digest), digest=file.digest, size_bytes=file.size_bytes)
            except IntegrityError:
                is_damaged = True
                self.store.remove_blob(file.digest)
            except FileNotFoundError:
                is_damaged = True
        if not is_damaged:
            return
        path = _record_path(record.stage, record.key)
        entry = self.store.read(path)
        if entry is not None and _decode(entry.data, key=record.key) == record:
            self.store.create(_quarantine_path(record.stage, record.key, entry.version), entry.data)
            self.store.delete(path, version=entry.version)

    def open(self, record: Record) -> Artifact:
        """The artifact's files as local paths, each verified against its digest; IntegrityError names what is damaged."""
        paths = {}
        for name, file in record.files.items():
            try:
                paths[name] = self.store.blob_path(file.digest)
                verify_file(paths[name], digest=file.digest, size_bytes=file.size_bytes)
            except FileNotFoundError as error:
                raise IntegrityError(f"artifact {record.key[:8]}: the content of {name} is missing from the store") from error
        return Artifact(
            kind=record.kind, key=record.key, files=paths, metrics={**record.metrics}, stage=record.stage, label=record.label
        )


def content_digest(files: Mapping[str, FileEntry], metrics: Mapping[str, Any]) -> str:
    """Digest of what a stage made: its files and its metrics, without anything read off a clock."""
    content = {"files": {name: entry.digest for name, entry in files.items()}, "metrics": metrics}
    return digest_bytes(json.dumps(content, sort_keys=True).encode())


def checkpoint_workspace(key: str) -> str:
    """The workspace in which the saved states of an unfinished artifact are."""
    return f"checkpoints/{key}"


def _record_path(stage: str, key: str) -> str:
    return f"artifacts/{stage}/{key}/record.json"


def _quarantine_path(stage: str, key: str, version: str) -> str:
    return f"quarantine/{stage}/{key}/{version[:16]}.json"


def _decode(data: bytes, *, key: str) -> Record | None:
    try:
        content = json.loads(data)
        if content.pop("format") != FORMAT or content["key"] != key:
            return None
        content["files"] = {name: FileEntry(**entry) for name, entry in content["files"].items()}
        return Record(**content)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
