"""Saved states in the store: whole or absent, a bounded number, and out of reach for who has lost the lease."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from made_artifacts import key_of
from servers import SHARED, opened_store

from orchestrator.errors import IntegrityError, LeaseLost
from orchestrator.store.base import Store
from orchestrator.store.checkpoints import SavedStates, mirrored_checkpoints
from orchestrator.store.lease import Lease, Leases
from orchestrator.store.leftovers import find_leftovers, remove_leftovers

KEY = key_of(1)
DAY_S = 86_400.0


@pytest.fixture(params=SHARED)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with opened_store(request.param, tmp_path) as found:
        yield found


@dataclass
class Holder:
    """A process that holds, or held, the lease of the key."""

    leases: Leases
    lease: Lease
    states: SavedStates

    @classmethod
    def new(cls, store: Store, *, over: str | None = None) -> Holder:
        leases = Leases(store, run="r")
        lease = leases.acquire(KEY, stale_version=over)
        assert isinstance(lease, Lease)
        files = store.shared_files()
        assert files is not None
        states = SavedStates(store, files, KEY, token=lease.holder.token, confirm=lambda: leases.confirm(lease))
        return cls(leases, lease, states)

    def add(self, step: int, folder: Path) -> None:
        state = folder / f"state-{step}"
        state.mkdir(exist_ok=True)
        (state / "state.json").write_text(str(step))
        self.states.add(step, state, host="here")


def steps(store: Store, tmp_path: Path) -> list[int]:
    """What the store has, each state read whole."""
    files = store.shared_files()
    assert files is not None
    reader = SavedStates(store, files, KEY, token="0" * 32, confirm=lambda: None)
    found = reader.open()
    for state in found:
        target = tmp_path / f"read-{state.step}"
        reader.fetch(state, target)
        assert (target / "state.json").read_text() == str(state.step)
    return [state.step for state in found]


def num_folders(store: Store) -> int:
    return len(set(store.list(f"checkpoints/{KEY}")) - {"states.json"})


def test_the_newest_two_states_are_kept(store: Store, tmp_path: Path) -> None:
    """A training of a week must not fill the bucket."""
    holder = Holder.new(store)
    assert holder.states.open() == ()
    for step in (10, 20, 30):
        holder.add(step, tmp_path)
    assert steps(store, tmp_path) == [30, 20]
    assert num_folders(store) == 2
    holder.leases.close()


@pytest.mark.parametrize("num_saved", [0, 1])
def test_who_has_lost_the_lease_changes_nothing(store: Store, tmp_path: Path, num_saved: int) -> None:
    """A process that was frozen for an hour must not put its old state over its successor's."""
    frozen = Holder.new(store)
    frozen.states.open()
    if num_saved:
        frozen.add(10, tmp_path)
    successor = Holder.new(store, over=frozen.lease.version)
    assert [state.step for state in successor.states.open()] == [10] * num_saved
    successor.add(20, tmp_path)
    with pytest.raises(LeaseLost):
        frozen.add(15, tmp_path)
    assert steps(store, tmp_path) == [20, 10][: 1 + num_saved]
    assert num_folders(store) == 1 + num_saved
    frozen.states.remove()
    assert 20 in steps(store, tmp_path)
    frozen.leases.close()
    successor.leases.close()


def test_a_state_of_the_one_before_is_kept_beside_the_first_of_the_successor(store: Store, tmp_path: Path) -> None:
    """It may have been written in the moment between the successor's look and its first own state."""
    before = Holder.new(store)
    before.states.open()
    successor = Holder.new(store, over=before.lease.version)
    assert successor.states.open() == ()
    before.states._confirm = lambda: None  # the write is on its way already
    before.add(10, tmp_path)
    successor.add(20, tmp_path)
    assert steps(store, tmp_path) == [20, 10]
    before.leases.close()
    successor.leases.close()


def test_half_a_copy_is_no_state_and_is_swept(store: Store, tmp_path: Path) -> None:
    """The machine died while it was sending."""
    first = Holder.new(store)
    first.states.open()
    first.add(10, tmp_path)
    files = store.shared_files()
    assert files is not None
    files.put(f"checkpoints/{KEY}/000000000020-{'a' * 12}/state.json", tmp_path / "state-10/state.json")
    successor = Holder.new(store, over=first.lease.version)
    assert [state.step for state in successor.states.open()] == [10]
    assert num_folders(store) == 1
    successor.states.remove()
    assert mirrored_checkpoints(store) == {}
    first.leases.close()
    successor.leases.close()


def test_a_state_with_a_missing_file_is_damaged(store: Store, tmp_path: Path) -> None:
    """And never half a state that a stage would go on from."""
    holder = Holder.new(store)
    holder.states.open()
    holder.add(10, tmp_path)
    (state,) = holder.states.open()
    files = store.shared_files()
    assert files is not None
    files.remove(f"checkpoints/{KEY}/{state.folder}")
    with pytest.raises(IntegrityError, match="missing"):
        holder.states.fetch(state, tmp_path / "read")
    holder.leases.close()


def test_gc_takes_states_of_what_is_finished_and_leaves_those_at_work(store: Store, tmp_path: Path) -> None:
    """A machine killed between its record and its sweep leaves states that nobody needs."""
    holder = Holder.new(store)
    holder.states.open()
    holder.add(10, tmp_path)
    assert find_leftovers(store, finished=[], needed=[], checkpoints_older_than_s=DAY_S).mirrored == {}
    found = find_leftovers(store, finished=[KEY], needed=[], checkpoints_older_than_s=DAY_S)
    assert found.mirrored.keys() == {KEY}
    assert found.size_bytes >= 2
    remove_leftovers(store, found)
    assert steps(store, tmp_path) == [10], "its lease is held"
    holder.leases.close()
    remove_leftovers(store, found)
    assert mirrored_checkpoints(store) == {}
