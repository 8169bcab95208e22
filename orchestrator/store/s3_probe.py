"""Does this server honour preconditions? Found out by writing one key twice, once a day for each server and machine.

Some servers (rclone's, older gateways) answer 200 to `If-None-Match: *` and overwrite. What rests on preconditions - leases,
records created once - would then only look safe, so the store must know.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.store.s3_client import Refused, S3Client

_REMEMBERED_S = 86_400.0
_WRONG = "0123456789abcdef0123456789abcdef"
"""A version that never was."""


@dataclass(frozen=True, kw_only=True)
class Promises:
    """Which preconditions the server has been seen to honour."""

    creates_once: bool
    replaces_by_version: bool
    deletes_by_version: bool
    quotes_versions: bool = True

    @property
    def is_safe(self) -> bool:
        """Whether several machines may share a store there; deletes can do without (see `s3.S3Store.delete`)."""
        return self.creates_once and self.replaces_by_version

    def missing(self) -> str:
        """What the server does not honour, for people."""
        found = {
            "If-None-Match: * on PUT": self.creates_once,
            "If-Match on PUT": self.replaces_by_version,
            "If-Match on DELETE": self.deletes_by_version,
        }
        return ", ".join(name for name, is_honoured in found.items() if not is_honoured)


def remembered_promises(client: S3Client, folder: Path) -> Promises:
    """What an earlier process of this machine has found out, or what `probe` finds now."""
    name = hashlib.blake2b(f"{client.endpoint} {client.place.bucket}".encode(), digest_size=16).hexdigest()
    file = folder / f"{name}.json"
    with suppress(OSError, ValueError, TypeError):
        if 0 <= time.time() - file.stat().st_mtime < _REMEMBERED_S:
            return Promises(**json.loads(file.read_bytes()))
    found = probe(client)
    with suppress(OSError):  # a folder that cannot be written costs a probe the next time
        folder.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f"{name}.{uuid.uuid4().hex}")
        new.write_text(json.dumps(vars(found)))
        new.replace(file)
    return found


def probe(client: S3Client) -> Promises:
    """Write one key twice, replace and delete it with wrong and right versions; about ten small requests."""
    path = f"probe/{uuid.uuid4().hex}"
    client.put(path, b"1")
    try:
        client.quotes_versions = True
        creates_once = not _is_done(lambda: client.put(path, b"2", if_absent=True))
        replaces = not _is_done(lambda: client.put(path, b"3", if_version=_WRONG))
        if replaces and not _replaces(client, path):
            client.quotes_versions = False
            replaces = _replaces(client, path)
        return Promises(
            creates_once=creates_once,
            replaces_by_version=replaces,
            deletes_by_version=_deletes(client, path),
            quotes_versions=client.quotes_versions,
        )
    finally:
        with suppress(StoreError, KeyError):
            client.delete(path)


def _replaces(client: S3Client, path: str) -> bool:
    found = client.get(path)
    return found is not None and _is_done(lambda: client.put(path, b"4", if_version=found.version))


def _deletes(client: S3Client, path: str) -> bool:
    """Whether a wrong version spares the object and the right one does not.

    What the server answered to the right one says nothing: where an answer is lost, the second try finds nothing to delete.
    """
    _is_done(lambda: client.delete(path, IfMatch=client.condition(_WRONG)))
    found = client.get(path)
    if found is None:
        return False
    _is_done(lambda: client.delete(path, IfMatch=client.condition(found.version)))
    return client.head(path) is None


def _is_done(change: Callable[[], object]) -> bool:
    """False if the server refused, or does not know such requests."""
    try:
        change()
    except (Refused, KeyError):
        return False
    except StoreError as error:
        if "NotImplemented" in error.message:
            return False
        raise
    return True
