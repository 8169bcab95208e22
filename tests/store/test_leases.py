"""Leases: one holder per key, takeover from the dead, and no trust in anybody else's clock."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import SHARED, opened_store

from orchestrator.errors import LeaseLost, StoreError, UsageError
from orchestrator.store import processes
from orchestrator.store.base import Store
from orchestrator.store.lease import TTL_S, TTL_VARIABLE, Holder, Lease, Leases


class Clock:
    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(params=["local", *SHARED])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A folder, and the servers that several machines may share."""
    with opened_store(request.param, tmp_path) as found:
        yield found


def leases(store: Store, run: str, clock: Clock | None = None) -> Leases:
    """Leases whose background thread never gets to beat within a test."""
    return Leases(store, run=run, clock=clock or Clock())


def take(holder: Leases, name: str = "key") -> Lease:
    lease = holder.acquire(name)
    assert isinstance(lease, Lease)
    return lease


def foreign(store: Store, *, beat: int = 0, version: str | None = None) -> str:
    """The lease object of a process on another host."""
    data = json.dumps(vars(Holder("t0ken", "other-host", 12345, "1", "theirs", beat))).encode()
    made = store.create("leases/key", data) if version is None else store.replace("leases/key", data, version=version)
    assert made is not None
    return made


def test_a_held_lease_is_refused_with_the_name_of_its_run(store: Store) -> None:
    """The user is told which run makes the artifact that this one waits for."""
    take(leases(store, "mine"))
    answer = leases(store, "theirs").acquire("key")
    assert isinstance(answer, Holder)
    assert answer.run == "mine"


def test_a_released_lease_can_be_taken(store: Store) -> None:
    """Otherwise a second run would wait for ever."""
    first = leases(store, "first")
    take(first)
    first.release("key")
    assert first.holder("key") is None
    take(leases(store, "second"))


def test_exactly_one_of_many_processes_holds_a_lease(store: Store, race) -> None:
    """Two holders would do the same hours of training twice."""

    def try_it(number: int) -> bool:
        mine = Leases(store, run=str(number))
        got = isinstance(mine.acquire("key"), Lease)
        if got:
            held.wait()  # stay alive until everyone has tried
        else:
            done.release()
        return got

    import multiprocessing

    context = multiprocessing.get_context("fork")
    for _ in range(3):
        held, done = context.Event(), context.Semaphore(0)
        watcher = context.Process(target=lambda held=held, done=done: ([done.acquire() for _ in range(7)], held.set()))
        watcher.start()
        assert sum(race(8, try_it)) == 1
        watcher.join()
        # its holder is dead by now: the next turn takes it over, again by one process only


def test_the_lease_of_a_dead_process_of_this_machine_is_taken_at_once(store: Store, race) -> None:
    """After a kill, submitting again must not wait a minute."""
    assert race(1, lambda _: isinstance(Leases(store, run="killed").acquire("key"), Lease)) == [True]
    mine = leases(store, "mine")
    assert mine.holder("key") is None
    take(mine)


def test_a_process_that_reuses_the_number_of_a_dead_one_does_not_keep_its_lease(store: Store) -> None:
    """Process numbers come round; a lease would seem alive for ever."""
    impostor = Holder("t", processes.host_identity(), os.getpid(), "an earlier start", "killed")
    store.create("leases/key", json.dumps(vars(impostor)).encode())
    take(leases(store, "mine"))


def test_a_lease_of_another_machine_is_taken_only_after_its_beat_has_stood_still(store: Store) -> None:
    """Nobody here can know whether a process over there lives; its silence is measured on the observer's own clock."""
    foreign(store)
    clock = Clock()
    mine = leases(store, "mine", clock)
    assert isinstance(mine.acquire("key"), Holder)
    clock.now_s = TTL_S - 1
    assert isinstance(mine.acquire("key"), Holder)
    clock.now_s = TTL_S + 1
    assert mine.holder("key") is None
    take(mine)


def test_a_beat_of_another_machine_keeps_its_lease(store: Store) -> None:
    """A long training over there must not be started a second time here."""
    version = foreign(store)
    clock = Clock()
    mine = leases(store, "mine", clock)
    for beat in range(1, 20):
        assert isinstance(mine.acquire("key"), Holder)
        clock.now_s += TTL_S - 1
        version = foreign(store, beat=beat, version=version)


def test_an_observer_that_has_just_come_waits_the_whole_time(store: Store) -> None:
    """How long the lease has been there before says nothing: clocks of two machines are never compared."""
    foreign(store)
    late = leases(store, "late", Clock(1e6))
    assert isinstance(late.acquire("key"), Holder)
    assert late.stale_version("key") == ""


@pytest.mark.parametrize("skew_s", [-300.0, 300.0])
def test_clocks_that_differ_by_minutes_do_no_harm(store: Store, skew_s: float) -> None:
    """Two machines disagree about the time: still one holder, and a takeover only after a true silence."""
    holder_clock, observer_clock = Clock(1000.0), Clock(1000.0 + skew_s)
    holder, observer = leases(store, "holder", holder_clock), leases(store, "observer", observer_clock)
    lease = take(holder)
    for _ in range(5):
        assert isinstance(observer.acquire("key"), Holder)
        holder_clock.now_s += TTL_S / 2
        observer_clock.now_s += TTL_S / 2
        holder.beat()
    lease.check()


def test_a_version_that_somebody_else_saw_standing_still_can_be_taken(store: Store) -> None:
    """The scheduler watches, the worker in another process takes."""
    foreign(store)
    clock = Clock()
    watching = leases(store, "mine", clock)
    watching.stale_version("key")
    clock.now_s = TTL_S + 1
    stale = watching.stale_version("key")
    assert stale
    assert isinstance(leases(store, "mine").acquire("key", stale_version=stale), Lease)


def test_a_lease_that_beat_since_it_was_seen_cannot_be_taken_by_its_old_version(store: Store) -> None:
    """The holder woke up between the look and the grab."""
    stale = foreign(store)
    foreign(store, beat=1, version=stale)
    assert isinstance(leases(store, "mine").acquire("key", stale_version=stale), Holder)


def lose(store: Store) -> tuple[Leases, Lease, Leases]:
    """A lease that another process has taken over while its holder stood still."""
    stalled = leases(store, "stalled")
    lease = take(stalled)
    taken = leases(store, "other").acquire("key", stale_version=lease.version)
    assert isinstance(taken, Lease)
    return stalled, lease, leases(store, "third")


def test_a_lost_lease_is_noticed_at_the_next_beat(store: Store) -> None:
    """Work that somebody else does now must stop."""
    stalled, lease, _ = lose(store)
    lease.check()
    stalled.beat()
    with pytest.raises(LeaseLost):
        lease.check()


def test_a_lost_lease_is_noticed_before_publishing(store: Store) -> None:
    """Between two beats only the store knows."""
    stalled, lease, _ = lose(store)
    with pytest.raises(LeaseLost):
        stalled.confirm(lease)


def test_only_the_holder_releases(store: Store) -> None:
    """A process that lost its lease must not free its successor's."""
    stalled, _, third = lose(store)
    stalled.release("key")
    stalled.close()
    holder = third.holder("key")
    assert holder is not None
    assert holder.run == "other"
    assert isinstance(third.acquire("key"), Holder)


def test_a_beat_survives_a_store_that_is_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment without the network must not cost the lease."""
    mine = leases(store, "mine")
    lease = take(mine)
    with monkeypatch.context() as patch:
        patch.setattr(store, "replace", lambda *_, **__: (_ for _ in ()).throw(StoreError("away")))
        mine.beat()
    lease.check()
    mine.beat()
    lease.check()
    assert lease.holder.beat == 1


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"token": 1}', b"\xff\xfe", b'{"process_id": "x"}'])
def test_a_damaged_lease_is_free(store: Store, damage: bytes) -> None:
    """A lease torn by a loss of power must not lock its key for ever."""
    store.create("leases/key", damage)
    mine = leases(store, "mine")
    assert mine.holder("key") is None
    take(mine)


def test_sweep_removes_the_leases_of_the_dead_only(store: Store, race) -> None:
    """Each killed run would leave a file for ever."""
    race(1, lambda _: isinstance(Leases(store, run="killed").acquire("dead"), Lease))
    foreign(store)
    mine = leases(store, "mine")
    take(mine, "alive")
    mine.sweep()
    assert sorted(store.list("leases")) == ["alive", "key"]


def test_a_process_of_another_user_that_is_hidden_from_us_counts_as_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """With /proc mounted `hidepid`, another user's living run would be taken for dead and its work for free."""

    def hidden(_process: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(processes, "process_started", lambda _: "")
    monkeypatch.setattr(processes.os, "kill", hidden)
    assert processes.process_is_alive(1234, "5")


def test_a_zombie_is_dead() -> None:
    """A killed run whose parent has not looked yet must not hold its leases."""
    process = os.fork()
    if process == 0:
        os._exit(0)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    try:
        assert not processes.process_is_alive(process)
    finally:
        os.waitpid(process, 0)


def test_a_lease_says_itself_how_long_it_may_stand_still(store: Store, monkeypatch) -> None:
    """Two machines that were told different periods must agree on when a lease is free: the holder's word counts."""
    monkeypatch.setenv(TTL_VARIABLE, "5")
    held = leases(store, "mine")
    take(held)
    monkeypatch.delenv(TTL_VARIABLE)
    clock = Clock()
    observer = leases(store, "theirs", clock)
    assert observer.holder("key") is not None
    clock.now_s = 4.0
    assert observer.holder("key") is not None
    clock.now_s = 6.0
    assert observer.holder("key") is None
    taken = take(observer)
    assert taken.holder.patience_s == TTL_S
    held.beat()
    with pytest.raises(LeaseLost):
        held.confirm(held._held["key"])


@pytest.mark.parametrize("value", ["soon", "0.1", "nan", "90000"])
def test_a_period_that_is_none_is_refused(store: Store, monkeypatch, value: str) -> None:
    """A lease that is free at once, or never, is no lease."""
    monkeypatch.setenv(TTL_VARIABLE, value)
    with pytest.raises(UsageError, match=TTL_VARIABLE):
        leases(store, "mine").acquire("key")
    planted = {**vars(Holder("t0ken", "other-host", 12345, "1", "theirs")), "ttl_s": 1e12}
    store.create("leases/planted", json.dumps(planted).encode())
    assert leases(store, "mine").holder("planted") is None
