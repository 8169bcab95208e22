"""Where the attempts of one worker write. Knows no stage and no ledger."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.store.base import Store
from orchestrator.store.processes import process_mark


class AttemptFolders:
    """Where one worker's attempts write: a folder of this process alone, so that no other can come in between.

    Each attempt finds empty folders under names never used before (what an earlier stage's thread still writes goes astray);
    they are renamed rather than made again, because removing a folder takes some file systems longer than all the rest.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._name = f"attempts/{process_mark()}-{uuid.uuid4().hex[:8]}"
        self._number = 0
        self._empty: list[Path] = []

    @contextmanager
    def fresh(self) -> Iterator[tuple[Path, Path]]:
        """Folders for the output and for temporary files of one attempt."""
        self._number += 1
        place = self._store.workspace(self._name, make=not self._empty)
        output, scratch = place / f"output-{self._number}", place / f"scratch-{self._number}"
        for folder in (output, scratch):
            try:
                self._empty.pop().rename(folder)
            except (IndexError, FileNotFoundError):
                folder.mkdir(parents=True)
        try:
            yield output, scratch
        finally:
            for folder in (output, scratch):
                if folder.is_symlink() or not folder.is_dir() or any(folder.iterdir()):
                    self._store.remove_workspace(f"{self._name}/{folder.name}")
                else:
                    self._empty.append(folder)

    def close(self) -> None:
        """Remove it all."""
        self._empty.clear()
        self._store.remove_workspace(self._name)
