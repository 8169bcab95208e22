"""The store in a bucket: small objects by conditional requests, blobs in parallel parts behind a cache on this machine.

What several machines may do together rests on the server refusing `If-None-Match` and `If-Match`; where it does not
(`s3_probe`), conditional changes raise StoreError instead of looking safe. Unfinished work stays in folders of this machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from pathlib import Path

from orchestrator.errors import IntegrityError, StoreError
from orchestrator.store.base import Blob, Entry, Upload
from orchestrator.store.cache import RECORDS, BlobCache, cache_folder
from orchestrator.store.s3_client import Place, Refused, S3Client
from orchestrator.store.s3_files import S3Files
from orchestrator.store.s3_log import Logs
from orchestrator.store.s3_many import ManyObjects
from orchestrator.store.s3_probe import Promises, remembered_promises
from orchestrator.store.seen import SeenObjects

ONE_MACHINE_VARIABLE = "ORCHESTRATOR_S3_ONE_MACHINE"
_REMOVED = b"orchestrator: removed "
_REMOVED_BYTES = len(_REMOVED) + 32
_NUM_LOCKS = 64


class S3Store:
    """Objects `<prefix>/<path>`, blobs `<prefix>/blobs/<2>/<digest>`; opening it asks nothing of the server."""

    width = 24
    """Requests at once: more do not help one Python process, and stay below `MAX_CONNECTIONS`."""

    def __init__(self, url: str) -> None:
        self.client = S3Client(Place.parse(url))
        self.url = self.client.place.url
        self.cache_folder = cache_folder()
        self.cache = BlobCache(self.cache_folder)
        self._work = self.cache_folder / "work" / hashlib.blake2b(self.url.encode(), digest_size=8).hexdigest()
        self._many = ManyObjects(self.client, lambda: self._seen, is_removed=_is_removed, width=self.width)
        self._logs = Logs(self.client, self._work / "logs", has_conditions=lambda: self.promises.is_safe)

    @cached_property
    def promises(self) -> Promises:
        """Which preconditions this server honours; asked for once."""
        found = remembered_promises(self.client, self.cache_folder / "servers")
        self.client.quotes_versions = found.quotes_versions
        return found

    @cached_property
    def _seen(self) -> SeenObjects:
        place = hashlib.blake2b(f"{self.client.endpoint} {self.url}".encode(), digest_size=8).hexdigest()
        return SeenObjects(self.cache_folder / RECORDS / place)

    @property
    def is_for_one_machine(self) -> bool:
        """Whether the user has promised that only this machine uses the store, so that its own locks are enough."""
        return os.environ.get(ONE_MACHINE_VARIABLE) == "1"

    def caution(self) -> str:
        if self.promises.is_safe:
            return ""
        return f"{self.client.endpoint} does not honour {self.promises.missing()}: two machines could make one artifact at once"

    # Small objects

    def read(self, path: str) -> Entry | None:
        found = self.client.get(path)
        return None if found is None or _is_removed(found.data) else found

    def read_many(self, paths: Iterable[str]) -> dict[str, Entry]:
        return self._many.read_many(paths)

    def read_below(self, folder: str, file: str) -> Iterator[tuple[str, Entry]]:
        return self._many.read_below(folder, file)

    def create(self, path: str, data: bytes, *, durable: bool = True) -> str | None:  # noqa: ARG002 - an answer of the server means that it is kept
        return self._noted(path, data, self._create(path, data))

    def replace(self, path: str, data: bytes, *, version: str, durable: bool = True) -> str | None:  # noqa: ARG002 - an answer of the server means that it is kept
        return self._noted(path, data, self._replace(path, data, version))

    def _create(self, path: str, data: bytes) -> str | None:
        if self._locks_itself():
            with self._locked(path):
                return None if self.read(path) is not None else self.client.put(path, data)
        try:
            return self.client.put(path, data, if_absent=True)
        except Refused:
            return self._put_over_removed(path, data)

    def _replace(self, path: str, data: bytes, version: str) -> str | None:
        if self._locks_itself():
            with self._locked(path):
                return self.client.put(path, data) if self._has_version(path, version) else None
        try:
            return self.client.put(path, data, if_version=version)
        except Refused:
            return None

    def delete(self, path: str, *, version: str | None = None) -> bool:
        if version is None:
            if self.read(path) is None:
                return self._logs.remove(path)
            self.client.delete(path)
            return True
        if self._locks_itself():
            with self._locked(path):
                if not self._has_version(path, version):
                    return False
                self.client.delete(path)
                return True
        if not self.promises.deletes_by_version:
            return self._replace(path, _REMOVED + uuid.uuid4().hex.encode(), version) is not None
        try:
            self.client.delete(path, IfMatch=self.client.condition(version))
        except (Refused, KeyError):
            return False
        return True

    def list(self, prefix: str) -> Iterator[str]:
        for page in self.client.pages(f"{prefix}/"):
            doubtful = {f"{prefix}/{found.name}": found for found in page.listed if found.size_bytes == _REMOVED_BYTES}
            standing = dict(self._many.contents(doubtful))
            for found in page.listed:
                path = f"{prefix}/{found.name}"
                if path not in doubtful or path in standing:
                    yield found.name

    # Logs

    def append(self, path: str, data: bytes) -> None:
        self._logs.append(path, data)

    def read_log(self, path: str, *, offset: int = 0) -> bytes:
        return self._logs.read(path, offset)

    def log_file(self, path: str) -> AbstractContextManager[Path]:
        return self._logs.file(path)

    # Blobs

    def put_blob(self, source: Path, digest: str, *, durable: bool = True) -> None:  # noqa: ARG002 - as above
        from orchestrator.store.s3_transfer import upload

        if not self.has_blob(digest, source.stat().st_size):
            upload(self.client, _blob(digest), source)
        self.cache.put(source, digest)

    def has_blob(self, digest: str, size_bytes: int) -> bool:
        found = self.client.head(_blob(digest))
        return found is not None and found["ContentLength"] == size_bytes

    def which_blobs(self, blobs: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
        sizes: dict[str, set[tuple[str, int]]] = {}
        for digest, size_bytes in blobs:
            sizes.setdefault(_blob(digest), set()).add((digest, size_bytes))
        return self._many.which_blobs(sizes, self.has_blob)

    def blobs(self) -> Iterator[Blob]:
        for found in self.client.list("blobs/", is_deep=True):
            yield Blob(found.name.rpartition("/")[2], found.size_bytes, found.age_s)

    def remove_blob(self, digest: str) -> None:
        self.cache.drop(digest)
        self.client.delete(_blob(digest))

    def uploads(self) -> Iterator[Upload]:
        yield from self.client.uploads()

    def abort_upload(self, upload: Upload) -> None:
        with suppress(KeyError):
            self.client.call("abort_multipart_upload", upload.path, UploadId=upload.id)

    def blob_path(self, digest: str) -> Path:
        with self._fetching(digest):
            return self.cache.open(digest, lambda target: self._fetch(digest, target))

    def verify_blob(self, digest: str, size_bytes: int) -> None:
        with self._fetching(digest):
            target = self.cache.new_file(digest)
            try:
                self._fetch(digest, target)
                if target.stat().st_size != size_bytes:
                    raise IntegrityError(f"{self.url}/{_blob(digest)} has {target.stat().st_size} bytes, not {size_bytes}")
            finally:
                target.unlink(missing_ok=True)

    def _fetch(self, digest: str, target: Path) -> None:
        from orchestrator.store.s3_transfer import download

        download(self.client, _blob(digest), target, digest)

    @contextmanager
    def _fetching(self, digest: str) -> Iterator[None]:
        try:
            yield
        except KeyError:
            raise FileNotFoundError(f"{self.url}/{_blob(digest)}") from None
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(
                f"the cache {self.cache_folder} cannot take a file: {error.strerror or error}",
                next_step="free some space there, or choose another folder: ORCHESTRATOR_CACHE=DIR",
            ) from error

    def release_blobs(self) -> None:
        self.cache.release()

    # Unfinished work: folders of this machine, on the disk of the cache, so that a blob is taken over by a rename

    def workspace(self, name: str, *, make: bool = True) -> Path:
        folder = self._work / name
        if make:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(
                    f"cannot make {folder}: {error.strerror}", next_step="choose another folder: ORCHESTRATOR_CACHE=DIR"
                ) from error
        return folder

    def workspaces(self, prefix: str) -> Iterator[str]:
        with suppress(FileNotFoundError, NotADirectoryError):
            yield from [folder.name for folder in (self._work / prefix).iterdir()]

    def remove_workspace(self, name: str) -> None:
        shutil.rmtree(self._work / name, ignore_errors=True)

    def shared_files(self) -> S3Files:
        return S3Files(self.client, width=self.width)

    def sweep(self) -> None:
        self._logs.rescue()
        self._logs.flush()
        self.cache.sweep()

    # Servers that honour no preconditions, or not all

    def _locks_itself(self) -> bool:
        """Whether to use locks of this machine instead of preconditions; StoreError where neither would be safe."""
        if self.promises.is_safe:
            return False
        if self.is_for_one_machine:
            return True
        raise StoreError(
            f"{self.url}: {self.caution()}",
            next_step=f"use another server; or, if no other machine ever writes to this store: export {ONE_MACHINE_VARIABLE}=1",
        )

    @contextmanager
    def _locked(self, path: str) -> Iterator[None]:
        number = int(hashlib.blake2b(path.encode(), digest_size=4).hexdigest(), 16) % _NUM_LOCKS
        folder = self.workspace("locks")
        descriptor = os.open(folder / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _noted(self, path: str, data: bytes, version: str | None) -> str | None:
        """Remember what was written as a record: this machine will ask for it again."""
        if version is not None and path.startswith("artifacts/"):
            self._seen.remember(path, version, data)
        return version

    def _has_version(self, path: str, version: str) -> bool:
        entry = self.read(path)
        return entry is not None and entry.version == version

    def _put_over_removed(self, path: str, data: bytes) -> str | None:
        """What was removed may be a mark that says so, and may be written over.

        It is on servers that cannot delete by version; and on others, from a process whose probe was disturbed.
        """
        found = self.client.get(path)
        if found is None or not _is_removed(found.data):
            return None
        try:
            return self.client.put(path, data, if_version=found.version)
        except Refused:
            return None


def _is_removed(data: bytes) -> bool:
    return len(data) == _REMOVED_BYTES and data.startswith(_REMOVED)


def _blob(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"
