"""Does this server honour preconditions? Found out by writing one key twice, once a day for each server and machine.

Some servers (rclone's, older gateways) answer 200 to `If-None-Match: *` and overwrite. What rests on preconditions - leases,
records created once - would then only look safe, so the store must know.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.store.s3_client import Refused, S3Client

_REMEMBERED_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Promises:
    """Which preconditions the server has been seen to honour."""

    creates_once: bool
    replaces_by_version: bool
    deletes_by_version: bool

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
    """Write one key twice, replace it and delete it with wrong versions; about six small requests."""
    path = f"probe/{uuid.uuid4().hex}"
    wrong = hashlib.md5(b"a version that never was", usedforsecurity=False).hexdigest()
    client.put(path, b"1")
    try:
        return Promises(
            creates_once=_is_refused(client, path, if_absent=True),
            replaces_by_version=_is_refused(client, path, if_version=wrong),
            deletes_by_version=_spares(client, path, wrong),
        )
    finally:
        with suppress(StoreError, KeyError):
            client.delete(path)


def _is_refused(client: S3Client, path: str, *, if_absent: bool = False, if_version: str = "") -> bool:
    try:
        client.put(path, b"2", if_absent=if_absent, if_version=if_version)
    except Refused:
        return True
    except StoreError as error:
        if "NotImplemented" in error.message:
            return False
        raise
    return False


def _spares(client: S3Client, path: str, version: str) -> bool:
    with suppress(Refused, StoreError):
        client.delete(path, IfMatch=f'"{version}"')
    found = client.head(path) is not None
    if not found:
        return False
    try:  # a server that refuses every such request is of no use either
        entry = client.get(path)
        client.delete(path, IfMatch=f'"{entry[1]}"' if entry is not None else "")
    except (Refused, StoreError):
        return False
    return client.head(path) is None
