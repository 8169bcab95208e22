"""A record that anyone could have written: nothing in it leads out of a folder, and what is wrong with it is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store.artifacts import Artifacts
from orchestrator.store.local import LocalStore
from orchestrator.store.record_file import BadRecord, FileEntry, Record, decode_record, encode_record

KEY = "0123456789abcdef0123456789abcdef"
DIGEST = "ab" * 32

GOOD = Record(
    key=KEY, stage="probe.echo", kind="probe", identity={"stage": "probe.echo"},
    files={"f": FileEntry(digest=DIGEST, size_bytes=3)}, metrics={"a": 0.5}, measurements={}, content_digest="c",
    input_digests={}, source_digest="s", label="n[x=\n]", run="r", attempt=1, finished="2026-01-01T00:00:00.000Z", seconds=1.0,
)  # fmt: skip


def bad(change: Callable[[dict[str, Any]], object]) -> bytes:
    content = json.loads(encode_record(GOOD))
    change(content)
    return json.dumps(content).encode()


def with_file(name: str, **entry: Any) -> bytes:
    return bad(lambda content: content.update(files={name: {"digest": DIGEST, "size_bytes": 3, **entry}}))


HOSTILE = {
    "path upwards": (with_file("../../escaped"), "could lead out of a folder"),
    "path upwards inside": (with_file("a/../../escaped"), "could lead out of a folder"),
    "absolute path": (with_file("/etc/passwd"), "could lead out of a folder"),
    "drive letter": (with_file("C:\\windows"), "could lead out of a folder"),
    "empty name": (with_file(""), "could lead out of a folder"),
    "null byte": (with_file("a\0b"), "could lead out of a folder"),
    "digest that is a path": (with_file("f", digest="../../../../etc/passwd"), "a digest that is none"),
    "short digest": (with_file("f", digest="ab"), "a digest that is none"),
    "capital digest": (with_file("f", digest="AB" * 32), "a digest that is none"),
    "digest that is no text": (with_file("f", digest=7), "a digest that is none"),
    "negative size": (with_file("f", size_bytes=-1), "a size that is none"),
    "size that is true": (with_file("f", size_bytes=True), "a size that is none"),
    "file of another shape": (with_file("f", link="/etc/passwd"), "no digest and size"),
    "metric NaN": (bad(lambda content: content.update(metrics={"a": float("nan")})), "NaN is no number"),
    "metric infinity": (bad(lambda content: content.update(metrics={"a": float("-inf")})), "Infinity is no number"),
    "unknown format": (bad(lambda content: content.update(format=2)), "has format 2; this release reads format 1"),
    "no format": (bad(lambda content: content.pop("format")), "has format None"),
    "unknown field": (bad(lambda content: content.update(more=1)), "unknown fields: more"),
    "missing field": (bad(lambda content: content.pop("files")), "has no files"),
    "another key": (bad(lambda content: content.update(key="f" * 32)), "stands where another one should"),
    "another stage": (bad(lambda content: content.update(stage="../other")), "stands where another one should"),
    "words for the terminal": (bad(lambda content: content.update(run="\x1b[2Jgone")), "run is no plain text"),
    "seconds below zero": (bad(lambda content: content.update(seconds=-1)), "seconds are no number from 0"),
    "metrics that are a list": (bad(lambda content: content.update(metrics=[1])), "metrics is no mapping"),
    "too deep": (b'{"format": 1, "identity": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "no JSON"),
    "not utf-8": (b"\xff\xfe", "no JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_record_is_refused_with_its_reason_and_is_no_hit(case: str, tmp_path: Path) -> None:
    """`artifacts get` would write outside its folder, or hand out a file that is no part of the store."""
    data, reason = HOSTILE[case]
    with pytest.raises(BadRecord, match=reason):
        decode_record(data, stage="probe.echo", key=KEY)
    artifacts = Artifacts(LocalStore(tmp_path / "store"))
    artifacts.store.create(f"artifacts/probe.echo/{KEY}/record.json", data)
    assert artifacts.find("probe.echo", KEY) is None
    assert list(artifacts.all_records()) == []


def test_a_record_comes_back_as_it_was_written() -> None:
    """Whatever a label holds: it may carry any value of a `foreach`."""
    assert decode_record(encode_record(GOOD), stage="probe.echo", key=KEY) == GOOD


def test_a_number_that_is_none_is_never_written() -> None:
    """The record would be refused by its next reader, and the artifact made again for ever."""
    record = Record(**{**vars(GOOD), "measurements": {"latency_ms": float("nan")}})
    with pytest.raises(ValueError, match=r"not JSON compliant|Out of range"):
        encode_record(record)
