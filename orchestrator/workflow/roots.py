"""What a store must keep whatever the rules of `gc` say: names, pins, what runs, recent runs, and what searches have found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.store.artifacts import Artifacts
from orchestrator.store.base import Store
from orchestrator.store.inventory import Inventory
from orchestrator.store.lease import Leases
from orchestrator.store.ledger import Ledger, RunRequest
from orchestrator.store.names import Names
from orchestrator.store.parallel import in_parallel
from orchestrator.workflow.imported import STAGE as IMPORT_STAGE
from orchestrator.workflow.settled import read_result
from orchestrator.workflow.sweep_result import SWEEP_STAGE, SweepResult

_RUN_LEASE = "run-"


@dataclass(frozen=True, kw_only=True)
class RootRules:
    """What counts. `keep_since`: runs that began at or after this time; `keep_runs`: the newest so many.

    What was imported cannot be made again from the store, and is kept unless `keep_imports` is False.
    """

    keep_since: str
    keep_runs: int = 0
    keep_sweeps: bool = True
    keep_imports: bool = True


def live_leases(store: Store) -> tuple[set[str], set[str]]:
    """Keys that are being made, and runs that are going on, as far as this machine can tell: in doubt, alive."""
    leases = Leases(store, run="")
    keys: set[str] = set()
    runs: set[str] = set()
    for name in list(store.list("leases")):
        holder = leases.holder(name)
        if holder is None:
            continue
        if name.startswith(_RUN_LEASE):
            runs.add(name.removeprefix(_RUN_LEASE))
        else:
            keys.add(name)
        if holder.run:
            runs.add(holder.run)
    return keys, runs


def find_roots(store: Store, rules: RootRules) -> Callable[[Inventory], dict[str, str]]:
    """The question that `plan_gc` and `apply_gc` ask: keys that must stay, each with the first reason that holds."""

    def find(inventory: Inventory) -> dict[str, str]:
        reasons: dict[str, str] = {}
        for key, why in _with_reasons(store, inventory, rules):
            reasons.setdefault(key, why)
        return reasons

    return find


def _with_reasons(store: Store, inventory: Inventory, rules: RootRules) -> Iterator[tuple[str, str]]:
    for key, why in Names(store).kept_keys():
        yield key, why.partition(" ")[0]
    making, running = live_leases(store)
    yield from ((key, "being made") for key in making)
    ledger = Ledger(store)
    kept = [
        request for index, request in enumerate(ledger.runs())
        if request.id in running or index < rules.keep_runs or request.created >= rules.keep_since
    ]  # fmt: skip
    found = in_parallel(lambda request: keys_of_run(ledger, request), kept, width=store.width)
    for request, keys in zip(kept, found, strict=True):
        why = "of a running run" if request.id in running else "of a recent run"
        yield from ((key, why) for key in keys)
    if rules.keep_imports:
        yield from ((key, "imported") for key, held in inventory.artifacts.items() if held.stage == IMPORT_STAGE)
    if rules.keep_sweeps:
        for held in inventory.artifacts.values():
            if held.stage == SWEEP_STAGE:
                yield held.key, "found by a search"
                yield from ((key, "found by a search") for key in _found_by(Artifacts(store), held.key))


def keys_of_run(ledger: Ledger, request: RunRequest) -> set[str]:
    """Keys of all nodes and sweeps of a run: those of its plan, and those that joined it."""
    keys = {row[3] for row in request.content.get("plan", ()) if len(row) > 3}
    for line in ledger.store.read_log(f"runs/{request.id}/events.jsonl").splitlines():
        if b'"nodes_added"' in line or b'"sweep_' in line:
            keys |= _keys_of_event(line)
    return keys


def _keys_of_event(line: bytes) -> set[str]:
    try:
        event = json.loads(line)
    except ValueError:
        return set()  # torn by a loss of power
    rows = event.get("nodes", ()) if event.get("type") == "nodes_added" else ()
    keys = {row[3] for row in rows if len(row) > 3}
    return keys | ({event["key"]} if isinstance(event.get("key"), str) else set())


def _found_by(artifacts: Artifacts, key: str) -> set[str]:
    """Keys of the nodes of a settled sweep's best trial and of its front."""
    record = artifacts.find(SWEEP_STAGE, key)
    result: SweepResult | None = read_result(record, artifacts) if record is not None else None
    if result is None:
        return set()
    wanted = {*result.front, *([result.best] if result.best is not None else [])}
    return {node for trial in result.trials if trial.number in wanted for node in trial.keys.values()}
