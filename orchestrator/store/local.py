"""The store in a local folder. Objects appear by a hard link or a rename of a flushed temporary file, so they are whole or
absent whatever is killed when; conditional changes are serialised by `flock`, which the kernel drops when its holder dies,
so that nothing ever needs unlocking.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.store.base import Entry
from orchestrator.store.blobs import digest_bytes
from orchestrator.store.processes import host_identity, process_is_alive

_NUM_LOCKS = 64


class LocalStore:
    """A folder: `objects` by path, `blobs/<2>/<digest>`, and `work/` for what is unfinished."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        self.url = f"file://{self.root}"
        self._counter = itertools.count()

    def read(self, path: str) -> Entry | None:
        try:
            with open(f"{self.root}/{path}", "rb") as file:
                data = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"cannot read {self.root / path}: {error.strerror}") from error
        return Entry(data, digest_bytes(data))

    def create(self, path: str, data: bytes, *, durable: bool = True) -> str | None:
        target = self.root / path
        temporary = self._write_temporary(data, durable=durable)
        try:
            self._place(lambda: os.link(temporary, target), target)
        except FileExistsError:
            return None
        finally:
            os.unlink(temporary)
        if durable:
            _flush(target.parent)
        return digest_bytes(data)

    def replace(self, path: str, data: bytes, *, version: str, durable: bool = True) -> str | None:
        with self._locked(path):
            entry = self.read(path)
            if entry is None or entry.version != version:
                return None
            os.replace(self._write_temporary(data, durable=durable), self.root / path)
        if durable:
            _flush((self.root / path).parent)
        return digest_bytes(data)

    def delete(self, path: str, *, version: str | None = None) -> bool:
        with self._locked(path):
            if version is not None:
                entry = self.read(path)
                if entry is None or entry.version != version:
                    return False
            try:
                os.unlink(self.root / path)
            except FileNotFoundError:
                return False
            return True

    def append(self, path: str, data: bytes) -> None:
        target = self.root / path
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        try:
            descriptor = os.open(target, flags, 0o644)
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(target, flags, 0o644)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def read_log(self, path: str, *, offset: int = 0) -> bytes:
        try:
            with (self.root / path).open("rb") as file:
                file.seek(offset)
                return file.read()
        except FileNotFoundError:
            return b""

    @contextmanager
    def log_file(self, path: str) -> Iterator[Path]:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        yield target

    def list(self, prefix: str) -> Iterator[str]:
        with suppress(FileNotFoundError, NotADirectoryError):
            yield from os.listdir(self.root / prefix)

    def put_blob(self, source: Path, digest: str) -> None:
        target = self._blob(digest)
        if target.exists() and target.stat().st_size == source.stat().st_size:
            os.unlink(source)
            return
        _flush(source)
        os.chmod(source, 0o444)
        self._place(lambda: os.replace(source, target), target)
        _flush(target.parent)

    def has_blob(self, digest: str, size_bytes: int) -> bool:
        try:
            return os.stat(self._blob(digest)).st_size == size_bytes
        except FileNotFoundError:
            return False

    def remove_blob(self, digest: str) -> None:
        self._blob(digest).unlink(missing_ok=True)

    def blob_path(self, digest: str) -> Path:
        path = self._blob(digest)
        os.stat(path)
        return path

    def workspace(self, name: str) -> Path:
        folder = self.root / "work" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def remove_workspace(self, name: str) -> None:
        shutil.rmtree(self.root / "work" / name, ignore_errors=True)

    def sweep(self) -> None:
        for name in self.list("work/objects"):
            host, _, rest = name.partition("-")
            process = rest.partition("-")[0]
            if host == _host_tag() and process.isdigit() and not process_is_alive(int(process)):
                with suppress(FileNotFoundError):
                    os.unlink(self.root / "work/objects" / name)

    def _blob(self, digest: str) -> Path:
        return self.root / "blobs" / digest[:2] / digest

    def _write_temporary(self, data: bytes, *, durable: bool) -> Path:
        path = self.root / "work/objects" / f"{_host_tag()}-{os.getpid()}-{next(self._counter)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            try:
                descriptor = os.open(path, flags, 0o644)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, flags, 0o644)
            try:
                os.write(descriptor, data)
                if durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StoreError(
                f"cannot write to the store {self.root}: {error.strerror}",
                next_step="check its permissions and free space, or choose another with --store",
            ) from error
        return path

    def _place(self, move: Callable[[], None], target: Path) -> None:
        try:
            move()
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            move()

    @contextmanager
    def _locked(self, path: str) -> Iterator[None]:
        name = int(digest_bytes(path.encode())[:4], 16) % _NUM_LOCKS
        lock = self.root / "work/locks" / str(name)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _host_tag() -> str:
    return host_identity().replace("-", "")[:12]


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
