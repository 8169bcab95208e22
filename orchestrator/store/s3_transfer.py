"""Large objects up and down with bounded memory: at most `NUM_THREADS` parts (up) or chunks (down) at once.

Up: multipart, each part signed with its SHA-256: the server refuses what the network has changed. Down: one stream, and where
that turns out slow, as over long distances, ranges in parallel; both name the version that they began with, are picked up where
a connection broke, and have their digest taken as they arrive. Why not always ranges: `docs/decisions/0016-*.md`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from blake3 import blake3

from orchestrator.errors import IntegrityError, StoreError
from orchestrator.store.parallel import in_parallel
from orchestrator.store.s3_client import Broken, Refused, S3Client, pause
from orchestrator.store.s3_connect import MAX_ATTEMPTS

PART_BYTES = 6 * 2**20  # times the threads: what an upload holds in memory
NUM_THREADS = 8
_MAX_PARTS = 10_000  # of S3
JUDGED_BYTES = 16 * 2**20
FAST_BYTES_PER_S = 256e6
"""A stream that brings its first `JUDGED_BYTES` at this rate goes on: ranges gain little, and cost some servers much."""
_CHUNK_BYTES = 256 * 2**10  # larger ones come in fresh memory each time


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
        found = _Download(client, path, descriptor).run()
    except Refused:
        raise StoreError(
            f"{client.place.url}/{path} was replaced while it was read", next_step="run the command again"
        ) from None
    finally:
        os.close(descriptor)
    if found != digest:
        raise IntegrityError(
            f"{client.place.url}/{path} is damaged: its {target.stat().st_size} bytes do not match digest {digest[:12]}"
        )


class _Download:
    """One object on its way into a file; its size and its version are those that the first answer names."""

    def __init__(self, client: S3Client, path: str, descriptor: int) -> None:
        self._client = client
        self._path = path
        self._descriptor = descriptor
        self._size_bytes = 0
        self._version = ""
        self._hasher = blake3()

    def run(self) -> str:
        """Fetch all of it; returns its digest."""
        place = self._stream()
        starts = range(place, self._size_bytes, PART_BYTES)
        for start in in_parallel(self._fetch, starts, width=NUM_THREADS):
            self._hash(start, min(self._size_bytes, start + PART_BYTES))
        return self._hasher.hexdigest()

    def _stream(self) -> int:
        """Read from the beginning, up to the end or until that proves slow; returns how far it came."""
        place, began_s = 0, 0.0
        with closing(self._chunks(0, None)) as chunks:
            for chunk in chunks:
                began_s = began_s or time.monotonic()
                self._hasher.update(chunk)
                is_judged = place < JUDGED_BYTES <= place + len(chunk)
                place += len(chunk)
                if is_judged and place < (time.monotonic() - began_s) * FAST_BYTES_PER_S:
                    break
        return place

    def _fetch(self, start: int) -> int:
        for _ in self._chunks(start, min(self._size_bytes, start + PART_BYTES)):
            pass
        return start

    def _chunks(self, start: int, end: int | None) -> Generator[bytes, None, None]:
        """Bytes from `start` up to `end` (or all), as they come and are written; asked for again where a connection breaks."""
        place, number, last_break = start, 0, start
        while True:
            try:
                for chunk in self._ask(place, end):
                    _write(self._descriptor, chunk, place)
                    place += len(chunk)
                    yield chunk
            except Broken:
                number = 1 if place - last_break >= PART_BYTES else number + 1
                if number == MAX_ATTEMPTS:
                    raise
                last_break = place
                pause(number - 1)
            else:
                return

    def _ask(self, place: int, end: int | None) -> Generator[bytes, None, None]:
        """What one request brings; Broken if that is not all."""
        condition = {"IfMatch": self._version} if self._version else {}
        part = {"Range": f"bytes={place}-{'' if end is None else end - 1}"} if place else {}
        answer = self._client.call("get_object", self._path, **condition, **part)
        if not self._version:
            self._size_bytes, self._version = answer["ContentLength"], answer["ETag"]
        if part and "ContentRange" not in answer:
            raise StoreError(f"{self._client.place.url}: the server does not serve parts of objects (Range)")
        missing = (self._size_bytes if end is None else end) - place
        with answer["Body"] as body:
            while missing:
                with self._client.explained(self._path, is_body=True):
                    chunk = body.read(min(_CHUNK_BYTES, missing))
                if not chunk:
                    raise Broken(f"{self._client.place.url}/{self._path}: the answer was cut short")
                missing -= len(chunk)
                yield chunk

    def _hash(self, start: int, end: int) -> None:
        """Take parts of the file into the digest, in order."""
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        while start < end and (length := os.preadv(self._descriptor, [buffer[: end - start]], start)):
            self._hasher.update(buffer[:length])
            start += length


def _write(descriptor: int, data: bytes, place: int) -> None:
    """All of it: `os.pwrite` may write less than it was given (a disk that is almost full), without an error."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, place)
        view, place = view[written:], place + written
