"""Digests of files, remembered by this machine, so that a second plan reads no content. No tensor library.

A file counts as unchanged while its size, time of change and inode are; what was changed in the last two seconds before it was
read is not remembered, since a second change could hide behind the same time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from blake3 import blake3

FORMAT = 1
SETTLED_NS = 2_000_000_000
_READERS = 8

Mark = list[Any]
"""Size in bytes, time of change in ns, and an inode or the like: equal ones mean that a file was not changed."""


def cache_folder() -> Path:
    """ORCHESTRATOR_CACHE, or `orchestrator` in the user's cache folder: where the engine keeps its own, too."""
    asked = os.environ.get("ORCHESTRATOR_CACHE")
    if asked:
        return Path(asked).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orchestrator"


def file_digests(root: Path, names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Size and digest of the content of each file of `root`, given by its path in there; reads only what is new or changed.

    Raises:
        ValueError: a file cannot be read.
    """

    def mark(name: str) -> Mark:
        return file_mark(f"{root}/{name}")

    marks = {name: mark(name) for name in names}
    return remembered_digests(str(root.absolute()), marks, mark=mark, digest=lambda name: _content_digest(root / name))


def remembered_digests(
    place: str, marks: Mapping[str, Mark], *, mark: Callable[[str], Mark], digest: Callable[[str], str]
) -> dict[str, tuple[int, str]]:
    """Size and digest of each file: what is remembered of `place` where the mark is the same, otherwise what `digest` finds.

    Args:
        place: what the memo is called by: where the files are, and what the digest is of.
        marks: name of each file -> what it is known to be unchanged by.
        mark: of a file once more, after it was read.
        digest: reads a file.

    Raises:
        ValueError: a file cannot be read.
    """
    memo = _Memo(place)
    kept = {
        name: entry
        for name in marks
        if isinstance(entry := memo.entries.get(name), list) and len(entry) == 4 and entry[:3] == marks[name]
    }

    def read(name: str) -> tuple[str, bool]:
        started_ns = time.time_ns()
        found = digest(name)
        return found, mark(name) == marks[name] and started_ns - int(marks[name][1]) > SETTLED_NS

    unknown = [name for name in marks if name not in kept]
    found = {name: str(entry[3]) for name, entry in kept.items()}
    with ThreadPoolExecutor(_READERS) as pool:
        for name, (content, is_settled) in zip(unknown, pool.map(read, unknown), strict=True):
            found[name] = content
            if is_settled:
                kept[name] = [*marks[name], content]
    if kept != memo.entries:
        memo.write(kept)
    return {name: (int(mark[0]), found[name]) for name, mark in marks.items()}


def tree_digest(root: Path) -> str:
    """Digest of all files below a folder: their paths in it, sizes and contents; hidden ones are left out.

    Raises:
        ValueError: there is no such folder, or nothing in it.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")
    names = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    if not names:
        raise ValueError(f"{root}: the folder is empty")
    return combined_digest(file_digests(root, names))


def combined_digest(found: Mapping[str, tuple[int, str]]) -> str:
    """One digest of many files, whatever the order in which they were found."""
    hasher = blake3()
    for name in sorted(found):
        size, digest = found[name]
        hasher.update(f"{len(name.encode())}:{name}:{size}:{digest}\n".encode())
    return hasher.hexdigest()


class _Memo:
    """What is remembered of one folder: a file in the cache, replaced whole. A lost or damaged one costs a reading only."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.path = remembered_file(root)
        self.entries: dict[str, list[Any]] = {}
        with suppress(OSError, ValueError, AttributeError):
            read = json.loads(self.path.read_bytes())
            if read.get("format") == FORMAT and read.get("root") == self.root and isinstance(read.get("files"), dict):
                self.entries = read["files"]

    def write(self, entries: Mapping[str, list[Any]]) -> None:
        write_remembered(self.path, {"format": FORMAT, "root": self.root, "files": entries})


def remembered_file(name: str) -> Path:
    """Where this machine remembers what has this name."""
    return cache_folder() / "data" / f"{blake3(name.encode()).hexdigest()[:32]}.json"


def write_remembered(path: Path, value: Any) -> None:
    """Write JSON into the cache, whole or not at all: a plan must not fail because the cache is full or read-only."""
    new = path.with_name(f"{path.name}.{os.getpid()}-{time.monotonic_ns()}")
    with suppress(OSError):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(value, separators=(",", ":")))
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)


def file_mark(path: Path | str) -> Mark:
    """By what a file is known to be unchanged.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - a million times
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _content_digest(path: Path) -> str:
    try:
        return blake3().update_mmap(path).hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
