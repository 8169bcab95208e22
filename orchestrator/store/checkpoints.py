"""Saved states of unfinished nodes in the store, so that another machine goes on where a lost one had come to.

checkpoints/<key>/states.json           which states are whole, newest first, and the token of the lease that wrote it last
checkpoints/<key>/<step>-<token>/...    the files of one state, under a name that no other holder of the lease uses

`states.json` is written after the files that it names, by comparing and swapping: who has lost the lease is refused, since its
successor has put its own token there before. Files are verified when they are read. Where workspaces lie on a disk that all
machines see, none of this is needed (`Store.shared_files` is None).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import IntegrityError, LeaseLost
from orchestrator.store.base import SharedFiles, Store
from orchestrator.store.blobs import digest_file
from orchestrator.store.lease import Lease, Leases
from orchestrator.store.record_file import FileEntry, file_entry

FORMAT = 1
KEPT_STATES = 2
_INDEX = "states.json"
_FOLDER = re.compile(r"[0-9]{12}-[0-9a-f]{1,32}")
_STEP_LIMIT = 10**12


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """One whole state: the step after which it was saved, where, and its files by name."""

    step: int
    folder: str
    host: str
    files: Mapping[str, FileEntry]


class SavedStates:
    """The states of one key, as the holder of the key's lease reads and changes them.

    `confirm` asks the store whether the lease is still held, and raises LeaseLost if not.
    """

    def __init__(self, store: Store, files: SharedFiles, key: str, *, token: str, confirm: Callable[[], None]) -> None:
        self._store = store
        self._files = files
        self._place = f"checkpoints/{key}"
        self._token = token
        self._confirm = confirm
        self._version = ""
        self._states: tuple[SavedState, ...] = ()

    def open(self, *, sparing: str = "") -> tuple[SavedState, ...]:
        """The states there are, newest first; from now on an earlier holder of the lease can change nothing.

        What a killed holder had half copied goes, except for the folder `sparing`. One request where nothing was ever saved.
        """
        while True:
            entry = self._store.read(self._index)
            if entry is None:
                self._version, self._states = "", ()
                return ()
            self._states = _decode(entry.data)
            version = self._store.replace(self._index, self._encode(self._states), version=entry.version, durable=False)
            if version is not None:
                self._version = version
                whole = {state.folder for state in self._states}
                for name in {file.name.partition("/")[0] for file in self._files.list(self._place)} - {*whole, sparing, _INDEX}:
                    self._files.remove(f"{self._place}/{name}")
                return self._states

    def fetch(self, state: SavedState, target: Path) -> None:
        """Fill a folder with a state's files; IntegrityError if one is missing or damaged."""
        for name, entry in state.files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._files.fetch(f"{self._place}/{state.folder}/{name}", path, entry.digest)
            except FileNotFoundError as error:
                raise IntegrityError(f"{error} is missing") from error

    def add(self, step: int, folder: Path, *, host: str) -> None:
        """Copy a saved state here and drop all but the newest `KEPT_STATES`; LeaseLost if somebody else has taken over."""
        place = f"{step:012d}-{self._token[:12]}"
        new = SavedState(step=step, folder=place, host=host, files=self._copy(folder, f"{self._place}/{place}"))
        while True:
            known = [new, *(state for state in self._states if state.folder != place)]
            states = tuple(sorted(known, key=lambda state: -state.step)[:KEPT_STATES])
            data = self._encode(states)
            if self._version:
                version = self._store.replace(self._index, data, version=self._version, durable=False)
            else:
                version = self._store.create(self._index, data, durable=False)
            if version is not None:
                break
            try:
                self._confirm()
            except LeaseLost:
                self._files.remove(f"{self._place}/{place}")
                raise
            self.open(sparing=place)  # an earlier holder wrote after we had looked, and before it lost the lease
        self._version, self._states = version, states
        for state in known:
            if state not in states:  # by name: whatever else is there may be a successor's
                self._files.remove(f"{self._place}/{state.folder}")

    def remove(self) -> None:
        """Remove them all, since the node is finished; what a successor has taken over is left to it."""
        if self._version and self._store.delete(self._index, version=self._version):
            self._files.remove(self._place)
        self._version, self._states = "", ()

    @property
    def _index(self) -> str:
        return f"{self._place}/{_INDEX}"

    def _copy(self, folder: Path, place: str) -> dict[str, FileEntry]:
        files = {}
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            name, size_bytes = path.relative_to(folder).as_posix(), path.stat().st_size
            files[name] = FileEntry(digest=digest_file(path, size_bytes), size_bytes=size_bytes)
            self._files.put(f"{place}/{name}", path)
        return files

    def _encode(self, states: tuple[SavedState, ...]) -> bytes:
        content = {"format": FORMAT, "token": self._token, "states": states}
        return json.dumps(content, sort_keys=True, default=vars).encode()


def mirrored_checkpoints(store: Store) -> dict[str, tuple[int, float]]:
    """Bytes in the store, and seconds since something was put, by key of a node with saved states there."""
    files = store.shared_files()
    found: dict[str, tuple[int, float]] = {}
    for file in files.list("checkpoints") if files is not None else ():
        key = file.name.partition("/")[0]
        size_bytes, age_s = found.get(key, (0, file.age_s))
        found[key] = (size_bytes + file.size_bytes, min(age_s, file.age_s))
    return found


def remove_mirrored(store: Store, leases: Leases, keys: Collection[str]) -> None:
    """Remove the saved states of these keys from the store, each under its lease: where somebody works nothing is touched."""
    files = store.shared_files()
    if files is None:
        return
    for key in keys:
        if isinstance(leases.acquire(key), Lease):
            store.delete(f"checkpoints/{key}/{_INDEX}")
            files.remove(f"checkpoints/{key}")
            leases.release(key)


def _decode(data: bytes) -> tuple[SavedState, ...]:
    """The states an index names; none where it is damaged, or of a format that only a later release knows."""
    try:
        content = json.loads(data)
        if content["format"] != FORMAT:
            return ()
        return tuple(_state(each) for each in content["states"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ()


def _state(content: Mapping[str, Any]) -> SavedState:
    step, folder, host = content["step"], content["folder"], content["host"]
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < _STEP_LIMIT:
        raise ValueError("a step that is none")
    if _FOLDER.fullmatch(folder) is None or not isinstance(host, str) or not host.isprintable():
        raise ValueError("a folder or a host that is none")
    return SavedState(
        step=step, folder=folder, host=host, files={name: file_entry(name, each) for name, each in content["files"].items()}
    )
