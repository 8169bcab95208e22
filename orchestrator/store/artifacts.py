"""Artifact records: the only place where a path inside the store's `artifacts/` is spelled.

`artifacts/<stage>/<key>/record.json` is the finished mark. It is created last, by its first writer only; whoever sees it can
read every blob that it names. A record that cannot be read, or whose blobs are gone, is no hit: it is set aside under
`quarantine/` by the next process that makes the artifact.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import IntegrityError, StageFailed
from orchestrator.store.base import Entry, Store
from orchestrator.store.blobs import digest_bytes, digest_file, verify_file
from orchestrator.store.claims import Claims
from orchestrator.store.record_file import SAFE_NAME, BadRecord, FileEntry, Record, decode_record, encode_record
from stages.contract import Artifact

_RECORD = "record.json"

__all__ = ["Artifacts", "FileEntry", "Record", "checkpoint_workspace", "content_digest", "record_mark"]


class Artifacts:
    """Records and files of finished artifacts in one store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._ahead: dict[tuple[str, str], Record | None] = {}

    def look_ahead(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Ask for many artifacts (stage and key) at once; the next `find` of each answers from that.

        Where requests travel, a plan of hundreds of nodes would otherwise wait for one after the other.
        """
        if self.store.width == 1:
            return
        pairs = set(wanted)
        entries = self.store.read_many(record_path(*pair) for pair in pairs)
        records = {(stage, key): _decode(entries.get(record_path(stage, key)), stage=stage, key=key) for stage, key in pairs}
        there = self.store.which_blobs(blob for record in records.values() if record is not None for blob in _blobs(record))
        for pair, record in records.items():
            self._ahead[pair] = record if record is not None and there.issuperset(_blobs(record)) else None

    def find(self, stage: str, key: str) -> Record | None:
        """The finished artifact, if its record is sound and its blobs are there; reads no blob."""
        if (stage, key) in self._ahead:
            return self._ahead.pop((stage, key))
        return self._find(stage, key)

    def _find(self, stage: str, key: str) -> Record | None:
        return self._hit(self.store.read(record_path(stage, key)), stage=stage, key=key)

    def _hit(self, entry: Entry | None, *, stage: str, key: str) -> Record | None:
        record = _decode(entry, stage=stage, key=key)
        if record is None or not all(self.store.has_blob(*blob) for blob in _blobs(record)):
            return None
        return record

    def all_records(self, stage: str | None = None) -> Iterator[Record]:
        """Every sound record, of one stage or of all, in no order."""
        for name, key, entry in self.scan(stage):
            record = _decode(entry, stage=name, key=key)
            if record is not None:
                yield record

    def decoded(self, stage: str, entries: Mapping[str, Entry]) -> list[Record]:
        """The sound ones among the records of a stage that were read, by path."""
        found = [_decode(entry, stage=stage, key=path.split("/")[2]) for path, entry in entries.items()]
        return [record for record in found if record is not None]

    def scan(self, stage: str | None = None) -> Iterator[tuple[str, str, Entry]]:
        """(stage, key, content) of every record, sound or not, of one stage or of all, in no order."""
        names = [stage] if stage is not None else list(self.store.list("artifacts"))
        for name in names:
            for key, entry in self.store.read_below(f"artifacts/{name}", _RECORD):
                yield name, key, entry

    def stages_by_key(self) -> dict[str, str]:
        """The stage of every key in the store; says nothing of whether its record is sound."""
        return {key: stage for stage in self.store.list("artifacts") for key in self.store.list(f"artifacts/{stage}")}

    def keys_starting(self, prefix: str) -> list[tuple[str, str]]:
        """(stage, key) of the finished artifacts whose key starts so."""
        return [
            (stage, key)
            for stage in self.store.list("artifacts")
            for key in self.store.list(f"artifacts/{stage}")
            if key.startswith(prefix) and self.store.read(record_path(stage, key)) is not None
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
            if path.is_symlink() or not path.is_file() or not SAFE_NAME.fullmatch(name):
                raise StageFailed(
                    f"the stage wrote {name!r}, which cannot be part of an artifact",
                    next_step="write plain files named in letters, digits, '.', '_' and '-' only",
                )
            names[name] = path
        files = {}
        for name, path in names.items():
            size_bytes = path.stat().st_size
            digest = digest_file(path, size_bytes)
            if self.store.has_blob(digest, size_bytes):
                Claims(self.store).claim(digest)  # `gc` leaves it alone until the record names it
            self.store.put_blob(path, digest, durable=durable)
            files[name] = FileEntry(digest=digest, size_bytes=size_bytes)
        return files

    def publish(self, record: Record, *, replaces: str = "", durable: bool = True) -> Record:
        """Create the record and return the one that stands: ours, or an earlier writer's.

        `replaces` puts ours in place of the one with this `record_mark` (made again on purpose), which is kept beside it. A
        record that stands but is no hit (damaged, blobs missing) is always replaced.
        """
        path = record_path(record.stage, record.key)
        data = encode_record(record)
        while self.store.create(path, data, durable=durable) is None:
            entry = self.store.read(path)
            if entry is None:
                continue
            standing = self._hit(entry, stage=record.stage, key=record.key)
            if standing is not None and record_mark(standing) != replaces:
                return standing
            self.store.create(quarantine_path(record.stage, record.key, entry.version), entry.data)
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
                self.store.verify_blob(file.digest, file.size_bytes)
            except IntegrityError:
                is_damaged = True
                self.store.remove_blob(file.digest)
            except FileNotFoundError:
                is_damaged = True
        if not is_damaged:
            return
        path = record_path(record.stage, record.key)
        entry = self.store.read(path)
        if entry is not None and _decode(entry, stage=record.stage, key=record.key) == record:
            self.set_aside_record(record.stage, record.key, entry)

    def set_aside_record(self, stage: str, key: str, entry: Entry) -> None:
        """Move a record as it was read to `quarantine/`; one that was written in its place meanwhile stays."""
        self.store.create(quarantine_path(stage, key, entry.version), entry.data)
        self.store.delete(record_path(stage, key), version=entry.version)

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


def record_mark(record: Record) -> str:
    """A short name for this very record: two records of one artifact differ in it, whatever the clocks said."""
    return digest_bytes(encode_record(record))[:32]


def checkpoint_workspace(key: str) -> str:
    """The workspace in which the saved states of an unfinished artifact are."""
    return f"checkpoints/{key}"


def record_path(stage: str, key: str) -> str:
    """Where the record of an artifact stands."""
    return f"artifacts/{stage}/{key}/{_RECORD}"


def quarantine_path(stage: str, key: str, version: str) -> str:
    """Where a record goes that is damaged or was replaced."""
    return f"quarantine/{stage}/{key}/{version[:16]}.json"


def _decode(entry: Entry | None, *, stage: str, key: str) -> Record | None:
    try:
        return decode_record(entry.data, stage=stage, key=key) if entry is not None else None
    except BadRecord:
        return None


def _blobs(record: Record) -> list[tuple[str, int]]:
    return [(file.digest, file.size_bytes) for file in record.files.values()]
