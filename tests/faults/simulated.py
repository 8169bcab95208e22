"""Several drivers on one store in virtual time: the real scheduler, worker, leases and `gc`, on a simulated store.

Each driver is a thread, and exactly one of them goes at a time: whenever one asks the store for something or sleeps, the world
decides who is next, how much time passes, whether the request fails (before or after it took effect), takes effect much later
or a second time, and whether the driver is killed there. Listings lag behind. Each driver is a machine of its own whose clock
is wrong by minutes. All decisions come from one generator, so a seed tells all. What must hold is checked at every change.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.errors import StoreError
from orchestrator.store.base import Blob, Entry, Upload
from orchestrator.store.blobs import digest_bytes
from orchestrator.store.lease import BEAT_S, Leases
from orchestrator.store.record_file import decode_record

START = datetime(2026, 1, 1, tzinfo=UTC)
LATEST_S = 100.0
MOST_LAG_S = 30.0
STALL_S = 75.0
STEP_S = 20.0
REAL = time.monotonic, time.sleep


class Killed(BaseException):
    """The driver is dead: it can do nothing more."""


class Driver(threading.Thread):
    """A process on a machine of its own, which does `action` and is told `go` for each of its requests."""

    def __init__(self, world: World, number: int, action: Callable[[SimulatedStore], object], *, skew_s: float) -> None:
        super().__init__(daemon=True)
        self.world = world
        self.host = f"machine-{number}"
        self.skew_s = skew_s
        self.action = action
        self.go = threading.Semaphore(0)
        self.wake_at = 0.0
        self.is_killed = False
        self.has_ended = False
        self.result: object = None
        self.error: BaseException | None = None
        self.leases: list[Leases] = []
        self.beaten_at = world.now_s
        self.store = SimulatedStore(world, self, world.folder / self.host)

    def run(self) -> None:
        self.go.acquire()
        try:
            if not self.is_killed:
                self.result = self.action(self.store)
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - the test says which ones it may be
            self.error = error
        self.has_ended = True
        self.world.turn.release()

    def pause(self) -> None:
        """Let the world go on; returns when it is this driver's turn."""
        if self.is_killed:
            raise Killed
        self.world.turn.release()
        self.go.acquire()
        if self.is_killed:
            raise Killed

    def sleep(self, seconds: float) -> None:
        until_s = self.world.now_s + seconds
        while self.world.now_s < until_s:
            self.wake_at = min(until_s, self.world.now_s + BEAT_S)
            self.pause()
            self.beat()

    def beat(self) -> None:
        if self.world.now_s - self.beaten_at >= BEAT_S:
            self.beaten_at = self.world.now_s
            for leases in self.leases:
                leases.beat()


class World:
    """The server, its clock, and who goes next."""

    def __init__(self, generator: random.Random, folder: Path, *, fault_rate: float, kill_rate: float) -> None:
        self.random = generator
        self.folder = folder
        self.fault_rate = fault_rate
        self.kill_rate = kill_rate
        self.now_s = 0.0
        self.turn = threading.Semaphore(0)
        self.drivers: list[Driver] = []
        self.objects: dict[str, Entry] = {}
        self.written_s: dict[str, float] = {}
        self.logs: dict[str, bytearray] = {}
        self.blobs: dict[str, bytes] = {}
        self.standing: dict[str, list[tuple[float, bool]]] = {}
        self.late: list[tuple[float, Callable[[], object]]] = []
        self.versions = itertools.count(1)
        self.injected = {"killed": 0, "failed before": 0, "failed after": 0, "late": 0, "twice": 0, "stalled": 0, "lagging": 0}
        self.problems: list[str] = []

    # Drivers

    def begin(self, action: Callable[[SimulatedStore], object], *, skew_s: float = 0.0) -> Driver:
        driver = Driver(self, len(self.drivers), action, skew_s=skew_s)
        self.drivers.append(driver)
        driver.start()
        return driver

    def run(self, most_turns: int) -> None:
        """Until all have ended; those that have not after `most_turns` are killed."""
        for _ in range(most_turns):
            going = [driver for driver in self.drivers if not driver.has_ended]
            if not going:
                return
            self.now_s = max(self.now_s, min(driver.wake_at for driver in going))
            driver = self.random.choice([driver for driver in going if driver.wake_at <= self.now_s])
            if self.random.random() < self.kill_rate:
                driver.is_killed = True
                self.injected["killed"] += 1
            self._let_time_pass()
            driver.go.release()
            self.turn.acquire()
        for driver in self.drivers:
            while not driver.has_ended:
                driver.is_killed = True
                driver.go.release()
                self.turn.acquire()

    def _let_time_pass(self) -> None:
        if self.random.random() < self.fault_rate / 10:
            self.injected["stalled"] += 1
            self.now_s += STALL_S
        else:
            self.now_s += self.random.choice((0.0, 0.001, 0.01, 0.1))
        due = [item for item in self.late if item[0] <= self.now_s]
        self.late = [item for item in self.late if item[0] > self.now_s]
        for _, change in due:
            change()

    # Requests

    def ask(self, change: Callable[[], Any], *, is_change: bool = True) -> Any:
        """Do it, as far as the world lets it be done."""
        if self.random.random() >= self.fault_rate:
            return change()
        kind = self.random.choice(("failed before", "failed after", "late", "twice") if is_change else ("failed before",))
        self.injected[kind] += 1
        later_s = self.now_s + self.random.uniform(0, LATEST_S)
        if kind == "twice":
            self.late.append((later_s, change))
            return change()
        if kind == "late":
            self.late.append((later_s, change))
        if kind == "failed after":
            change()
        raise StoreError("the server cannot be reached (simulated)")

    def put(self, path: str, data: bytes, is_meant: Callable[[Entry | None], bool]) -> str | None:
        before = self.objects.get(path)
        if not is_meant(before):
            return None
        version = str(next(self.versions))
        self.objects[path] = Entry(data, version)
        self.written_s[path] = self.now_s
        self._note(path, is_there=True)
        if path.startswith("artifacts/"):
            self._check_record(path, data, before)
        return version

    def remove(self, path: str, version: str | None) -> bool:
        before = self.objects.get(path)
        if before is None or (version is not None and before.version != version):
            return False
        del self.objects[path]
        self._note(path, is_there=False)
        if path.startswith("artifacts/"):
            self.problems.append(f"lost: {path} was removed")
        return True

    def read(self, path: str) -> Entry | None:
        found = self.objects.get(path)
        return found and Entry(found.data, found.version, self.now_s - self.written_s[path])

    def put_blob(self, digest: str, data: bytes) -> None:
        if digest not in self.blobs:
            self.blobs[digest] = data
            self.written_s[f"blobs/{digest}"] = self.now_s
            self._note(f"blobs/{digest}", is_there=True)

    def remove_blob(self, digest: str) -> None:
        for path, entry in self.objects.items():
            if path.startswith("artifacts/") and digest.encode() in entry.data:
                self.problems.append(f"torn: a blob of {path} was removed")
        if self.blobs.pop(digest, None) is not None:
            self._note(f"blobs/{digest}", is_there=False)

    def names(self, prefix: str) -> set[str]:
        """Names below a prefix, as they were a while ago."""
        lag_s = self.random.choice((0.0, 0.0, 1.0, MOST_LAG_S)) if self.fault_rate else 0.0
        self.injected["lagging"] += lag_s > 0
        found = set()
        for path, history in self.standing.items():
            before = [is_there for at_s, is_there in history if at_s <= self.now_s - lag_s]
            if path.startswith(f"{prefix}/") and before and before[-1]:
                found.add(path[len(prefix) + 1 :])
        return found

    def _note(self, path: str, *, is_there: bool) -> None:
        self.standing.setdefault(path, []).append((self.now_s, is_there))

    def _check_record(self, path: str, data: bytes, before: Entry | None) -> None:
        _, stage, key, _ = path.split("/")
        if before is not None:
            self.problems.append(f"duplicate: {path} was published twice")
        for name, file in decode_record(data, stage=stage, key=key).files.items():
            if len(self.blobs.get(file.digest, b"")) != file.size_bytes or file.digest not in self.blobs:
                self.problems.append(f"torn: {path} was published without {name}")


class SimulatedStore:
    """The store as one driver sees it; an `onlooker` (no driver) is never disturbed."""

    url = "simulated://store"
    width = 1

    def __init__(self, world: World, driver: Driver | None, folder: Path) -> None:
        self.world = world
        self.driver = driver
        self.folder = folder

    def _ask(self, action: Callable[[], Any], *, is_change: bool = False) -> Any:
        if self.driver is None:
            return action()
        self.driver.pause()
        return self.world.ask(action, is_change=is_change)

    def caution(self) -> str:
        return ""

    def read(self, path: str) -> Entry | None:
        return self._ask(lambda: self.world.read(path))

    def read_many(self, paths: Iterable[str]) -> Mapping[str, Entry]:
        return {path: entry for path in paths if (entry := self.read(path)) is not None}

    def read_below(self, folder: str, file: str) -> Iterator[tuple[str, Entry]]:
        for name in self.list(folder):
            entry = self.read(f"{folder}/{name}/{file}")
            if entry is not None:
                yield name, entry

    def create(self, path: str, data: bytes, *, durable: bool = True) -> str | None:
        return self._ask(lambda: self.world.put(path, data, lambda found: found is None), is_change=True)

    def replace(self, path: str, data: bytes, *, version: str, durable: bool = True) -> str | None:
        def is_meant(found: Entry | None) -> bool:
            return found is not None and found.version == version

        return self._ask(lambda: self.world.put(path, data, is_meant), is_change=True)

    def delete(self, path: str, *, version: str | None = None) -> bool:
        return self._ask(lambda: self.world.remove(path, version), is_change=True)

    def append(self, path: str, data: bytes) -> None:
        if self.driver is not None:
            self.driver.pause()
            self.driver.beat()
        self.world.logs.setdefault(path, bytearray()).extend(data)

    def read_log(self, path: str, *, offset: int = 0) -> bytes:
        return bytes(self.world.logs.get(path, b"")[offset:])

    def log_file(self, path: str) -> Any:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "log").touch()
        return nullcontext(self.folder / "log")

    def list(self, prefix: str) -> Iterator[str]:
        return iter(sorted({name.partition("/")[0] for name in self._ask(lambda: self.world.names(prefix))}))

    def put_blob(self, source: Path, digest: str, *, durable: bool = True) -> None:
        data = source.read_bytes()
        assert digest_bytes(data) == digest
        self._ask(lambda: self.world.put_blob(digest, data), is_change=True)
        source.unlink()

    def has_blob(self, digest: str, size_bytes: int) -> bool:
        return self._ask(lambda: digest in self.world.blobs and len(self.world.blobs[digest]) == size_bytes)

    def which_blobs(self, blobs: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
        return {blob for blob in blobs if self.has_blob(*blob)}

    def blobs(self) -> Iterator[Blob]:
        for digest in sorted(self._ask(lambda: self.world.names("blobs"))):
            yield Blob(
                digest, len(self.world.blobs.get(digest, b"")), self.world.now_s - self.world.written_s[f"blobs/{digest}"]
            )

    def remove_blob(self, digest: str) -> None:
        self._ask(lambda: self.world.remove_blob(digest), is_change=True)

    def uploads(self) -> Iterator[Upload]:
        return iter(())

    def abort_upload(self, upload: Upload) -> None: ...

    def blob_path(self, digest: str) -> Path:
        data = self._ask(lambda: self.world.blobs.get(digest))
        if data is None:
            raise FileNotFoundError(digest)
        path = self.workspace("cache") / digest
        path.write_bytes(data)
        return path

    def release_blobs(self) -> None: ...

    def workspace(self, name: str, *, make: bool = True) -> Path:
        if make:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        return self.folder / name

    def workspaces(self, prefix: str) -> Iterator[str]:
        with suppress(FileNotFoundError):
            yield from [path.name for path in (self.folder / prefix).iterdir()]

    def remove_workspace(self, name: str) -> None:
        import shutil

        shutil.rmtree(self.folder / name, ignore_errors=True)

    def shared_files(self) -> None:
        return None

    def sweep(self) -> None: ...
