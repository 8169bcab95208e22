"""Small objects that this machine has written or fetched, by the version that the store gave them: what a listing shows
unchanged need not be fetched again. Never says that an object stands: only a listing knows that. Knows no server.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from orchestrator.store.blobs import digest_bytes
from orchestrator.store.processes import process_mark


class SeenObjects:
    """A folder with one file for each object: its version and a digest, then its content. May be removed at any time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, path: str, version: str) -> bytes | None:
        """The content that the object had with this version, if it is at hand and undamaged."""
        with suppress(OSError):
            head, _, data = self._file(path).read_bytes().partition(b"\n")
            if head == _head(version, data):
                return data
        return None

    def remember(self, path: str, version: str, data: bytes) -> None:
        """Keep it; quiet where that fails, since it can be fetched again."""
        file = self._file(path)
        new = file.with_name(f"{file.name}.{process_mark()}")
        content = b"%b\n%b" % (_head(version, data), data)
        with suppress(OSError):
            try:
                new.write_bytes(content)
            except FileNotFoundError:
                new.parent.mkdir(parents=True, exist_ok=True)
                new.write_bytes(content)
            new.replace(file)

    def _file(self, path: str) -> Path:
        name = digest_bytes(path.encode())
        return self.folder / name[:2] / name[2:34]


def _head(version: str, data: bytes) -> bytes:
    return f"{version} {digest_bytes(data)}".encode()
