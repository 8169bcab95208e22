"""How writers and `gc` stay out of each other's way, without a lock that either could leave behind.

A writer that finds a blob already there puts nothing, and so cannot make it young. It leaves a claim first (`gc/used/<digest>`,
with the time), and then looks whether a `gc` that is at work has listed the blob as one to go (`gc/condemned`). If so it waits
until that `gc` has ended, and looks again. A `gc` writes its list first and reads the claims then: whichever of the two comes
first, the other one sees it. A claim lasts for the grace period, like the youth of a blob that was really put.

This module knows no records; a `gc` is alive while the lease `gc` is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any

from orchestrator.errors import StoreError
from orchestrator.store.base import Store
from orchestrator.store.lease import Leases
from orchestrator.store.ledger import now_text
from orchestrator.store.parallel import in_parallel

GC_LEASE = "gc"
LONGEST_WAIT_S = 600.0
_CONDEMNED = "gc/condemned"
_USED = "gc/used"
_POLL_S = 0.05


class Claims:
    """Both sides of the agreement, in one store."""

    def __init__(self, store: Store, *, sleep: Callable[[float], object] = time.sleep) -> None:
        self.store = store
        self.sleep = sleep

    # The writer's side

    def claim(self, digest: str) -> None:
        """Keep a blob that is there from being removed before a record names it; returns when no `gc` is about to.

        The blob may be gone by then: look again.
        """
        path, data = f"{_USED}/{digest}", now_text().encode()
        while self.store.create(path, data, durable=False) is None:
            entry = self.store.read(path)
            if entry is not None and self.store.replace(path, data, version=entry.version, durable=False) is not None:
                break
        self.wait_for_gc(digest=digest)

    def wait_for_gc(self, *, digest: str = "", key: str = "") -> None:
        """Return once no living `gc` has this blob or this artifact on its list."""
        leases = Leases(self.store, run="")
        waited_s = 0.0
        while self._is_condemned(digest, key) and leases.holder(GC_LEASE) is not None:
            if waited_s > LONGEST_WAIT_S:
                raise StoreError(
                    f"gc is still removing things from {self.store.url} after {LONGEST_WAIT_S:.0f} seconds",
                    next_step="let it end, then submit again",
                )
            self.sleep(_POLL_S)
            waited_s += _POLL_S

    # The side of gc

    def condemn(self, *, digests: Collection[str], keys: Collection[str]) -> None:
        """Publish what is about to go. The caller holds the lease `gc`; a list that a killed `gc` has left is replaced."""
        data = json.dumps({"digests": sorted(digests), "keys": sorted(keys)}).encode()
        while self.store.create(_CONDEMNED, data, durable=False) is None:
            self.store.delete(_CONDEMNED)

    def absolve(self) -> None:
        """Take the list back: what was on it is gone, or stays."""
        self.store.delete(_CONDEMNED)

    def used(self, *, within_s: float, tidy: bool = True) -> set[str]:
        """Digests that were claimed in the last `within_s` seconds; `tidy` removes older claims."""

        def look(digest: str) -> bool:
            path = f"{_USED}/{digest}"
            entry = self.store.read(path)
            if entry is not None and _age_s(entry.data) < within_s:
                return True
            if entry is not None and tidy:
                self.store.delete(path, version=entry.version)
            return False

        claimed = list(self.store.list(_USED))
        answers = in_parallel(look, claimed, width=self.store.width)
        return {digest for digest, is_young in zip(claimed, answers, strict=True) if is_young}

    def is_used(self, digest: str, *, within_s: float) -> bool:
        """Whether the blob was claimed in the last `within_s` seconds; asks for its claim, so that no listing can hide it."""
        entry = self.store.read(f"{_USED}/{digest}")
        return entry is not None and _age_s(entry.data) < within_s

    def _is_condemned(self, digest: str, key: str) -> bool:
        entry = self.store.read(_CONDEMNED)
        if entry is None:
            return False
        try:
            content: dict[str, Any] = json.loads(entry.data)
        except ValueError:
            return True  # which ones cannot be known: wait for all
        return digest in content.get("digests", ()) or key in content.get("keys", ())


def _age_s(stamp: bytes) -> float:
    try:
        then = datetime.fromisoformat(stamp.decode())
        return (datetime.now(UTC) - then).total_seconds()
    except (ValueError, TypeError):
        return float("inf")
