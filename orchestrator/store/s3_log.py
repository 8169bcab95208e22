"""Logs on a server whose objects cannot grow.

A log `P` is the objects `P/<offset>`, named by the byte at which each begins: sixteen digits, so that a listing has them in
order. A writer collects what is appended and sends at most one request a second for each log; it writes its newest object anew,
longer, until that has 256 KiB, and then begins the next. So a log of n bytes has about n / 256 KiB objects, a reader that has
seen `offset` bytes asks for one listing and what is new, and bytes that were read once never change.

Promised: what was appended is seen at once by this process, after about a second by others, and is sent when the process
ends or the attempt does (`log_file`). A process that is killed may take its last second of log lines with it, never records.
"""

from __future__ import annotations

import atexit
import os
import shutil
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.store.processes import is_left_by_dead_process, process_mark
from orchestrator.store.s3_client import Away, Listed, Refused, S3Client

FLUSH_EVERY_S = 1.0
FOLLOW_EVERY_S = 2.0
CHUNK_BYTES = 256 * 1024
MAX_UNSENT_BYTES = 4 * 2**20
_DIGITS = 16
_PAUSE_S = 0.02


@dataclass
class _Tail:
    """The newest object of a log that this process writes, and what has not been sent yet."""

    start: int = -1  # -1: where the log ends is not known yet
    sent: bytes = b""  # what is in that object
    version: str = ""
    unsent: bytearray = field(default_factory=bytearray)
    tried: list[int] = field(default_factory=list)  # lengths of the object in requests whose answer was lost
    flushed_at: float = -FLUSH_EVERY_S
    lock: threading.RLock = field(default_factory=threading.RLock)


class Logs:
    """The logs of one store, as this process writes and reads them. `has_conditions`: whether the server honours them."""

    def __init__(self, client: S3Client, folder: Path, *, has_conditions: Callable[[], bool]) -> None:
        self._client = client
        self._folder = folder
        self._has_conditions = has_conditions
        self._process = 0
        self._numbers = iter(range(2**62))
        self._begin()

    def _begin(self) -> None:
        """Start from nothing: in a new process, also one that was forked and must not send its parent's lines again."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._tails: dict[str, _Tail] = {}
            self._lock = threading.Lock()
            self._thread: threading.Thread | None = None

    def append(self, path: str, data: bytes) -> None:
        """Add to the log; sent at once if the last request for it was a second ago, else soon by a thread."""
        self._begin()
        tail = self._tails.setdefault(path, _Tail())
        with tail.lock:
            tail.unsent += data
            if time.monotonic() - tail.flushed_at >= FLUSH_EVERY_S:
                try:
                    self._send(path, tail)
                except Away:  # a moment without the network must not cost a run: kept, and sent by the thread
                    if len(tail.unsent) > MAX_UNSENT_BYTES:
                        raise
                else:
                    return
        self._flush_in_background()

    def read(self, path: str, offset: int) -> bytes:
        """The log from byte `offset` on."""
        self._begin()
        if path in self._tails:
            self._flush_one(path)
        parts = []
        for chunk, following in _pairs(self._chunks(path)):
            start = int(chunk.name)
            if following is not None and int(following.name) <= offset:
                continue
            found = self._client.get(f"{path}/{chunk.name}")
            content = found.data if found is not None else b""
            if following is not None:  # where preconditions are not honoured, two writers may have met
                content = content[: int(following.name) - start]
            parts.append(content[max(0, offset - start) :])
        return b"".join(parts)

    @contextmanager
    def file(self, path: str) -> Iterator[Path]:
        """A local file whose growing content is sent to the log every other second, and at its end."""
        folder = self._folder / f"{process_mark()}-{next(self._numbers)}-{time.monotonic_ns()}"
        folder.mkdir(parents=True)
        (folder / "path").write_text(path)
        log = folder / "log"
        log.touch()
        ended = threading.Event()
        follower = threading.Thread(target=self._follow, args=(path, log, ended), name="s3-log", daemon=True)
        follower.start()
        try:
            yield log
        finally:
            ended.set()
            follower.join()
            with suppress(StoreError):  # what the stage raised matters more; the thread goes on trying
                self.flush()
                if log.stat().st_size == 0:
                    self._begin_empty(path)
            shutil.rmtree(folder, ignore_errors=True)

    def _begin_empty(self, path: str) -> None:
        """A log without a line is there all the same: an attempt that printed nothing is told from one that never was."""
        with suppress(Refused):
            self._client.put(f"{path}/{0:0{_DIGITS}}", b"", if_absent=self._has_conditions())

    def _follow(self, path: str, log: Path, ended: threading.Event) -> None:
        with log.open("rb") as file:
            is_last = False
            while not is_last:
                is_last = ended.wait(FOLLOW_EVERY_S)
                while data := file.read(CHUNK_BYTES):
                    with suppress(StoreError):  # it stays unsent, and is sent with what follows
                        self.append(path, data)

    def rescue(self) -> None:
        """Send what processes of this machine that are gone had printed and not sent."""
        with suppress(FileNotFoundError):
            for entry in list(os.scandir(self._folder)):
                if is_left_by_dead_process(entry.name):
                    with suppress(OSError):
                        path = (Path(entry.path) / "path").read_text()
                        printed = (Path(entry.path) / "log").read_bytes()
                        self.append(path, printed[len(self.read(path, 0)) :])
                        self._flush_one(path)
                    shutil.rmtree(entry.path, ignore_errors=True)

    def remove(self, path: str) -> bool:
        """Remove a log; False if there is none."""
        self._begin()
        self._tails.pop(path, None)
        chunks = list(self._chunks(path))
        for chunk in chunks:
            self._client.delete(f"{path}/{chunk.name}")
        return bool(chunks)

    def flush(self) -> None:
        """Send everything that was appended; StoreError if it cannot be."""
        self._begin()
        for path in list(self._tails):
            self._flush_one(path)

    def _flush_one(self, path: str) -> None:
        tail = self._tails[path]
        with tail.lock:
            while tail.unsent:
                self._send(path, tail)

    def _send(self, path: str, tail: _Tail) -> None:
        """Put the newest object as it was with all that is unsent; begin the next where it is full.

        An object that is full is never written again, and the next is begun only behind a full one. So a second writer cannot
        come in between: one of the two is refused, and goes on behind the other.
        """
        tail.flushed_at = time.monotonic()
        if tail.start < 0:
            self._find_end(path, tail)
        while tail.unsent:
            if len(tail.sent) >= CHUNK_BYTES:
                tail.start, tail.sent, tail.version = tail.start + len(tail.sent), b"", ""
            data = tail.sent + tail.unsent
            name = f"{path}/{tail.start:0{_DIGITS}}"
            try:
                if self._has_conditions():
                    tail.version = self._client.put(name, data, if_version=tail.version, if_absent=not tail.version)
                else:
                    self._client.put(name, data)
            except Refused:
                if not self._has_arrived(name, tail, data):
                    time.sleep(_PAUSE_S)  # a listing that lags behind would be asked for in a tight loop
                    self._find_end(path, tail)
                tail.tried.clear()
                continue
            except Away:
                tail.tried.append(len(data))
                raise
            tail.sent = data
            tail.unsent.clear()
            tail.tried.clear()

    def _has_arrived(self, name: str, tail: _Tail, data: bytes) -> bool:
        """Whether it was a request of this very process that got in between: what it sent must not be sent again."""
        found = self._client.get(name) if tail.tried else None
        for length in sorted(tail.tried, reverse=True):
            if found is not None and found.data.startswith(data[:length]):
                del tail.unsent[: length - len(tail.sent)]
                tail.sent, tail.version = found.data, found.version
                return True
        return False

    def _find_end(self, path: str, tail: _Tail) -> None:
        """Go on where the log ends, whoever has written it."""
        last = deque(self._chunks(path), maxlen=1)
        found = self._client.get(f"{path}/{last[0].name}") if last else None
        tail.start = int(last[0].name) if last else 0
        tail.sent, tail.version = (found.data, found.version) if found is not None else (b"", "")

    def _chunks(self, path: str) -> Iterator[Listed]:
        return (found for found in self._client.list(f"{path}/") if len(found.name) == _DIGITS and found.name.isdigit())

    def _flush_in_background(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=_keep_flushing, args=(weakref.ref(self),), name="s3-logs", daemon=True)
                self._thread.start()
                atexit.register(_flush_at_exit, weakref.ref(self), self._process)


def _keep_flushing(logs: weakref.ref[Logs]) -> None:
    """Send what has waited; ends when nothing has come for some turns, or the store is gone."""
    idle = 0
    while idle < 5:
        time.sleep(FLUSH_EVERY_S)
        found = logs()
        if found is None:
            return
        idle += 1
        for path, tail in list(found._tails.items()):  # noqa: SLF001 - a function, so that the thread does not keep the store
            if tail.unsent:
                idle = 0
                with suppress(Exception):  # a server that is away for a moment: the next turn tries again
                    found._flush_one(path)  # noqa: SLF001
        del found


def _flush_at_exit(logs: weakref.ref[Logs], process: int) -> None:
    found = logs()
    if found is not None and process == os.getpid():
        with suppress(Exception):
            found.flush()


def _pairs(chunks: Iterator[Listed]) -> Iterator[tuple[Listed, Listed | None]]:
    before = None
    for chunk in chunks:
        if before is not None:
            yield before, chunk
        before = chunk
    if before is not None:
        yield before, None
