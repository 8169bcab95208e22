"""Clocks of two machines that are minutes apart: an abandoned lease is taken over in time, a living one never."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from datetime import datetime, timedelta

import pytest
from servers import opened_store

from orchestrator.store import lease as lease_module
from orchestrator.store import ledger, processes
from orchestrator.store.base import Store
from orchestrator.store.lease import Holder, Lease, Leases

TTL_S, BEAT_S = 1.5, 0.2
REAL_TIME, REAL_MONOTONIC = time.time, time.monotonic


def on_another_machine(store: Store, skew_s: float, name: str, told) -> None:
    """Take a lease and beat, as a process of which nothing is known here, by a clock that is wrong."""

    class Calendar(datetime):
        @classmethod
        def now(cls, tz=None) -> datetime:
            return datetime.now(tz) + timedelta(seconds=skew_s)

    ledger.datetime = Calendar
    time.time = lambda: REAL_TIME() + skew_s
    lease_module.host_identity = processes.host_identity = lambda: "another-machine"
    leases = Leases(store, run="theirs", clock=lambda: REAL_MONOTONIC() + skew_s)
    leases.acquire(name)
    told.put(True)
    signal.pause()


@pytest.mark.parametrize("kind", ["local", pytest.param("moto", marks=pytest.mark.xdist_group("s3-moto"))])
@pytest.mark.parametrize("skew_s", [-600.0, 600.0])
def test_minutes_between_clocks_change_nothing(tmp_path, monkeypatch, tally, kind: str, skew_s: float) -> None:
    """A lease must not look old because its holder's clock is behind, nor stand for ever because it is ahead."""
    monkeypatch.setattr(lease_module, "TTL_S", TTL_S)
    monkeypatch.setattr(lease_module, "BEAT_S", BEAT_S)
    with opened_store(kind, tmp_path) as store:
        assert store.caution() == ""
        context = multiprocessing.get_context("fork")
        told = context.Queue()
        other = context.Process(target=on_another_machine, args=(store, skew_s, "k", told))
        other.start()
        try:
            assert told.get(timeout=60)
            leases = Leases(store, run="ours")
            until_s = time.monotonic() + 2.5 * TTL_S
            while time.monotonic() < until_s:
                assert isinstance(leases.acquire("k"), Holder), "a living holder was robbed"
                time.sleep(0.1)
        finally:
            os.kill(other.pid, signal.SIGKILL)
            other.join()
        until_s = time.monotonic() + 60
        while not isinstance(found := leases.acquire("k"), Lease):
            assert time.monotonic() < until_s, "the abandoned lease stands for ever"
            time.sleep(0.1)
        leases.confirm(found)
        leases.close()
    tally.add("abandoned lease, clocks minutes apart")
