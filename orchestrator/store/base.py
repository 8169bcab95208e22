"""The store as the rest of the house sees it: a few conditional operations on small objects, and blobs by content.

Everything above (artifact records, leases, the ledger) is built from these operations alone, and a back end has nothing
else to provide. Each operation either took effect whole or not at all. Paths are relative, with forward slashes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from orchestrator.errors import UsageError

DEFAULT_STORE = ".orchestrator"
STORE_VARIABLE = "ORCHESTRATOR_STORE"


@dataclass(frozen=True)
class Entry:
    """A small object and the version that a conditional change must name (a content digest here, an ETag on S3).

    `age_s` is the time since it was written, by the clock of the server alone; 0.0 where there is no server.
    """

    data: bytes
    version: str
    age_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Blob:
    """A blob as the store lists it; `age_s` is the time since it was put, by the store's own clock."""

    digest: str
    size_bytes: int
    age_s: float


@dataclass(frozen=True)
class SharedFile:
    """A file as `SharedFiles.list` tells it; `age_s` is the time since it was put, by the store's own clock."""

    name: str
    size_bytes: int
    age_s: float


class SharedFiles(Protocol):
    """Files of any size by path, for unfinished work that another machine may go on with. Nothing here is conditional."""

    def put(self, path: str, source: Path) -> None:
        """Store a copy of a local file."""

    def fetch(self, path: str, target: Path, digest: str) -> None:
        """Fill a local file; FileNotFoundError if there is no such file, IntegrityError if it has another digest."""

    def list(self, prefix: str) -> Iterator[SharedFile]:
        """Every file below a folder-like prefix, however deep, in no order."""

    def remove(self, prefix: str) -> None:
        """Remove every file below a folder-like prefix."""


@dataclass(frozen=True)
class Upload:
    """A blob that was begun and not finished, of which no listing tells; `age_s` by the store's own clock."""

    path: str
    id: str
    age_s: float


class Store(Protocol):
    """Operations of a back end. `durable=False` may be used for what need not outlive the machine (leases, progress)."""

    url: str
    width: int
    """How many requests are worth making at once: 1 where each costs microseconds."""

    def caution(self) -> str:
        """Why several machines may not share this store; empty if they may."""

    def read(self, path: str) -> Entry | None:
        """The object, or None if there is none."""

    def read_many(self, paths: Iterable[str]) -> Mapping[str, Entry]:
        """Those of many objects that stand, by path, as they are now; what is known unchanged is not fetched again."""

    def read_below(self, folder: str, file: str) -> Iterator[tuple[str, Entry]]:
        """(name, content) of every object `folder/<name>/file`, in no order; likewise."""

    def create(self, path: str, data: bytes, *, durable: bool = True) -> str | None:
        """Store a new object and return its version; None, changing nothing, if one exists: the first writer wins."""

    def replace(self, path: str, data: bytes, *, version: str, durable: bool = True) -> str | None:
        """Replace the object only if it still has `version`; returns the new version, or None if it has moved on."""

    def delete(self, path: str, *, version: str | None = None) -> bool:
        """Remove the object (only if it still has `version`, where one is given); False if nothing was removed."""

    def append(self, path: str, data: bytes) -> None:
        """Add to a log that has any number of readers and one writer at a time."""

    def read_log(self, path: str, *, offset: int = 0) -> bytes:
        """What was appended, from byte `offset` on; empty if there is no such log."""

    def log_file(self, path: str) -> AbstractContextManager[Path]:
        """A local file to write to; its content is the log `path`, readable while it grows where the store allows."""

    def list(self, prefix: str) -> Iterator[str]:
        """Names directly below a folder-like prefix, in no order."""

    def put_blob(self, source: Path, digest: str, *, durable: bool = True) -> None:
        """Take over a local file as the blob `digest`; the source is moved or removed.

        A blob that is there is kept if it is whole, as far as that can be known without a transfer.
        """

    def has_blob(self, digest: str, size_bytes: int) -> bool:
        """Whether the blob is there with this size; reads no content."""

    def which_blobs(self, blobs: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
        """Those of many blobs (digest and size) that are there."""

    def blobs(self) -> Iterator[Blob]:
        """Every blob, in no order. Put while the listing goes on, one may be in it or not."""

    def remove_blob(self, digest: str) -> None:
        """Remove a blob that was found damaged or that nothing names any more; quiet if there is none."""

    def uploads(self) -> Iterator[Upload]:
        """Unfinished uploads of any process and machine, of which some may be going on."""

    def abort_upload(self, upload: Upload) -> None:
        """Remove the parts of an unfinished upload; quiet if there is none."""

    def blob_path(self, digest: str) -> Path:
        """A local, read-only file with the blob's content (not verified); raises FileNotFoundError.

        IntegrityError where it had to be fetched and was damaged. It stays until `release_blobs`.
        """

    def verify_blob(self, digest: str, size_bytes: int) -> None:
        """Read the blob where the store keeps it, never a copy on this machine; FileNotFoundError or IntegrityError."""

    def release_blobs(self) -> None:
        """The files that `blob_path` gave to this process need not stay any longer: a cache may drop them."""

    def workspace(self, name: str, *, make: bool = True) -> Path:
        """A local folder for work in progress from which `put_blob` is cheap; made if needed, or left to the caller."""

    def workspaces(self, prefix: str) -> Iterator[str]:
        """Names of the workspaces directly below `prefix`, of this machine."""

    def remove_workspace(self, name: str) -> None:
        """Remove a workspace and all in it; quiet if there is none."""

    def shared_files(self) -> SharedFiles | None:
        """Where saved states are copied for other machines; None where all of them see the workspaces themselves."""

    def sweep(self) -> None:
        """Remove what killed processes left half written."""


def open_store(url: str | None = None) -> Store:
    """The store at `url` (a folder, or s3://bucket/prefix); by default ORCHESTRATOR_STORE, else the folder `.orchestrator`."""
    place = url or os.environ.get(STORE_VARIABLE) or DEFAULT_STORE
    if place.startswith("s3://"):
        from orchestrator.store.s3 import S3Store

        return S3Store(place)
    if "://" in place and not place.startswith("file://"):
        raise UsageError(
            f'store "{place.partition("://")[0]}://...": no such kind of store; expected a folder or s3://bucket/prefix',
            next_step="orchestrator --store ./artifacts ...",
        )
    from orchestrator.store.local import LocalStore

    return LocalStore(Path(place.removeprefix("file://")))
