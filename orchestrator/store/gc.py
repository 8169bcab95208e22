"""`gc`: what may go, chosen by rules, and how it goes while others write.

How it is done, so that nothing is removed that a record names:
1. One `gc` at a time, under the lease `gc`. It publishes its list: the artifacts and blobs that are to go.
2. It asks once more what must be kept. What got a name, a pin or a run meanwhile stays.
3. It removes records, each only if it is still the one that was chosen: readers find a miss.
4. It reads the claims of writers (see `claims.py`), and then all records again. What either names stays.
5. It removes blobs that are older than the grace period. A blob that was put since is younger; a writer that found one
   standing has claimed it, or has seen the list and waits until this `gc` has ended.
Killed anywhere it leaves artifacts whole or absent, and blobs that the next `gc` finds. What is chosen rests on keys that the
caller names (see `workflow/roots.py`): this module knows neither runs nor sweeps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from orchestrator.errors import UsageError
from orchestrator.store.artifacts import record_path
from orchestrator.store.base import Blob, Store
from orchestrator.store.claims import GC_LEASE, Claims
from orchestrator.store.inventory import Held, Inventory, SetAside, named_digests, take_inventory
from orchestrator.store.lease import Lease, Leases
from orchestrator.store.parallel import in_parallel

GRACE_S = 86_400.0

Roots = Callable[[Inventory], Mapping[str, str]]
"""Keys that must stay, each with the reason; their inputs stay too."""


@dataclass(frozen=True, kw_only=True)
class GcRules:
    """What may go.

    Attributes:
        keep_since: artifacts that were finished at or after this time (ISO 8601, UTC) stay.
        budget_bytes: remove no more than it takes to come down to this size; None: all that need not stay.
        grace_s: blobs that were put or claimed within this time stay.
        quarantine: whether records that were set aside go, with the blobs that only they name.
    """

    keep_since: str
    budget_bytes: int | None = None
    grace_s: float = GRACE_S
    quarantine: bool = False


@dataclass(frozen=True, kw_only=True)
class GcPlan:
    """What would go. `removed` are in the order in which they were chosen; `blobs` those that nothing would name any more.

    Attributes:
        kept: number of artifacts that stay, by reason.
        unnamed: those of `blobs` that no record names even now.
        too_young: bytes that would go, were they older than the grace period.
        total_bytes: of all blobs now.
        kept_keys: artifacts that stay; `needed_keys` all that the roots name, finished or not.
    """

    removed: tuple[Held, ...]
    kept: Mapping[str, int]
    blobs: tuple[Blob, ...]
    unnamed: tuple[Blob, ...]
    too_young: int
    set_aside: tuple[SetAside, ...]
    total_bytes: int
    kept_keys: frozenset[str]
    needed_keys: frozenset[str]

    @property
    def freed_bytes(self) -> int:
        return sum(blob.size_bytes for blob in self.blobs)

    @property
    def seconds(self) -> float:
        """Recorded seconds to make all that goes again."""
        return sum(held.seconds for held in self.removed)

    @property
    def is_empty(self) -> bool:
        return not (self.removed or self.blobs or self.set_aside)


@dataclass
class GcResult:
    """What went. `spared`: artifacts that were to go and stayed, since somebody came to need them."""

    removed: list[Held] = field(default_factory=list)
    spared: list[Held] = field(default_factory=list)
    num_blobs: int = 0
    freed_bytes: int = 0
    num_set_aside: int = 0


def plan_gc(store: Store, rules: GcRules, roots: Roots) -> GcPlan:
    """Choose what may go. Reads only."""
    inventory = take_inventory(store)
    needed = roots(inventory)
    reasons = _reasons(inventory, rules, needed)
    removable = [held for key, held in inventory.artifacts.items() if key not in reasons]
    set_aside = inventory.set_aside if rules.quarantine else ()
    staying = [each.files for each in inventory.set_aside if each not in set_aside]
    if rules.budget_bytes is None:
        removed = sorted(removable, key=lambda held: (held.finished, held.key))
    else:
        removed = _cheapest(inventory, removable, staying, budget_bytes=rules.budget_bytes)
    gone = {held.key for held in removed}
    for held in removable:
        if held.key not in gone:
            reasons[held.key] = "within the budget"
    named = {digest for key in reasons for digest in inventory.artifacts[key].files}.union(*staying)
    named_now = {digest for held in inventory.artifacts.values() for digest in held.files}
    named_now = named_now.union(*(each.files for each in inventory.set_aside))
    young = Claims(store).used(within_s=rules.grace_s, tidy=False)
    unneeded = [blob for digest, blob in inventory.blobs.items() if digest not in named]
    blobs = tuple(blob for blob in unneeded if _is_old(blob, rules) and blob.digest not in young)
    return GcPlan(
        removed=tuple(removed),
        kept=Counter(reasons.values()),
        blobs=blobs,
        unnamed=tuple(blob for blob in blobs if blob.digest not in named_now),
        too_young=sum(blob.size_bytes for blob in unneeded) - sum(blob.size_bytes for blob in blobs),
        set_aside=set_aside,
        total_bytes=sum(blob.size_bytes for blob in inventory.blobs.values()),
        kept_keys=frozenset(reasons),
        needed_keys=frozenset(needed),
    )


def apply_gc(store: Store, plan: GcPlan, rules: GcRules, roots: Roots) -> GcResult:
    """Remove what the plan says, as far as nobody has come to need it. UsageError where another `gc` is at work."""
    leases = Leases(store, run="")
    lease = leases.acquire(GC_LEASE)
    if not isinstance(lease, Lease):
        raise UsageError("another gc is at work on this store", next_step="let it end, then: orchestrator gc")
    claims, result = Claims(store), GcResult()
    try:
        claims.condemn(digests=[blob.digest for blob in plan.blobs], keys=[held.key for held in plan.removed])
        needed = _needed_now(store, rules, roots) if plan.removed else {}

        def remove(held: Held) -> bool:
            lease.check()
            return held.key not in needed and store.delete(record_path(held.stage, held.key), version=held.version)

        gone = in_parallel(remove, plan.removed, width=store.width)
        for held, is_gone in zip(plan.removed, gone, strict=True):
            (result.removed if is_gone else result.spared).append(held)
        for each in plan.set_aside:
            result.num_set_aside += store.delete(each.path, version=each.version)
        _remove_blobs(store, plan.blobs, rules, claims, lease, result)
    finally:
        claims.absolve()
        leases.close()
    return result


def _remove_blobs(
    store: Store, blobs: Collection[Blob], rules: GcRules, claims: Claims, lease: Lease, result: GcResult
) -> None:
    claimed = claims.used(within_s=rules.grace_s)  # before the records: a writer claims first, and publishes then
    named = named_digests(store) if blobs else set()
    still_old = {blob.digest for blob in store.blobs() if _is_old(blob, rules)} if blobs else set()

    def remove(blob: Blob) -> bool:
        lease.check()
        if claims.is_used(blob.digest, within_s=rules.grace_s):  # asked for by its name: a listing may lag behind
            return False
        store.remove_blob(blob.digest)
        return True

    going = [blob for blob in blobs if blob.digest in still_old and blob.digest not in claimed and blob.digest not in named]
    for blob, is_gone in zip(going, in_parallel(remove, going, width=store.width), strict=True):
        if is_gone:
            result.num_blobs += 1
            result.freed_bytes += blob.size_bytes


def _is_old(blob: Blob, rules: GcRules) -> bool:
    """Older than the grace period; a clock that runs behind makes no age below nothing."""
    return max(0.0, blob.age_s) >= rules.grace_s


def _needed_now(store: Store, rules: GcRules, roots: Roots) -> dict[str, str]:
    inventory = take_inventory(store)
    return _reasons(inventory, rules, roots(inventory))


def _reasons(inventory: Inventory, rules: GcRules, needed: Mapping[str, str]) -> dict[str, str]:
    """Why each artifact stays that must: for itself, or for one that was made from it."""
    reasons = {key: why for key, why in needed.items() if key in inventory.artifacts}
    for key, held in inventory.artifacts.items():
        if held.finished >= rules.keep_since:
            reasons.setdefault(key, "finished lately")
    for key in inventory.with_inputs(reasons):
        reasons.setdefault(key, "input of what stays")
    return reasons


def _cheapest(
    inventory: Inventory, removable: list[Held], staying: list[Mapping[str, int]], *, budget_bytes: int
) -> list[Held]:
    """Those whose bytes are quickest made again, until the rest fits into the budget.

    In order of recorded seconds per byte. One whose going frees nothing, because what stays has the same blobs, is kept.
    """
    users = Counter(digest for held in inventory.artifacts.values() for digest in held.files)
    users.update(digest for files in staying for digest in files)
    sizes = {digest: size for held in inventory.artifacts.values() for digest, size in held.files.items()}
    left_bytes = sum(blob.size_bytes for digest, blob in inventory.blobs.items() if users[digest])
    chosen: list[Held] = []
    for held in sorted(removable, key=lambda held: (held.seconds / max(1, held.size_bytes), held.finished, held.key)):
        if left_bytes <= budget_bytes:
            break
        for digest in held.files:
            users[digest] -= 1
            left_bytes -= sizes[digest] if users[digest] == 0 and digest in inventory.blobs else 0
        chosen.append(held)
    return [held for held in chosen if any(users[digest] == 0 for digest in held.files)]
