"""The store in a local folder. Objects appear by a hard link or a rename of a flushed temporary file, so they are whole or
absent whatever is killed when; conditional changes are serialised by `flock`, which the kernel drops when its holder dies,
so that nothing ever needs unlocking.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.errors import IntegrityError, StoreError
from orchestrator.store.base import Blob, Entry, Upload
from orchestrator.store.blobs import digest_bytes, verify_file
from orchestrator.store.processes import is_left_by_dead_process, process_mark

_NUM_LOCKS = 64
_NUM_PLACINGS = 8
_numbers = itertools.count()  # of the process, not of a store object: two of them may have one folder open


class LocalStore:
    """A folder: `objects` by path, `blobs/<2>/<digest>`, and `work/` for what is unfinished."""

    width = 1

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        self.url = f"file://{self.root}"

    def caution(self) -> str:
        return ""

    def read(self, path: str) -> Entry | None:
        try:
            with open(f"{self.root}/{path}", "rb") as file:
                data = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"cannot read {self.root / path}: {error.strerror}") from error
        return Entry(data, digest_bytes(data))

    def read_many(self, paths: Iterable[str]) -> dict[str, Entry]:
        return {path: entry for path in paths if (entry := self.read(path)) is not None}

    def read_below(self, folder: str, file: str) -> Iterator[tuple[str, Entry]]:
        for name in self.list(folder):
            entry = self.read(f"{folder}/{name}/{file}")
            if entry is not None:
                yield name, entry

    def create(self, path: str, data: bytes, *, durable: bool = True) -> str | None:
        target = f"{self.root}/{path}"
        with self._explained():
            temporary = self._write_temporary(data, durable=durable)
            try:
                _place(lambda: os.link(temporary, target), target)
            except FileExistsError:
                return None
            finally:
                os.unlink(temporary)
            if durable:
                _flush(os.path.dirname(target))
        return digest_bytes(data)

    def replace(self, path: str, data: bytes, *, version: str, durable: bool = True) -> str | None:
        target = f"{self.root}/{path}"
        with self._explained(), self._locked(path):
            entry = self.read(path)
            if entry is None or entry.version != version:
                return None
            os.replace(self._write_temporary(data, durable=durable), target)
            if durable:
                _flush(os.path.dirname(target))
        return digest_bytes(data)

    def delete(self, path: str, *, version: str | None = None) -> bool:
        with self._explained(), self._locked(path):
            if version is not None:
                entry = self.read(path)
                if entry is None or entry.version != version:
                    return False
            try:
                os.unlink(f"{self.root}/{path}")
            except FileNotFoundError:
                return False
            self._remove_empty_folders(os.path.dirname(path))
            return True

    def append(self, path: str, data: bytes) -> None:
        target = f"{self.root}/{path}"
        with self._explained():
            descriptor = _open_for_writing(target, os.O_APPEND)
            try:
                end = os.fstat(descriptor).st_size
                try:
                    _write_all(descriptor, data)
                except OSError:
                    os.ftruncate(descriptor, end)  # half a line would take the next one with it
                    raise
            finally:
                os.close(descriptor)

    def read_log(self, path: str, *, offset: int = 0) -> bytes:
        try:
            with open(f"{self.root}/{path}", "rb") as file:
                file.seek(offset)
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return b""
        except OSError as error:
            raise StoreError(f"cannot read {self.root / path}: {error.strerror}") from error

    @contextmanager
    def log_file(self, path: str) -> Iterator[Path]:
        target = self.root / path
        with self._explained():
            os.makedirs(target.parent, exist_ok=True)
        yield target

    def list(self, prefix: str) -> Iterator[str]:
        with suppress(FileNotFoundError, NotADirectoryError):
            yield from os.listdir(self.root / prefix)

    def put_blob(self, source: Path, digest: str, *, durable: bool = True) -> None:
        target = self._blob(digest)
        with self._explained():
            found = os.stat(source)
            if self._is_whole(digest, found.st_size):
                os.unlink(source)
                return
            if found.st_nlink > 1:
                source = _copied(source)  # another name of the same file must not be able to change the blob
            descriptor = os.open(source, os.O_RDONLY)
            try:
                os.fchmod(descriptor, 0o444)
                os.utime(descriptor)  # a blob's age counts from here, not from when its file was written
                if durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            _place(lambda: os.replace(source, target), target)
            if durable:
                _flush(os.path.dirname(target))

    def has_blob(self, digest: str, size_bytes: int) -> bool:
        try:
            return os.stat(self._blob(digest)).st_size == size_bytes
        except FileNotFoundError:
            return False

    def which_blobs(self, blobs: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
        return {blob for blob in blobs if self.has_blob(*blob)}

    def blobs(self) -> Iterator[Blob]:
        now_s = time.time()
        for part in list(self.list("blobs")):
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.root / "blobs" / part) as found:
                for file in found:
                    with suppress(FileNotFoundError):
                        status = file.stat(follow_symlinks=False)
                        yield Blob(file.name, status.st_size, now_s - status.st_mtime)

    def remove_blob(self, digest: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._blob(digest))

    def uploads(self) -> Iterator[Upload]:
        return iter(())  # a blob is moved here in one step

    def abort_upload(self, upload: Upload) -> None:
        pass

    def blob_path(self, digest: str) -> Path:
        path = self._blob(digest)
        os.stat(path)
        return Path(path)

    def verify_blob(self, digest: str, size_bytes: int) -> None:
        verify_file(self.blob_path(digest), digest=digest, size_bytes=size_bytes)

    def release_blobs(self) -> None:
        pass  # what `blob_path` gave is the blob itself

    def workspace(self, name: str, *, make: bool = True) -> Path:
        folder = self.root / "work" / name
        if make:
            with self._explained():
                os.makedirs(folder, exist_ok=True)
        return folder

    def workspaces(self, prefix: str) -> Iterator[str]:
        return self.list(f"work/{prefix}")

    def remove_workspace(self, name: str) -> None:
        shutil.rmtree(os.path.join(self.root, "work", name), ignore_errors=True)

    def shared_files(self) -> None:
        return None

    def sweep(self) -> None:
        for name in self.list("work/objects"):
            if is_left_by_dead_process(name):
                with suppress(FileNotFoundError):
                    os.unlink(self.root / "work/objects" / name)

    def _remove_empty_folders(self, folder: str) -> None:
        """Leave no trace of what was deleted in listings; the folders at the top stay.

        So do those one below, such as that of a stage, but for the object's very own: to find a large one not empty takes long.
        """
        with suppress(OSError):
            while "/" in folder:
                os.rmdir(self.root / folder)
                folder = os.path.dirname(folder)
                if folder.count("/") == 1:
                    return

    def _is_whole(self, digest: str, size_bytes: int) -> bool:
        """Whether the blob is there undamaged: one that is not would be taken for what was just made."""
        try:
            verify_file(Path(self._blob(digest)), digest=digest, size_bytes=size_bytes)
        except (IntegrityError, FileNotFoundError):
            return False
        return True

    def _blob(self, digest: str) -> str:
        return f"{self.root}/blobs/{digest[:2]}/{digest}"

    def _write_temporary(self, data: bytes, *, durable: bool) -> str:
        path = os.path.join(self.root, "work", "objects", f"{process_mark()}-{next(_numbers)}")
        descriptor = _open_for_writing(path, os.O_EXCL)  # never write into a file that may be linked as an object
        try:
            _write_all(descriptor, data)
            if durable:
                os.fsync(descriptor)
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(descriptor)
        return path

    @contextmanager
    def _locked(self, path: str) -> Iterator[None]:
        number = int(digest_bytes(path.encode())[:4], 16) % _NUM_LOCKS
        descriptor = _open_for_writing(os.path.join(self.root, "work", "locks", str(number)), 0)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"cannot write to the store {self.root}: {error.strerror or error}",
                next_step="check its permissions and free space, or choose another with --store",
            ) from error


def _open_for_writing(path: str, flags: int) -> int:
    flags |= os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o644)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, flags, 0o644)


def _write_all(descriptor: int, data: bytes) -> None:
    """`os.write` may write less than it was given (a disk that is almost full), without an error."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _place(move: Callable[[], None], target: str) -> None:
    for _ in range(_NUM_PLACINGS):  # more than one: somebody who deletes may remove the empty folder again
        with suppress(FileNotFoundError):
            move()
            return
        with suppress(FileNotFoundError):
            os.makedirs(os.path.dirname(target), exist_ok=True)
    move()


def _copied(source: Path) -> Path:
    copy = source.with_name(f"{source.name}.copy-{os.getpid()}")
    shutil.copyfile(source, copy)
    os.unlink(source)
    return copy


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
