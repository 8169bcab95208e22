"""A machine of many processes, in any order, with deaths and delays, against a simple model of what must be true:
at most one record is committed per key, every record that can be seen is whole, and a lease has one live holder.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from servers import BUCKET, damage_blob, started

from orchestrator.errors import LeaseLost
from orchestrator.store import lease as lease_module
from orchestrator.store.artifacts import Artifacts, Record, content_digest
from orchestrator.store.base import Store, open_store
from orchestrator.store.lease import TTL_S, Holder, Lease, Leases
from orchestrator.store.local import LocalStore

KEYS = ("k1", "k2")
WORKERS = tuple(range(4))
workers, keys = st.sampled_from(WORKERS), st.sampled_from(KEYS)


class Worker:
    """A process as the store sees it: with its own clock, perhaps on another host, perhaps dead."""

    def __init__(self, store: Store, number: int, life: int) -> None:
        self.number = number
        self.life = life
        self.host = f"host{number % 2}"
        self.now_s = number * 1000.0  # clocks that agree on nothing
        self.artifacts = Artifacts(store)
        self.leases = Leases(store, run=f"{number}.{life}", clock=lambda: self.now_s)
        self.leases._beat_in_background = lambda: None
        self.held: dict[str, Lease] = {}
        self.staged: dict[str, Record] = {}


class Machine(RuleBasedStateMachine):
    """Workers take leases, write files, publish, stall, and die, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="store-model-"))
        self.store = self.new_store()
        self.life = 0
        self.workers = [Worker(self.store, number, 0) for number in WORKERS]
        self.alive = {worker.leases.run for worker in self.workers}
        self.first: dict[str, str] = {}
        self.saved = lease_module.host_identity, lease_module.process_is_alive

    def new_store(self) -> Store:
        return LocalStore(self.folder)

    def teardown(self) -> None:
        lease_module.host_identity, lease_module.process_is_alive = self.saved
        shutil.rmtree(self.folder)

    def acting(self, number: int) -> Worker:
        """From here on this process is the given worker: its host, and what it can know about the processes there."""
        worker = self.workers[number]
        lease_module.host_identity = lambda: worker.host
        lease_module.process_is_alive = lambda process, started="": f"{process}.{started}" in self.alive
        return worker

    @rule(number=workers, key=keys)
    def acquire(self, number: int, key: str) -> None:
        worker = self.acting(number)
        if key in worker.held:
            return
        answer = self._acquire(worker, key)
        if isinstance(answer, Lease):
            worker.held[key] = answer

    def _acquire(self, worker: Worker, key: str) -> Lease | Holder:
        real_pid, real_start = lease_module.os.getpid, lease_module._own_start
        lease_module.os.getpid = lambda: worker.number
        lease_module._own_start = lambda _: str(worker.life)
        try:
            return worker.leases.acquire(key)
        finally:
            lease_module.os.getpid, lease_module._own_start = real_pid, real_start

    @rule(number=workers, key=keys, content=st.binary(max_size=3))
    def stage(self, number: int, key: str, content: bytes) -> None:
        """Make the files and move them into the store, lease or no lease."""
        worker = self.acting(number)
        folder = self.store.workspace(f"{number}-{key}")
        (folder / "file").write_bytes(content)
        files = worker.artifacts.take_files(folder)
        worker.staged[key] = Record(
            key=key, stage="s", kind="k", identity={}, files=files, metrics={}, measurements={},
            content_digest=content_digest(files, {}), input_digests={}, source_digest="", label="", run=worker.leases.run,
            attempt=1, finished="", seconds=0.0,
        )  # fmt: skip

    @rule(number=workers, key=keys, careful=st.booleans())
    def publish(self, number: int, key: str, *, careful: bool) -> None:
        """Publish what was staged; a careless worker does not ask for its lease: safety must not rest on it."""
        worker = self.acting(number)
        if key not in worker.staged:
            return
        if careful:
            if key not in worker.held:
                return
            try:
                worker.leases.confirm(worker.held[key])
            except LeaseLost:
                worker.held.pop(key)
                return
        before = worker.artifacts.find("s", key)
        standing = worker.artifacts.publish(worker.staged.pop(key))
        assert before is None or standing == before, "an earlier record was overwritten"
        self.first.setdefault(key, standing.run)

    @rule(number=workers, key=keys)
    def release(self, number: int, key: str) -> None:
        worker = self.acting(number)
        worker.held.pop(key, None)
        worker.leases.release(key)

    @rule(number=workers, seconds=st.sampled_from([1.0, TTL_S / 2, TTL_S + 1, 600.0]))
    def time_passes_for(self, number: int, seconds: float) -> None:
        self.workers[number].now_s += seconds

    @rule(number=workers)
    def beat(self, number: int) -> None:
        self.acting(number).leases.beat()

    @rule(number=workers)
    def die(self, number: int) -> None:
        """SIGKILL; another process with another start takes the worker's place."""
        self.alive.discard(self.workers[number].leases.run)
        self.life += 1
        self.workers[number] = Worker(self.store, number, self.life)
        self.alive.add(self.workers[number].leases.run)

    @precondition(lambda self: self.first)
    @rule(key=keys)
    def damage(self, key: str) -> None:
        """A blob loses its end: the record is no hit any more, and may be made again."""
        record = self.workers[0].artifacts.find("s", key)
        if record is None or record.files["file"].size_bytes == 0:
            return
        damage_blob(self.store, record.files["file"].digest, b"")
        for other in KEYS:
            if self.workers[0].artifacts.find("s", other) is None:
                self.first.pop(other, None)
        for worker in self.workers:
            worker.staged = {
                k: r for k, r in worker.staged.items() if self.store.has_blob(r.files["file"].digest, r.size_bytes)
            }

    @rule(number=workers)
    def sweep(self, number: int) -> None:
        worker = self.acting(number)
        worker.leases.sweep()
        self.store.sweep()

    @invariant()
    def every_record_is_whole_and_the_first(self) -> None:
        for key in KEYS:
            record = self.workers[0].artifacts.find("s", key)
            if record is not None:
                assert self.workers[0].artifacts.open(record).file("file").stat().st_size == record.size_bytes
            if key in self.first:
                assert record is not None, "a committed record has vanished"
                assert record.run == self.first[key]

    @invariant()
    def a_lease_names_one_holder_and_all_others_will_find_out(self) -> None:
        for key in KEYS:
            entry = self.store.read(f"leases/{key}")
            token = json.loads(entry.data)["token"] if entry is not None else None
            confirmed = 0
            for worker in self.workers:
                lease = worker.held.get(key)
                if lease is not None and not lease.lost and lease.holder.token == token:
                    confirmed += 1
            assert confirmed <= 1


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestStoreAndLeases = Machine.TestCase


class MachineOnS3(Machine):
    """The same on a server that honours preconditions: all workers share it, and a cache."""

    def new_store(self) -> Store:
        self.patch = pytest.MonkeyPatch()
        for name, value in {**started("moto").variables, "ORCHESTRATOR_CACHE": str(self.folder)}.items():
            self.patch.setenv(name, value)
        return open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}")

    def teardown(self) -> None:
        super().teardown()
        self.patch.undo()


MachineOnS3.TestCase.settings = settings(
    max_examples=8, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStoreAndLeasesOnS3 = pytest.mark.xdist_group("s3-moto")(MachineOnS3.TestCase)
