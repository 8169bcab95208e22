"""One holder per key, across processes and machines.

A lease is a small object: who holds it, and a beat that the holder keeps raising. Whoever wants it takes it over when the
holder is a dead process of this very machine, or when the beat has not moved for `TTL_S` seconds (or for as long as the holder
was told to say, ORCHESTRATOR_LEASE_S) *of the observer's own clock*, or of the server's where there is one: clocks of two
machines are never compared. Each change names the version it replaces, so two observers cannot both win, and a holder that was
taken over finds out at its next beat and stops. Publication does not rest on this: a record is created by its first writer
only, whoever that is.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from orchestrator.errors import LeaseLost, StoreError, UsageError
from orchestrator.store.base import Entry, Store
from orchestrator.store.processes import host_identity, process_is_alive, process_started

TTL_S = 60.0
BEAT_S = 10.0
TTL_VARIABLE = "ORCHESTRATOR_LEASE_S"
_TTL_RANGE_S = (1.0, 3600.0)


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as its object says."""

    token: str
    host: str
    process_id: int
    started: str
    run: str
    beat: int = 0
    ttl_s: float = 0.0
    """Seconds without a beat after which it may be taken over, where its process was told otherwise than `TTL_S`."""

    @property
    def patience_s(self) -> float:
        """For how long an observer watches the lease stand still before it is free."""
        return self.ttl_s or TTL_S

    def is_dead_here(self) -> bool:
        """True if it was a process of this machine and is gone; False also where this cannot be known."""
        return self.host == host_identity() and not process_is_alive(self.process_id, self.started)


@dataclass
class Lease:
    """A lease this process holds; `check` raises LeaseLost once it was taken over."""

    path: str
    holder: Holder
    version: str
    beaten_at: float = 0.0
    lost: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self) -> None:
        if self.lost:
            raise LeaseLost(f"{self.path}: another process took this work over; stopping here")


class Leases:
    """Takes, keeps and returns leases in one store. One background thread beats for all of them."""

    def __init__(
        self,
        store: Store,
        *,
        run: str,
        clock: Callable[[], float] = time.monotonic,
        on_beat: Callable[[float], None] = lambda _age_s: None,
    ) -> None:
        """`on_beat` is told, at every beat, for how many seconds the oldest lease held has not been renewed."""
        self.store = store
        self.run = run
        self.clock = clock
        self.on_beat = on_beat
        self._held: dict[str, Lease] = {}
        self._unanswered: set[str] = set()  # tokens of requests whose answer was lost: any of them may hold its lease
        self._seen: dict[str, tuple[str, float]] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, name: str, *, stale_version: str | None = None) -> Lease | Holder:
        """The lease, or its present holder. `stale_version`: a version that an observer has seen stand still too long."""
        path = f"leases/{name}"
        mine = Holder(uuid.uuid4().hex, host_identity(), os.getpid(), _own_start(os.getpid()), self.run, ttl_s=_asked_ttl_s())
        self._unanswered.add(mine.token)
        data = _encode(mine)
        version = self.store.create(path, data, durable=False)
        while version is None:
            entry = self.store.read(path)
            if entry is None:
                version = self.store.create(path, data, durable=False)
                continue
            holder = decode_holder(entry)
            if holder is not None and not (
                holder.token in self._unanswered
                or holder.is_dead_here()
                or entry.version == stale_version
                or self._stood_still(name, entry, holder)
            ):
                self._unanswered.discard(mine.token)
                return holder
            version = self.store.replace(path, data, version=entry.version, durable=False)
        self._unanswered.discard(mine.token)
        lease = Lease(path, mine, version, beaten_at=self.clock())
        self._held[name] = lease
        self._beat_in_background()
        return lease

    def holder(self, name: str) -> Holder | None:
        """The live holder; None if the lease is free, its holder dead or its beat stale."""
        entry = self.store.read(f"leases/{name}")
        if entry is None:
            return None
        holder = decode_holder(entry)
        if holder is None or holder.is_dead_here() or self._stood_still(name, entry, holder):
            return None
        return holder

    def holders(self) -> Callable[[str], Holder | None]:
        """`holder` for many names at one moment. Where requests travel, one listing first tells which leases there are."""
        if self.store.width == 1:
            return self.holder
        names: list[set[str]] = []

        def find(name: str) -> Holder | None:
            if not names:
                names.append(set(self.store.list("leases")))
            return self.holder(name) if name in names[0] else None

        return find

    def stale_version(self, name: str) -> str:
        """The lease's version if this process has watched it without a beat for too long by its own clock, else ""."""
        entry = self.store.read(f"leases/{name}")
        return entry.version if entry is not None and self._stood_still(name, entry, decode_holder(entry)) else ""

    def confirm(self, lease: Lease) -> None:
        """Ask the store whether the lease is still ours; LeaseLost if not. What a beat would find out, before publishing."""
        lease.check()
        entry = self.store.read(lease.path)
        holder = decode_holder(entry) if entry is not None else None
        lease.lost = holder is None or holder.token != lease.holder.token
        lease.check()

    def release(self, name: str) -> None:
        """Give the lease back; only its holder can, and a lost lease is left to its new holder."""
        lease = self._held.pop(name, None)
        if lease is not None:
            with lease.lock:
                self._unanswered.add(lease.holder.token)
                while not self.store.delete(lease.path, version=lease.version) and self._still_mine(lease):
                    pass
                self._unanswered.discard(lease.holder.token)

    def beat(self) -> None:
        """Raise the beat of every lease held; marks those that were taken over as lost."""
        for name, lease in list(self._held.items()):
            with lease.lock, suppress(Exception):  # a store that is away for a moment: the next beat tries again
                if lease.lost or self._held.get(name) is not lease:
                    continue
                raised = Holder(**{**vars(lease.holder), "beat": lease.holder.beat + 1})
                version = self.store.replace(lease.path, _encode(raised), version=lease.version, durable=False)
                if version is not None:
                    lease.holder, lease.version, lease.beaten_at = raised, version, self.clock()
                elif not self._still_mine(lease):
                    lease.lost = True

    def sweep(self) -> None:
        """Remove the leases that dead processes of this machine have left, and those that a server has seen no beat of."""
        for name in list(self.store.list("leases")):
            entry = self.store.read(f"leases/{name}")
            holder = decode_holder(entry) if entry is not None else None
            if entry is not None and holder is not None and (holder.is_dead_here() or entry.age_s > TTL_S):
                self.store.delete(f"leases/{name}", version=entry.version)

    def close(self) -> None:
        """Stop beating, and return all leases. StoreError where that cannot be done: they are taken over in time."""
        self._wake.set()
        problem: StoreError | None = None
        for name in list(self._held):
            try:
                self.release(name)
            except StoreError as error:
                problem = error
        if problem is not None:
            raise problem

    def _still_mine(self, lease: Lease) -> bool:
        """Whether the lease has moved on by a request of ours whose answer was lost; takes the version that it has now."""
        entry = self.store.read(lease.path)
        holder = decode_holder(entry) if entry is not None else None
        if entry is None or holder is None or holder.token != lease.holder.token:
            return False
        lease.holder, lease.version = holder, entry.version
        return True

    def _stood_still(self, name: str, entry: Entry, holder: Holder | None) -> bool:
        patience_s = holder.patience_s if holder is not None else TTL_S
        if entry.age_s > patience_s:
            return True
        version, since = self._seen.get(name, ("", 0.0))
        if version != entry.version:
            self._seen[name] = (entry.version, self.clock())
            return False
        return self.clock() - since > patience_s

    def _beat_in_background(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._wake.clear()
            self._thread = threading.Thread(target=self._keep_beating, name="lease-beat", daemon=True)
            self._thread.start()

    def _keep_beating(self) -> None:
        beat_s = BEAT_S / TTL_S * (_asked_ttl_s() or TTL_S)
        while not self._wake.wait(beat_s):
            self.beat()
            held = [lease.beaten_at for lease in list(self._held.values())]
            self.on_beat(self.clock() - min(held) if held else 0.0)


def decode_holder(entry: Entry) -> Holder | None:
    """The holder named in a lease object; None if the object is damaged, and so free to take."""
    try:
        content: dict[str, Any] = json.loads(entry.data)
        holder = Holder(**content)
    except (ValueError, TypeError):
        return None
    ttl_s = holder.ttl_s
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, (int, float)) or (ttl_s and not _is_sensible(ttl_s)):
        return None
    return holder if isinstance(holder.process_id, int) else None


def _asked_ttl_s() -> float:
    """What ORCHESTRATOR_LEASE_S asks for, 0.0 where it does not; UsageError for what is no number of seconds."""
    text = os.environ.get(TTL_VARIABLE, "")
    if not text:
        return 0.0
    try:
        asked_s = float(text)
    except ValueError:
        asked_s = 0.0
    if not _is_sensible(asked_s):
        low, high = _TTL_RANGE_S
        raise UsageError(f"{TTL_VARIABLE}={text}: expected seconds from {low:g} to {high:g}", next_step=f"unset {TTL_VARIABLE}")
    return asked_s


def _is_sensible(ttl_s: float) -> bool:
    return _TTL_RANGE_S[0] <= ttl_s <= _TTL_RANGE_S[1]


@lru_cache(maxsize=1)
def _own_start(process_id: int) -> str:
    return process_started(process_id)


def _encode(holder: Holder) -> bytes:
    content = {name: value for name, value in vars(holder).items() if name != "ttl_s" or value}
    return json.dumps(content, sort_keys=True).encode()
