"""Files of any size by path on S3, beside blobs: what machines pass on to each other while it is unfinished. Not cached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.store.base import SharedFile
from orchestrator.store.parallel import in_parallel
from orchestrator.store.s3_client import S3Client


class S3Files:
    """Put, fetched and verified, listed and removed; conditions are the business of the objects that name them."""

    def __init__(self, client: S3Client, *, width: int) -> None:
        self._client = client
        self._width = width

    def put(self, path: str, source: Path) -> None:
        from orchestrator.store.s3_transfer import upload

        upload(self._client, path, source)

    def fetch(self, path: str, target: Path, digest: str) -> None:
        from orchestrator.store.s3_transfer import download

        try:
            download(self._client, path, target, digest)
        except KeyError:
            raise FileNotFoundError(f"{self._client.place.url}/{path}") from None

    def list(self, prefix: str) -> Iterator[SharedFile]:
        for found in self._client.list(f"{prefix}/", is_deep=True):
            yield SharedFile(found.name, found.size_bytes, found.age_s)

    def remove(self, prefix: str) -> None:
        paths = [f"{prefix}/{found.name}" for found in self.list(prefix)]
        for _ in in_parallel(self._client.delete, paths, width=self._width):
            pass
