"""What is no artifact and may go: half-made outputs of dead processes, saved states that nobody goes on from, old runs."""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.store.artifacts import checkpoint_workspace
from orchestrator.store.base import Store, Upload
from orchestrator.store.checkpoints import mirrored_checkpoints, remove_mirrored
from orchestrator.store.lease import Lease, Leases
from orchestrator.store.ledger import Ledger
from orchestrator.store.processes import is_left_by_dead_process

DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Leftovers:
    """What would go. `attempts` and `checkpoints` are workspaces of this machine, with their bytes; `mirrored` the saved
    states that the store itself has, by key; `uploads` are of any machine.
    """

    attempts: dict[str, int] = field(default_factory=dict)
    checkpoints: dict[str, int] = field(default_factory=dict)
    mirrored: dict[str, int] = field(default_factory=dict)
    runs: tuple[str, ...] = ()
    uploads: tuple[Upload, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(self.attempts.values()) + sum(self.checkpoints.values()) + sum(self.mirrored.values())

    @property
    def is_empty(self) -> bool:
        return not (self.attempts or self.checkpoints or self.mirrored or self.runs or self.uploads)


def find_leftovers(
    store: Store,
    *,
    finished: Collection[str],
    needed: Collection[str],
    checkpoints_older_than_s: float,
    uploads_older_than_s: float = DAY_S,
    runs_before: str = "",
    live_runs: Collection[str] = (),
) -> Leftovers:
    """Look for them; reads only.

    Args:
        store: where.
        finished: keys of finished artifacts, whose saved states nobody needs.
        needed: further keys whose saved states stay however old they are.
        checkpoints_older_than_s: age from which other saved states go.
        uploads_older_than_s: age from which unfinished uploads go; none should take so long.
        runs_before: runs that began before this time (ISO 8601, UTC) go; empty: none.
        live_runs: which of them are going on.
    """
    attempts = [f"attempts/{name}" for name in store.workspaces("attempts") if is_left_by_dead_process(name)]
    checkpoints = [
        checkpoint_workspace(key)
        for key in store.workspaces("checkpoints")
        if key in finished or (key not in needed and _age_s(store, key) > checkpoints_older_than_s)
    ]
    runs = [
        request.id for request in (Ledger(store).runs() if runs_before else ())
        if request.created < runs_before and request.id not in live_runs
    ]  # fmt: skip
    mirrored = {
        key: size_bytes
        for key, (size_bytes, age_s) in mirrored_checkpoints(store).items()
        if key in finished or (key not in needed and age_s > checkpoints_older_than_s)
    }
    return Leftovers(
        mirrored=mirrored,
        attempts={name: _size_bytes(store.workspace(name, make=False)) for name in attempts},
        checkpoints={name: _size_bytes(store.workspace(name, make=False)) for name in checkpoints},
        runs=tuple(runs),
        uploads=tuple(upload for upload in store.uploads() if upload.age_s >= uploads_older_than_s),
    )


def remove_leftovers(store: Store, found: Leftovers) -> None:
    """Remove them; saved states under the lease of their key, so that nobody is going on from them."""
    for name in found.attempts:
        store.remove_workspace(name)
    leases = Leases(store, run="")
    try:
        for name in found.checkpoints:
            key = name.rpartition("/")[2]
            if isinstance(leases.acquire(key), Lease):
                store.remove_workspace(name)
                leases.release(key)
        remove_mirrored(store, leases, found.mirrored)
        leases.sweep()
    finally:
        leases.close()
    for upload in found.uploads:
        store.abort_upload(upload)
    for run in found.runs:
        _remove_run(store, run)
    store.sweep()


def _remove_run(store: Store, run: str) -> None:
    """Its request goes last: killed in between, the rest is found again."""
    for node in list(store.list(f"runs/{run}/nodes")):
        for name in list(store.list(f"runs/{run}/nodes/{node}")):
            store.delete(f"runs/{run}/nodes/{node}/{name}")
    for name in sorted(store.list(f"runs/{run}"), key=lambda name: name == "run.json"):
        if name != "nodes":
            store.delete(f"runs/{run}/{name}")


def _age_s(store: Store, key: str) -> float:
    """Since a state was last saved."""
    try:
        return time.time() - store.workspace(checkpoint_workspace(key), make=False).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size_bytes(folder: Path) -> int:
    total = 0
    with suppress(FileNotFoundError):
        for path in folder.rglob("*"):
            with suppress(FileNotFoundError):
                total += path.lstat().st_size if not path.is_dir() else 0
    return total
