"""The content of `record.json`, written and read. A record may come from anyone who can write to the store, so that nothing in
it is believed before it was looked at: names that could leave a folder, digests that are paths, numbers that are none.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

FORMAT = 1
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class BadRecord(ValueError):
    """A record that is none; the message says why. `format` is what it says of itself, where it says anything."""

    def __init__(self, message: str, *, found_format: Any = None) -> None:
        super().__init__(message)
        self.found_format = found_format


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


_TEXTS = ("key", "stage", "kind", "content_digest", "source_digest", "run", "finished")
_MAPPINGS = ("identity", "metrics", "measurements", "input_digests", "provenance")
_NAMES = {each.name for each in fields(Record)}


def encode_record(record: Record) -> bytes:
    """The record as the bytes of its file."""
    return json.dumps({"format": FORMAT, **vars(record)}, sort_keys=True, default=vars, allow_nan=False).encode()


def decode_record(data: bytes, *, stage: str, key: str) -> Record:
    """The inverse, of a file that stands where the record of `stage` and `key` should; raises BadRecord."""
    try:
        content = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"it is no JSON that every reader takes: {error}") from error
    if not isinstance(content, dict):
        raise BadRecord("it is no JSON object")
    found_format = content.pop("format", None)
    if found_format != FORMAT:
        raise BadRecord(f"it has format {found_format!r}; this release reads format {FORMAT}", found_format=found_format)
    if unknown := content.keys() - _NAMES:
        raise BadRecord(f"it has unknown fields: {', '.join(sorted(unknown))}")
    if missing := _NAMES - content.keys() - {"provenance"}:
        raise BadRecord(f"it has no {', '.join(sorted(missing))}")
    _check_fields(content)
    if (content["stage"], content["key"]) != (stage, key):
        raise BadRecord(f"it is of {content['stage']} {content['key'][:12]!r}, and stands where another one should")
    content["files"] = {name: file_entry(name, entry) for name, entry in content["files"].items()}
    return Record(**content)


def _check_fields(content: Mapping[str, Any]) -> None:
    for name in _TEXTS:
        if not isinstance(content[name], str) or not content[name].isprintable():
            raise BadRecord(f"its {name} is no plain text")
    if not isinstance(content["label"], str):  # which holds values of `foreach`, whatever letters they have
        raise BadRecord("its label is no text")
    for name in _MAPPINGS:
        if not isinstance(content.get(name, {}), dict):
            raise BadRecord(f"its {name} is no mapping")
    if not isinstance(content["files"], dict):
        raise BadRecord("its files are no mapping")
    seconds = content["seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not (math.isfinite(seconds) and seconds >= 0):
        raise BadRecord("its seconds are no number from 0")
    if not isinstance(content["attempt"], int):
        raise BadRecord("its attempt is no number")


def file_entry(name: str, entry: Any) -> FileEntry:
    """A file as JSON has it, looked at before it is believed; raises BadRecord."""
    if SAFE_NAME.fullmatch(name) is None:
        raise BadRecord(f"its file {name!r} cannot be part of an artifact: the name could lead out of a folder")
    if not isinstance(entry, dict) or entry.keys() != {"digest", "size_bytes"}:
        raise BadRecord(f"its file {name!r} has no digest and size")
    digest, size_bytes = entry["digest"], entry["size_bytes"]
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
        raise BadRecord(f"its file {name!r} has a digest that is none")
    if isinstance(size_bytes, bool) or not isinstance(size_bytes, int) or size_bytes < 0:
        raise BadRecord(f"its file {name!r} has a size that is none")
    return FileEntry(digest=digest, size_bytes=size_bytes)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number in JSON")
