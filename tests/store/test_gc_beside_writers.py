"""gc beside a writer and beside a reader: whatever the order of their steps, no record names a blob that is gone."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from made_artifacts import NOW, hits, key_of, make, make_older, taken

from orchestrator.errors import IntegrityError, UsageError
from orchestrator.store import claims
from orchestrator.store.artifacts import Artifacts, Record
from orchestrator.store.blobs import digest_bytes
from orchestrator.store.gc import GcRules, apply_gc, plan_gc
from orchestrator.store.inventory import Inventory
from orchestrator.store.local import LocalStore
from orchestrator.store.names import Names

RULES = GcRules(keep_since="2026-05-01T00:00:00.000Z", grace_s=3600)
OLD_CONTENT, ORPHAN = b"made long ago", b"left by a killed writer"


class Watched:
    """A store that calls `before` ahead of each of its operations."""

    def __init__(self, store: LocalStore, before: Callable[[str, str], None]) -> None:
        self._store = store
        self._before = before

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self._before(name, str(arguments[0]) if arguments else "")
            return found(*arguments, **options)

        return call


class Writer:
    """Makes an artifact whose files are in the store already, in two steps, in a thread of its own: it may have to wait."""

    def __init__(self, store: LocalStore) -> None:
        self.artifacts = Artifacts(Watched(store, self._notice))  # type: ignore[arg-type]
        self._next = [threading.Event(), threading.Event()]
        self._moved = threading.Event()
        self._looks = 0
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._write, daemon=True)
        self.thread.start()

    def go(self, step: int) -> None:
        """Let it take a step; returns when it has, or when it waits for gc."""
        self._moved.clear()
        self._next[step].set()
        assert self._moved.wait(20)

    def _notice(self, name: str, path: str) -> None:
        if (name, path) == ("read", "gc/condemned"):
            self._looks += 1
            if self._looks > 1:
                self._moved.set()
        elif path != "leases/gc":
            self._looks = 0

    def _write(self) -> None:
        try:
            self._next[0].wait()
            record = taken(self.artifacts, key_of(7), {"a": OLD_CONTENT, "b": ORPHAN, "c": b"new"}, finished=NOW)
            self._moved.set()
            self._next[1].wait()
            self.artifacts.publish(record)
        except BaseException as error:  # noqa: BLE001 - told by the test
            self.error = error
        finally:
            self._moved.set()


def no_roots(_inventory: Inventory) -> Mapping[str, str]:
    return {}


def prepared(folder: Path) -> LocalStore:
    """A store with an old artifact that nobody keeps, and an old blob that nothing names."""
    store = LocalStore(folder)
    make(Artifacts(store), key_of(1), {"a": OLD_CONTENT})
    source = store.workspace("w") / "f"
    source.write_bytes(ORPHAN)
    store.put_blob(source, digest_bytes(ORPHAN))
    make_older(store, digest_bytes(ORPHAN), days=10)
    return store


def gc_with(
    store: LocalStore,
    before: Callable[[int], None],
    *,
    roots: Callable[[Inventory], Mapping[str, str]] = no_roots,
) -> int:
    """Preview and removal; `before` is called with the number of each operation. Returns how many there were."""
    numbers, main = itertools.count(), threading.current_thread()

    def notice(_name: str, _path: str) -> None:
        if threading.current_thread() is main:  # the beat of its lease comes when it comes
            before(next(numbers))

    watched: Any = Watched(store, notice)
    apply_gc(watched, plan_gc(watched, RULES, roots), RULES, roots)
    return next(numbers)


def pairs(number: int) -> list[tuple[int, int]]:
    """A first step at every place, and a second one soon after it, later, and at the end."""
    return [
        (first, second)
        for first in range(number)
        for second in sorted({first, *(first + ahead for ahead in (1, 3, 8) if first + ahead < number), number - 1})
    ]


@pytest.fixture(autouse=True)
def _poll_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_POLL_S", 0.001)


def test_a_record_written_at_any_step_of_gc_has_all_its_blobs(tmp_path: Path) -> None:
    """The artifact just made would be a miss, for no reason that anyone could see."""
    steps = gc_with(prepared(tmp_path / "count"), lambda _number: None)
    assert steps > 15
    for first, second in pairs(steps + 1):
        store = prepared(tmp_path / f"{first}-{second}")
        writer = Writer(store)

        def step_in(number: int, first: int = first, second: int = second, writer: Writer = writer) -> None:
            for step, when in enumerate((first, second)):
                if number == when:
                    writer.go(step)

        gc_with(store, step_in)
        writer._next[0].set()
        writer._next[1].set()
        writer.thread.join(20)
        assert writer.error is None, (first, second)
        assert not writer.thread.is_alive(), (first, second)
        assert key_of(7) in hits(Artifacts(store)), (first, second)


def test_a_reader_at_any_step_of_gc_finds_a_whole_artifact_or_a_miss(tmp_path: Path) -> None:
    """A run that looks while gc works would end with a trace."""
    steps = gc_with(prepared(tmp_path / "count"), lambda _number: None)
    found, missed, lost = 0, 0, 0
    for first, second in pairs(steps):
        store = prepared(tmp_path / f"{first}-{second}")
        artifacts = Artifacts(store)
        records = []

        def look(
            number: int, first: int = first, second: int = second, artifacts: Artifacts = artifacts, records=records
        ) -> None:
            nonlocal found, missed, lost
            if number == first:
                records.append(artifacts.find("probe.echo", key_of(1)))
            if number == second and records[0] is not None:
                try:
                    assert artifacts.open(records[0]).file("a").read_bytes() == OLD_CONTENT
                    found += 1
                except IntegrityError:  # which the engine answers by making it again
                    lost += 1
            elif number == second:
                missed += 1

        gc_with(store, look)
    assert found
    assert missed
    assert lost


def test_a_name_given_at_any_step_of_gc_keeps_its_artifact_or_is_refused(tmp_path: Path) -> None:
    """A name would promise what is gone a moment later."""

    def named(store: LocalStore) -> Callable[[Inventory], Mapping[str, str]]:
        return lambda _inventory: dict(Names(store).kept_keys())

    given, refused = 0, 0
    for when in range(gc_with(prepared(tmp_path / "count"), lambda _number: None) + 4):
        store = prepared(tmp_path / str(when))
        record = Artifacts(store).find("probe.echo", key_of(1))
        assert record is not None
        errors: list[UsageError] = []

        def promote(store: LocalStore = store, record: Record = record, errors: list[UsageError] = errors) -> None:
            try:
                Names(store).promote(record, "kept-one")
            except UsageError as error:
                errors.append(error)

        thread = threading.Thread(target=promote)

        def step_in(number: int, when: int = when, thread: threading.Thread = thread) -> None:
            if number == when:
                thread.start()
                thread.join(0.1)  # it may have to wait for gc

        gc_with(store, step_in, roots=named(store))
        if thread.ident is None:
            thread.start()
        thread.join(20)
        is_named = Names(store).find("kept-one") is not None
        assert is_named == (not errors) == (Artifacts(store).find("probe.echo", key_of(1)) is not None), when
        given, refused = given + is_named, refused + len(errors)
    assert given
    assert refused


def test_gc_killed_at_any_step_leaves_whole_artifacts_and_the_next_one_ends_it(tmp_path: Path) -> None:
    """A list left behind must not make writers wait for ever, nor a lease keep gc away."""

    class Killed(BaseException):
        pass

    steps = gc_with(prepared(tmp_path / "count"), lambda _number: None)
    for when in range(steps):
        store = prepared(tmp_path / str(when))

        def kill(number: int, when: int = when) -> None:
            if number >= when:
                raise Killed

        with suppress(Killed):
            gc_with(store, kill)
        store.delete("leases/gc")  # its process is dead: see the tests of leases
        hits(Artifacts(store))
        writer = Writer(store)
        writer.go(0)
        writer.go(1)
        assert key_of(7) in hits(Artifacts(store))
        gc_with(store, lambda _number: None)
        assert hits(Artifacts(store)) == {key_of(7)}
        assert store.read("gc/condemned") is None
