"""What is no artifact: swept only where nobody can go on from it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from made_artifacts import key_of

from orchestrator.store.lease import Leases
from orchestrator.store.ledger import Ledger
from orchestrator.store.leftovers import Leftovers, find_leftovers, remove_leftovers
from orchestrator.store.local import LocalStore
from orchestrator.store.processes import process_mark

DAY_S = 86_400.0


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def saved(store: LocalStore, number: int, *, days: float) -> str:
    """A saved state of a node, so many days old."""
    folder = store.workspace(f"checkpoints/{key_of(number)}")
    (folder / "state").write_bytes(b"state")
    os.utime(folder, (time.time() - days * DAY_S,) * 2)
    return f"checkpoints/{key_of(number)}"


def look(store: LocalStore, **options) -> Leftovers:
    return find_leftovers(store, **{"finished": [], "needed": [], "checkpoints_older_than_s": 14 * DAY_S, **options})


def test_saved_states_go_when_their_node_is_finished_or_nobody_has_touched_them_for_long(store: LocalStore) -> None:
    """A disk fills up with states; but a run killed yesterday goes on from its own tomorrow."""
    finished, abandoned = saved(store, 1, days=0), saved(store, 2, days=20)
    recent, needed = saved(store, 3, days=1), saved(store, 4, days=20)
    found = look(store, finished=[key_of(1)], needed=[key_of(4)])
    assert found.checkpoints == {finished: 5, abandoned: 5}
    remove_leftovers(store, found)
    assert {f"checkpoints/{name}" for name in store.workspaces("checkpoints")} == {recent, needed}
    assert look(store, finished=[key_of(1)], needed=[key_of(4)]).is_empty


def test_saved_states_of_a_node_that_is_being_made_stay(store: LocalStore) -> None:
    """The stage would lose what it is writing."""
    name = saved(store, 1, days=20)
    leases = Leases(store, run="r")
    leases.acquire(key_of(1))
    remove_leftovers(store, look(store))
    assert [f"checkpoints/{key}" for key in store.workspaces("checkpoints")] == [name]
    leases.close()


def test_attempts_of_dead_processes_go_and_those_of_the_living_stay(store: LocalStore, race) -> None:
    (dead,) = race(1, lambda _number: process_mark())
    for mark in (dead, process_mark()):
        (store.workspace(f"attempts/{mark}-x") / "output").write_bytes(b"half")
    found = look(store)
    assert found.attempts == {f"attempts/{dead}-x": 4}
    remove_leftovers(store, found)
    assert list(store.workspaces("attempts")) == [f"{process_mark()}-x"]


def test_an_old_run_goes_whole_and_a_live_one_stays(store: LocalStore) -> None:
    """Half a run in the list would be shown as interrupted for ever."""
    ledger = Ledger(store)
    old, live = ledger.begin({}), ledger.begin({})
    for run in (old, live):
        ledger.write(run, [{"type": "run_started"}])
        ledger.write_progress(run, "node-1", attempt=1, step=1, total=2, metrics={})
        ledger.ask_to_cancel(run)
    assert look(store).runs == ()
    found = look(store, runs_before="9", live_runs=[live])
    assert found.runs == (old,)
    remove_leftovers(store, found)
    assert [request.id for request in ledger.runs()] == [live]
    assert list(store.list("runs")) == [live]
