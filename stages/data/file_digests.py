"""Digests of files, remembered by this machine, so that a second plan reads no content. No tensor library.

A file counts as unchanged while its size, time of change and inode are; what was changed in the last two seconds before it was
read is not remembered, since a second change could hide behind the same time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from blake3 import blake3

FORMAT = 1
SETTLED_NS = 2_000_000_000
_READERS = 8


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
    memo = _Memo(root)
    found: dict[str, tuple[int, str]] = {}
    unknown: list[str] = []
    kept: dict[str, list[Any]] = {}
    for name in names:
        entry = memo.entries.get(name)
        mark = _mark(f"{root}/{name}")
        if isinstance(entry, list) and len(entry) == 4 and entry[:3] == mark:
            kept[name] = entry
            found[name] = (int(entry[0]), str(entry[3]))
        else:
            unknown.append(name)
    with ThreadPoolExecutor(_READERS) as pool:
        for name, (mark, digest, is_settled) in zip(unknown, pool.map(lambda name: _read(root / name), unknown), strict=True):
            found[name] = (mark[0], digest)
            if is_settled:
                kept[name] = [*mark, digest]
    if kept != memo.entries:
        memo.write(kept)
    return found


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

    def __init__(self, root: Path) -> None:
        self.root = str(root.absolute())
        self.path = cache_folder() / "data" / f"{blake3(self.root.encode()).hexdigest()[:32]}.json"
        self.entries: dict[str, list[Any]] = {}
        with suppress(OSError, ValueError, AttributeError):
            read = json.loads(self.path.read_bytes())
            if read.get("format") == FORMAT and read.get("root") == self.root and isinstance(read.get("files"), dict):
                self.entries = read["files"]

    def write(self, entries: Mapping[str, list[Any]]) -> None:
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}-{time.monotonic_ns()}")
        with suppress(OSError):  # a plan must not fail because the cache is full or read-only
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                new.write_text(json.dumps({"format": FORMAT, "root": self.root, "files": entries}, separators=(",", ":")))
                new.replace(self.path)
            finally:
                new.unlink(missing_ok=True)


def _mark(path: Path | str) -> list[int]:
    try:
        status = os.stat(path)  # noqa: PTH116 - a million times
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _read(path: Path) -> tuple[list[int], str, bool]:
    before = _mark(path)
    started_ns = time.time_ns()
    digest = _content_digest(path)
    return before, digest, _mark(path) == before and started_ns - before[1] > SETTLED_NS


def _content_digest(path: Path) -> str:
    try:
        return blake3().update_mmap(path).hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
