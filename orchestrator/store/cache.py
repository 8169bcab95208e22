"""Blobs at hand on this machine: one folder for all stores and processes of a user, bounded, least recently used out first.

A blob in use is a second hard link in a folder of the process that uses it, so eviction never takes a file from under a
stage. Files appear by a rename and are made read-only; every process verifies a file before its first use, so what a disk
or a kill has damaged is fetched again. Knows no server.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.errors import IntegrityError, StoreError
from orchestrator.store.blobs import verify_file
from orchestrator.store.processes import is_left_by_dead_process, process_mark

CACHE_VARIABLE = "ORCHESTRATOR_CACHE"
RECORDS = "records"
"""Folder for small objects that were seen (`seen.SeenObjects`), which count towards the bound and go by age too."""
SIZE_VARIABLE = "ORCHESTRATOR_CACHE_BYTES"
_DEFAULT_BYTES = 50 * 2**30
_NUM_LOCKS = 256
_KEPT_WHEN_EVICTING = 0.9
_LOOK_AFTER = 0.05  # of the bound, added by this process since it last looked


def cache_folder() -> Path:
    """ORCHESTRATOR_CACHE, or `orchestrator` in the user's cache folder."""
    asked = os.environ.get(CACHE_VARIABLE)
    if asked:
        return Path(asked).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orchestrator"


class BlobCache:
    """The folder; `max_bytes` bounds its blobs (those in use may exceed it for as long as they are)."""

    def __init__(self, root: Path, *, max_bytes: int | None = None) -> None:
        self.root = root
        self._max_bytes = max_bytes
        self._added_bytes = -1  # nothing known yet: look at the first addition
        self._verified: dict[str, tuple[int, int, int]] = {}
        self._process = os.getpid()

    @property
    def max_bytes(self) -> int:
        """The bound: as given, else ORCHESTRATOR_CACHE_BYTES, else 50 GiB or a quarter of the disk, whichever is less."""
        if self._max_bytes is None:
            asked = os.environ.get(SIZE_VARIABLE)
            if asked and not asked.isdigit():
                raise StoreError(f"{SIZE_VARIABLE}={asked}: expected a number of bytes", next_step=f"unset {SIZE_VARIABLE}")
            self.root.mkdir(parents=True, exist_ok=True)
            self._max_bytes = int(asked) if asked else min(_DEFAULT_BYTES, shutil.disk_usage(self.root).total // 4)
        return self._max_bytes

    def path(self, digest: str) -> Path:
        """Where the blob is while the cache keeps it."""
        return self.root / "blobs" / digest[:2] / digest

    def open(self, digest: str, fetch: Callable[[Path], None]) -> Path:
        """A verified file that stays until `release`; `fetch` fills it, once per machine, where the cache has none."""
        pin = self._pin(digest)
        if self._link_if_sound(digest, pin):
            return pin
        with self._locked(digest):  # another process of this machine may be fetching it
            if not self._link_if_sound(digest, pin):
                pin.unlink(missing_ok=True)
                new = self.new_file(digest)
                try:
                    fetch(new)
                    self._remember(digest, new)
                    self._insert(new, digest, pin)
                finally:
                    new.unlink(missing_ok=True)
        return pin

    def put(self, source: Path, digest: str) -> None:
        """Take over a file whose digest is known; the source is gone afterwards. Fails quietly: a cache may be full."""
        try:
            if source.stat().st_nlink > 1:  # another name of the file must not be able to change the cached one
                new = self.new_file(digest)
                shutil.copyfile(source, new)
                source.unlink()
                source = new
            self._remember(digest, source)
            self._insert(source, digest, None)
        except OSError:
            source.unlink(missing_ok=True)

    def drop(self, digest: str) -> None:
        """Forget a blob."""
        self._verified.pop(digest, None)
        self._pin(digest).unlink(missing_ok=True)
        self.path(digest).unlink(missing_ok=True)

    def release(self) -> None:
        """What `open` has returned to this process need not stay any longer."""
        shutil.rmtree(self._pins(), ignore_errors=True)

    def sweep(self) -> None:
        """Remove what dead processes of this machine had in use or half written."""
        for kind in ("pins", "new"):
            with suppress(FileNotFoundError):
                for entry in os.scandir(self.root / kind):
                    if is_left_by_dead_process(f"{entry.name}-"):
                        shutil.rmtree(entry.path, ignore_errors=True)

    def evict(self) -> None:
        """Bring the cache below its bound; does nothing while another process does."""
        descriptor = self._lock_file("evict")
        try:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._evict_oldest()
        finally:
            os.close(descriptor)

    def _evict_oldest(self) -> None:
        self._added_bytes = 0
        found = list(self._files())
        total = sum(status.st_size for _, status in found)
        if total <= self.max_bytes:
            return
        self.sweep()
        for path, status in sorted(found, key=lambda item: item[1].st_atime_ns):
            if total <= self.max_bytes * _KEPT_WHEN_EVICTING:
                return
            with suppress(FileNotFoundError):
                if path.stat().st_nlink == 1:  # else in use: removing the name would free nothing
                    path.unlink()
                    total -= status.st_size

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for kind in ("blobs", RECORDS):
            for folder, _, names in os.walk(self.root / kind):
                for name in names:
                    path = Path(folder) / name
                    with suppress(FileNotFoundError):
                        yield path, path.stat()

    def _link_if_sound(self, digest: str, pin: Path) -> bool:
        """Whether the cache has the blob, linked as `pin` and verified by this process."""
        try:
            if not pin.exists():
                _made_for(pin, lambda: os.link(self.path(digest), pin))
        except FileExistsError:
            pass
        except FileNotFoundError:
            return False
        status = pin.stat()
        if self._known().get(digest) != _state(status):
            try:
                verify_file(pin, digest=digest, size_bytes=status.st_size)
            except IntegrityError:
                self.drop(digest)
                return False
            self._verified[digest] = _state(status)
        os.utime(pin, ns=(time.time_ns(), status.st_mtime_ns))  # last used now, even where the disk keeps no such times
        return True

    def _insert(self, source: Path, digest: str, pin: Path | None) -> None:
        source.chmod(0o444)
        size_bytes = source.stat().st_size
        if pin is not None:
            _made_for(pin, lambda: os.link(source, pin))
        target = self.path(digest)
        _made_for(target, lambda: source.replace(target))
        self._added_bytes += size_bytes
        if self._added_bytes - size_bytes < 0 or self._added_bytes > self.max_bytes * _LOOK_AFTER:
            self.evict()

    def _remember(self, digest: str, path: Path) -> None:
        self._known()[digest] = _state(path.stat())

    def _known(self) -> dict[str, tuple[int, int, int]]:
        if self._process != os.getpid():
            self._process, self._verified = os.getpid(), {}
        return self._verified

    def _pins(self) -> Path:
        return self.root / "pins" / process_mark()

    def _pin(self, digest: str) -> Path:
        return self._pins() / digest

    def new_file(self, digest: str) -> Path:
        """A place for a file that this process is going to fill; `sweep` removes it where the process dies."""
        path = self.root / "new" / process_mark() / f"{digest}-{time.monotonic_ns()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def _locked(self, digest: str) -> Iterator[None]:
        descriptor = self._lock_file(str(int(digest[:4], 16) % _NUM_LOCKS))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _lock_file(self, name: str) -> int:
        path = self.root / "locks" / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(
                f"the cache {self.root} cannot be used: {error.strerror}",
                next_step=f"choose another folder: {CACHE_VARIABLE}=DIR",
            ) from error


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _made_for(target: Path, action: Callable[[], object]) -> None:
    """Do something that needs the folder of `target`, which is made if it is missing."""
    try:
        action()
    except FileNotFoundError:
        if target.parent.is_dir():
            raise
        target.parent.mkdir(parents=True, exist_ok=True)
        action()
