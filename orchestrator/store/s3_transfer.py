"""Large objects up and down in parallel parts with bounded memory: at most `NUM_THREADS` parts (up) or chunks (down) at once.

Up: multipart, each part signed with its SHA-256: the server refuses what the network has changed. Down: ranged reads that
name the version they began with, each picked up where its connection broke; the digest is taken in order as parts arrive.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from blake3 import blake3

from orchestrator.errors import IntegrityError, StoreError
from orchestrator.store.parallel import in_parallel
from orchestrator.store.s3_client import Broken, Refused, S3Client, retried

PART_BYTES = 8 * 2**20
NUM_THREADS = 8
_MAX_PARTS = 10_000  # of S3
_CHUNK_BYTES = 2**20
_HASH_BYTES = 2**20
_EMPTY_RANGE = "InvalidRange"


def upload(client: S3Client, path: str, source: Path) -> None:
    """Store a file as an object; one request for small ones. A stopped upload leaves no parts behind."""
    size_bytes = source.stat().st_size
    if size_bytes <= PART_BYTES:
        client.call("put_object", path, Body=source.read_bytes())
        return
    part_bytes = max(PART_BYTES, -(-size_bytes // _MAX_PARTS))
    upload_id = client.call("create_multipart_upload", path)["UploadId"]

    of_thread = threading.local()

    def send(number: int) -> dict[str, Any]:
        length = min(part_bytes, size_bytes - number * part_bytes)
        body = getattr(of_thread, "body", b"")
        if len(body) != length:
            body = of_thread.body = bytearray(length)  # used for part after part: fresh memory costs more than the digest
        with source.open("rb", buffering=0) as file:
            file.seek(number * part_bytes)
            if file.readinto(body) != length:
                raise StoreError(f"{source} became shorter while it was sent", next_step="run the command again")
        answer = client.call("upload_part", path, UploadId=upload_id, PartNumber=number + 1, Body=body)
        return {"PartNumber": number + 1, "ETag": answer["ETag"]}

    try:
        parts = list(in_parallel(send, range(-(-size_bytes // part_bytes)), width=NUM_THREADS))
        _complete(client, path, upload_id, parts, size_bytes=size_bytes)
    except BaseException:
        with suppress(StoreError, KeyError):
            client.call("abort_multipart_upload", path, UploadId=upload_id)
        raise


def _complete(client: S3Client, path: str, upload_id: str, parts: list[dict[str, Any]], *, size_bytes: int) -> None:
    """Put the parts together. One whose answer was lost is sent again, and then the server knows no such upload any more."""
    try:
        client.call("complete_multipart_upload", path, UploadId=upload_id, MultipartUpload={"Parts": parts})
    except (StoreError, KeyError):
        found = client.head(path)
        if found is None or found["ContentLength"] != size_bytes:
            raise


def download(client: S3Client, path: str, target: Path, digest: str) -> None:
    """Fill a local file; KeyError if there is no such object, IntegrityError if its content is not that of `digest`."""
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        _fill(client, path, descriptor, digest)
    except Refused:
        raise StoreError(
            f"{client.place.url}/{path} was replaced while it was read", next_step="run the command again"
        ) from None
    finally:
        os.close(descriptor)


def _fill(client: S3Client, path: str, descriptor: int, digest: str) -> None:
    size_bytes, version = _fetch_range(client, path, descriptor, 0, PART_BYTES, version="")
    hasher = blake3()
    _hash(hasher, descriptor, 0, min(size_bytes, PART_BYTES))
    num_more = -(-(size_bytes - PART_BYTES) // PART_BYTES) if size_bytes > PART_BYTES else 0

    def fetch(number: int) -> int:
        start = (number + 1) * PART_BYTES
        _fetch_range(client, path, descriptor, start, min(size_bytes, start + PART_BYTES), version=version)
        return start

    if num_more:
        for start in in_parallel(fetch, range(num_more), width=NUM_THREADS):
            _hash(hasher, descriptor, start, min(size_bytes, start + PART_BYTES))
    if hasher.hexdigest() != digest:
        raise IntegrityError(f"{client.place.url}/{path} is damaged: its {size_bytes} bytes do not match digest {digest[:12]}")


def _fetch_range(client: S3Client, path: str, descriptor: int, start: int, end: int, *, version: str) -> tuple[int, str]:
    """Write bytes `start` to `end` into the file; returns the object's whole size and its version."""
    place = start

    def read() -> tuple[int, str]:
        nonlocal place
        condition = {"IfMatch": version} if version else {}
        try:
            answer = client.call("get_object", path, Range=f"bytes={place}-{end - 1}", **condition)
        except StoreError as error:
            if start == 0 and _EMPTY_RANGE in error.message:
                return 0, ""
            raise
        whole = answer.get("ContentRange")
        size_bytes = int(whole.rpartition("/")[2]) if whole else answer["ContentLength"]
        if not whole and place:
            raise StoreError(f"{client.place.url}: the server does not serve parts of objects (Range)")
        with client.explained(path, is_body=True), answer["Body"] as body:
            while place < min(end, size_bytes):
                chunk = body.read(min(_CHUNK_BYTES, end - place))
                if not chunk:
                    break
                _write(descriptor, chunk, place)
                place += len(chunk)
        if place < min(end, size_bytes):
            raise Broken(f"{client.place.url}/{path}: the answer was cut short")
        return size_bytes, answer["ETag"]

    return retried(read)


def _write(descriptor: int, data: bytes, place: int) -> None:
    """All of it: `os.pwrite` may write less than it was given (a disk that is almost full), without an error."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, place)
        view, place = view[written:], place + written


def _hash(hasher: Any, descriptor: int, start: int, end: int) -> None:
    buffer = memoryview(bytearray(min(_HASH_BYTES, end - start)))
    while start < end and (length := os.preadv(descriptor, [buffer[: end - start]], start)):
        hasher.update(buffer[:length])
        start += length
