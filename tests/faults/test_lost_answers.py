"""Requests that the server has served and whose answers never arrive: whoever asked must know its own work again."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from s3_proxy import Proxy, Request, SeededPlan

from orchestrator.errors import StoreError
from orchestrator.store import lease as lease_module
from orchestrator.store import s3_transfer
from orchestrator.store.base import open_store
from orchestrator.store.blobs import digest_bytes
from orchestrator.store.lease import TTL_S, Holder, Lease, Leases
from orchestrator.store.leftovers import find_leftovers, remove_leftovers
from orchestrator.store.s3 import S3Store
from orchestrator.store.s3_client import Away
from orchestrator.store.s3_probe import Promises, probe


def every(kind: str, *methods: str, path: str = ""):
    """A rule: this fault for each request of these methods to a path that has this in it."""
    return lambda request: kind if request.method in methods and path in request.target else None


def opened(place: str) -> S3Store:
    store = open_store(place)
    assert isinstance(store, S3Store)
    assert store.promises.is_safe  # asked for while nothing disturbs it
    return store


@pytest.mark.parametrize("kind", ["reset_after", "error_after", "repeat"])
def test_the_first_writer_is_told_that_it_was_first(proxy: Proxy, place: str, tally, kind: str) -> None:
    """Its second try is refused by its own first: a record would have no maker, and a lease no holder."""
    store = opened(place)
    left = [1]
    proxy.rule = lambda request: kind if request.method == "PUT" and left and left.pop() else None
    version = store.create("key", b"mine")
    assert store.read("key").version == version
    left.append(1)
    assert store.replace("key", b"again", version=version) is not None
    assert store.create("key", b"other") is None
    assert store.read("key").data == b"again"
    tally.add(f"one answer lost: {kind}", sum(proxy.injected.values()))


def test_a_holder_whose_beats_are_unanswered_for_a_while_keeps_its_lease(proxy: Proxy, place: str, tally) -> None:
    """The beat had arrived; taken for somebody else's, it would have ended hours of training."""
    leases = Leases(opened(place), run="r")
    lease = leases.acquire("k")
    proxy.rule = every("reset_after", "PUT")
    leases.beat()
    proxy.rule = None
    for _ in range(2):
        leases.beat()
        assert not lease.lost
    leases.confirm(lease)
    leases.close()
    assert list(leases.store.list("leases")) == []
    tally.add("all answers lost: beats", sum(proxy.injected.values()))


def test_a_lease_is_given_back_after_its_last_beat_was_unanswered(proxy: Proxy, place: str, tally) -> None:
    """It would stand for a minute in the way of everybody."""
    leases = Leases(opened(place), run="r")
    leases.acquire("k")
    proxy.rule = every("reset_after", "PUT")
    leases.beat()
    proxy.rule = None
    leases.release("k")
    assert list(leases.store.list("leases")) == []
    tally.add("all answers lost: beats", sum(proxy.injected.values()))


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_process_does_not_wait_for_itself(proxy: Proxy, place: str, tally, method: str) -> None:
    """Taken or given back without an answer, the lease is still its own: no minute of waiting for a holder that is nobody."""
    leases = Leases(opened(place), run="r")
    if method == "DELETE":
        leases.acquire("k")
    proxy.rule = every("reset_before" if method == "DELETE" else "reset_after", method, path="leases")
    with pytest.raises(Away):
        leases.release("k") if method == "DELETE" else leases.acquire("k")
    proxy.rule = None
    assert isinstance(leases.acquire("k"), Lease)
    leases.close()
    assert list(leases.store.list("leases")) == []
    tally.add(f"all answers lost: {method} of a lease", sum(proxy.injected.values()))


def test_leases_that_cannot_be_given_back_are_beaten_no_more(proxy: Proxy, place: str, tally) -> None:
    """A notebook that lives on would otherwise keep them for ever, and its run would look alive."""
    leases = Leases(opened(place), run="r")
    leases.acquire("a")
    leases.acquire("b")
    proxy.rule = every("slow_down", "DELETE")
    with pytest.raises(StoreError):
        leases.close()
    proxy.rule = None
    before = {name: leases.store.read(f"leases/{name}").version for name in "ab"}
    leases.beat()
    assert {name: leases.store.read(f"leases/{name}").version for name in "ab"} == before
    tally.add("all requests refused: DELETE", sum(proxy.injected.values()))


def test_a_large_object_whose_completion_was_unanswered_is_there(proxy: Proxy, place: str, tally, tmp_path: Path) -> None:
    """The server knows no such upload the second time; a stage of hours would have run again for it."""
    store = opened(place)
    content = os.urandom(s3_transfer.PART_BYTES + 10)
    source = store.workspace("w") / "file"
    source.write_bytes(content)
    left = [1]
    proxy.rule = lambda r: "reset_after" if r.method == "POST" and "uploadId=" in r.target and left and left.pop() else None
    store.put_blob(source, digest_bytes(content))
    assert proxy.injected["reset_after"] == 1
    assert store.has_blob(digest_bytes(content), len(content))
    assert list(store.uploads()) == []
    tally.add("one answer lost: completion of an upload", 1)


def test_uploads_that_were_left_open_are_removed_after_the_grace_period(proxy: Proxy, place: str, tally) -> None:
    """No listing shows them, and the bill does."""
    store = opened(place)
    source = store.workspace("w") / "file"
    source.write_bytes(os.urandom(s3_transfer.PART_BYTES + 10))
    proxy.rule = lambda request: "slow_down" if "uploadId=" in request.target else None  # parts, and giving up on them
    with pytest.raises(StoreError):
        store.put_blob(source, "0" * 64)
    proxy.rule = None
    (left,) = store.uploads()
    assert left.path == f"blobs/00/{'0' * 64}"
    options = {"finished": [], "needed": [], "checkpoints_older_than_s": 1e9}
    assert find_leftovers(store, uploads_older_than_s=1e10, **options).uploads == ()
    found = find_leftovers(store, **options)  # moto says that every upload was begun in 2010
    assert len(found.uploads) == 1
    remove_leftovers(store, found)
    remove_leftovers(store, found)  # of two gc one comes second
    assert list(store.uploads()) == []
    tally.add("uploads left open", 1)


def test_a_probe_whose_answers_are_lost_believes_no_less_of_the_server(proxy: Proxy, place: str, tally) -> None:
    """What it finds is remembered for a day."""
    proxy.rule = SeededPlan(1, 0.3, ("reset_after", "error_after", "repeat"))
    for _ in range(5):
        assert probe(open_store(place).client) == Promises(creates_once=True, replaces_by_version=True, deletes_by_version=True)
    tally.seed = "1"
    tally.add("answers lost: probe", sum(proxy.injected.values()))


def test_what_one_process_has_marked_as_removed_another_may_make_again(proxy: Proxy, place: str) -> None:
    """Processes that differ in what they believe of the server would otherwise wait for each other without end."""
    one, other = opened(place), opened(place)
    one.promises = Promises(creates_once=True, replaces_by_version=True, deletes_by_version=False)
    assert one.delete("leases/k", version=one.create("leases/k", b"x"))
    assert isinstance(Leases(other, run="r").acquire("k"), Lease)


def test_a_run_on_a_machine_that_is_gone_is_soon_told_from_a_living_one(proxy: Proxy, place: str, monkeypatch) -> None:
    """`status` looks once, and cannot wait for a beat: the server's own clock says how long ago the last one was."""
    store = opened(place)
    leases = Leases(store, run="r")
    leases._beat_in_background = lambda: None
    leases.acquire("run-r")
    monkeypatch.setattr(lease_module, "host_identity", lambda: "another machine")
    assert isinstance(Leases(store, run="").holder("run-r"), Holder)
    monkeypatch.setattr(lease_module, "TTL_S", 1.0)
    time.sleep(2.1)
    assert Leases(store, run="").holder("run-r") is None
    assert TTL_S > 2 * lease_module.BEAT_S


def test_a_log_is_kept_while_the_server_is_overloaded(proxy: Proxy, place: str, tally, monkeypatch) -> None:
    """An hour of 503 at night must not end a run that only wanted to note its progress."""
    store = opened(place)
    store.append("log", b"one\n")
    monkeypatch.setattr("orchestrator.store.s3_log.FLUSH_EVERY_S", 0.0)
    proxy.rule = every("slow_down", "PUT", "GET", path="log")
    store.append("log", b"two\n")
    proxy.rule = None
    store.append("log", b"three\n")
    assert open_store(place).read_log("log") == b"one\ntwo\nthree\n"
    tally.add("all requests refused: log", sum(proxy.injected.values()))


def test_lines_whose_arrival_was_not_answered_are_in_the_log_once(proxy: Proxy, place: str, tally, monkeypatch) -> None:
    """An event that is told twice reads as a node that was made twice."""
    store = opened(place)
    monkeypatch.setattr("orchestrator.store.s3_log.FLUSH_EVERY_S", 0.0)
    store.append("log", b"one\n")
    for number in range(2):
        proxy.rule = every("reset_after", "PUT", path="log")
        store.append("log", b"two %d\n" % number)
        store.append("log", b"three %d\n" % number)
        proxy.rule = None
        if number:
            open_store(place).append("log", b"of another\n")
        store.append("log", b"four %d\n" % number)
    lines = open_store(place).read_log("log").decode().splitlines()
    expected = ["one", "two 0", "three 0", "four 0", "two 1", "three 1", "four 1"]
    assert [line for line in lines if line != "of another"] == expected
    assert lines.count("of another") == 1
    tally.add("all answers lost: log", sum(proxy.injected.values()))


def test_an_answer_that_ends_early_is_never_taken_for_damage(proxy: Proxy, place: str, tally, tmp_path, monkeypatch) -> None:
    """Damage sets an artifact aside for everybody, and removes its content from the bucket."""
    store = opened(place)
    content = os.urandom(300_000)
    source = store.workspace("w") / "file"
    source.write_bytes(content)
    store.put_blob(source, digest_bytes(content))
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "other"))
    left = [1, 1, 1]
    proxy.rule = lambda request: "cut" if request.method == "GET" and left and left.pop() else None
    assert open_store(place).blob_path(digest_bytes(content)).read_bytes() == content
    assert proxy.injected["cut"] == 3
    tally.add("answers cut short", 3)


def test_a_listing_that_lags_behind_delays_a_log_and_loses_nothing(proxy: Proxy, place: str, tally, monkeypatch) -> None:
    """Where a log ends is found by listing it."""
    monkeypatch.setattr("orchestrator.store.s3_log.CHUNK_BYTES", 20)
    first = opened(place)
    for number in range(5):
        first.append("log", b"line %d of the first\n" % number)
        first.read_log("log")
    left = [1, 1, 1]
    proxy.rule = lambda request: "stale_list" if request.is_listing and left and left.pop() else None
    second = opened(place)
    second.append("log", b"a line of the second\n")
    second.read_log("log")
    proxy.rule = None
    assert open_store(place).read_log("log").splitlines()[5:] == [b"a line of the second"]
    tally.add("stale lists: log", proxy.injected["stale_list"])


def test_the_lease_object_says_nothing_of_a_clock(proxy: Proxy, place: str) -> None:
    """Clocks of two machines are minutes apart."""
    leases = Leases(opened(place), run="r")
    lease = leases.acquire("k")
    assert set(json.loads(leases.store.read(lease.path).data)) == {"token", "host", "process_id", "started", "run", "beat"}
    leases.close()


def test_a_rule_sees_whole_requests(proxy: Proxy, place: str) -> None:
    """The proxy itself."""
    seen: list[Request] = []
    proxy.rule = seen.append
    store = opened(place)
    store.create("a", b"x" * 100_000)
    assert store.read("a").data == b"x" * 100_000
    assert list(store.list("a")) == []
    assert proxy.num_requests == len(seen)
    assert any(request.is_listing for request in seen)
