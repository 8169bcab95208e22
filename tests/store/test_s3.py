"""What is S3's own: answers that get lost, large objects in parts, logs in pieces, servers without conditions, the cache."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from servers import Server, damage_blob, environment, other_machine, put_content, started

from orchestrator.errors import IntegrityError, StoreError
from orchestrator.store import s3_log, s3_transfer
from orchestrator.store.base import open_store
from orchestrator.store.blobs import digest_bytes
from orchestrator.store.cache import BlobCache
from orchestrator.store.s3_client import Refused, S3Client
from orchestrator.store.s3_probe import probe


def test_the_probe_finds_out_what_each_server_honours(server: Server, place: str) -> None:
    """A server that answers 200 and overwrites would let two machines make one artifact at once."""
    found = probe(open_store(place).client)
    expected = {"moto": (True, True, True), "rclone": (False, False, False), "ceph": (True, True, False)}
    assert (found.creates_once, found.replaces_by_version, found.deletes_by_version) == expected[server.name]


def test_the_probe_is_remembered_by_this_machine(moto: Server, place: str, requests: list[str]) -> None:
    """Every command would pay for six requests."""
    assert open_store(place).promises.is_safe
    del requests[:]
    assert open_store(place).promises.is_safe
    assert requests == []


def test_a_server_without_preconditions_is_refused_with_a_way_out(place: str, tmp_path) -> None:
    """Leases that only look safe would cost a day of work, or an artifact."""
    found = started("rclone")
    variables = {name: value for name, value in found.variables.items() if name != "ORCHESTRATOR_S3_ONE_MACHINE"}
    with environment({**variables, "ORCHESTRATOR_CACHE": str(tmp_path)}):
        store = open_store(place)
        with pytest.raises(StoreError, match="does not honour If-None-Match") as caught:
            store.create("key", b"x")
        assert "ORCHESTRATOR_S3_ONE_MACHINE=1" in caught.value.next_step
        with pytest.raises(StoreError):
            store.replace("key", b"x", version="v")
        with pytest.raises(StoreError):
            store.delete("key", version="v")
        assert store.read("key") is None
        put_content(store, b"blobs need no conditions")


@pytest.mark.parametrize("operation", ["create", "replace"])
def test_a_write_whose_answer_was_lost_knows_itself_again(moto: Server, place: str, monkeypatch, operation: str) -> None:
    """Sent a second time it is refused by what it wrote itself: a lease would be lost to nobody, a record to a ghost."""
    store = open_store(place)
    assert store.promises.is_safe  # asked for now
    version = store.create("key", b"old") if operation == "replace" else ""
    call = S3Client.call

    def losing(self, name, path="", **arguments):
        answer = call(self, name, path, **arguments)
        if name == "put_object":
            raise Refused
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(S3Client, "call", losing)
        made = store.create("key", b"new") if operation == "create" else store.replace("key", b"new", version=version)
    entry = store.read("key")
    assert entry is not None
    assert (entry.data, entry.version) == (b"new", made)


def test_a_server_that_is_away_is_named_without_a_secret(place: str, tmp_path, monkeypatch) -> None:
    """The user reads where it was looked for; keys stay out of logs."""
    monkeypatch.setattr("orchestrator.store.s3_connect.MAX_ATTEMPTS", 1)
    variables = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "s3cr3t"}
    with environment({**variables, "ORCHESTRATOR_CACHE": str(tmp_path)}), pytest.raises(StoreError) as caught:
        open_store(place).read("key")
    assert "cannot be reached" in caught.value.message
    assert "s3cr3t" not in f"{caught.value}{caught.value.next_step}"


def test_a_missing_bucket_and_missing_keys_say_what_to_do(moto: Server, tmp_path) -> None:
    """A typing error in the bucket, or no profile."""
    with pytest.raises(StoreError, match="NoSuchBucket") as caught:
        open_store("s3://no-such-bucket/x").read("key")
    assert "make the bucket" in caught.value.next_step
    without = {**moto.variables, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "ORCHESTRATOR_CACHE": str(tmp_path)}
    with environment(without), pytest.raises(StoreError) as caught:
        open_store("s3://bucket/x").read("key")
    assert "AWS_PROFILE" in caught.value.next_step


def test_what_this_machine_wrote_is_neither_sent_nor_fetched_again(
    moto: Server, place: str, tmp_path, monkeypatch, requests: list[str]
) -> None:
    """A checkpoint of gigabytes would travel for nothing; elsewhere it travels once."""
    store = open_store(place)
    digest = put_content(store, b"content")
    del requests[:]
    put_content(store, b"content")
    assert requests == ["head_object"]
    assert store.blob_path(digest).read_bytes() == b"content"
    assert requests == ["head_object"]
    found = other_machine(place, tmp_path, monkeypatch)
    for _ in range(2):
        assert found.blob_path(digest).read_bytes() == b"content"
        found.release_blobs()
    assert requests.count("get_object") == 1


def test_many_threads_and_processes_of_a_machine_fetch_a_blob_once(
    moto: Server, place: str, tmp_path, monkeypatch, race
) -> None:
    """Eight stages that start together would fetch one model eight times."""
    digest = put_content(open_store(place), b"content")
    found = other_machine(place, tmp_path, monkeypatch)
    fetched = tmp_path / "fetched"
    download = s3_transfer.download

    def counted(*arguments):
        with fetched.open("a") as file:
            file.write("x")
        download(*arguments)

    monkeypatch.setattr(s3_transfer, "download", counted)
    assert race(4, lambda _: found.blob_path(digest).read_bytes()) == [b"content"] * 4
    assert fetched.read_text() == "x"


def test_a_blob_that_was_damaged_on_the_server_is_refused(moto: Server, place: str, tmp_path, monkeypatch) -> None:
    """A stage would read something else than what was made."""
    store = open_store(place)
    digest = put_content(store, b"content")
    damage_blob(store, digest, b"CONTENT")
    with pytest.raises(IntegrityError, match="damaged"):
        store.blob_path(digest)
    assert not store.cache.path(digest).exists()


def test_a_blob_that_was_damaged_in_the_cache_is_fetched_again(moto: Server, place: str, monkeypatch) -> None:
    """A bad disk here must not set an artifact aside for everybody."""
    digest = put_content(open_store(place), b"content")
    store = open_store(place)
    cached = store.cache.path(digest)
    cached.chmod(0o644)
    cached.write_bytes(b"CONTENT")
    assert store.blob_path(digest).read_bytes() == b"content"


def test_a_log_asks_for_at_most_one_write_a_second_and_loses_nothing(moto: Server, place: str, requests: list[str]) -> None:
    """Four progress lines a second from every stage would be throttled, and paid for one by one."""
    store = open_store(place)
    assert store.promises.is_safe  # asked for now
    del requests[:]
    for number in range(200):
        store.append("log", b"%d\n" % number)
    assert requests.count("put_object") <= 2
    assert store.read_log("log") == b"".join(b"%d\n" % number for number in range(200))


def test_a_log_is_soon_seen_by_others(moto: Server, place: str) -> None:
    """`status` and `logs --follow` run in another process."""
    writer, reader = open_store(place), open_store(place)
    writer.append("log", b"one\n")
    writer.append("log", b"two\n")
    deadline = time.monotonic() + 20
    while reader.read_log("log") != b"one\ntwo\n":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_long_log_is_in_several_objects_and_read_from_any_offset(moto: Server, place: str, monkeypatch) -> None:
    """A run of days, followed by somebody who has read most of it."""
    monkeypatch.setattr(s3_log, "CHUNK_BYTES", 100)
    monkeypatch.setattr(s3_log, "FLUSH_EVERY_S", 0.0)
    store = open_store(place)
    lines = [b"line %04d\n" % number for number in range(60)]
    for line in lines:
        store.append("log", line)
    whole = b"".join(lines)
    assert 5 <= len(list(store.client.list("log/"))) <= 10
    for offset in (0, 1, 99, 100, 101, 333, len(whole) - 1, len(whole), len(whole) + 5):
        assert open_store(place).read_log("log", offset=offset) == whole[offset:]
    assert store.delete("log")
    assert store.read_log("log") == b""


def test_two_writers_of_a_log_one_after_the_other_lose_nothing(moto: Server, place: str) -> None:
    """A run that is continued elsewhere; the first one's process is still there."""
    first, second = open_store(place), open_store(place)
    first.append("log", b"a\n")
    second.append("log", b"b\n")
    first.append("log", b"c\n")
    first.sweep()
    second.sweep()
    assert sorted(open_store(place).read_log("log").split()) == [b"a", b"b", b"c"]


def test_a_log_is_sent_when_the_process_ends(moto: Server, place: str) -> None:
    """The last event of a run says how it ended."""
    code = (
        f"from orchestrator.store.base import open_store; s = open_store({place!r}); [s.append('log', b'x') for _ in range(9)]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert open_store(place).read_log("log") == b"x" * 9


def test_what_a_killed_stage_had_printed_is_rescued(moto: Server, place: str) -> None:
    """The last words before a crash are the ones that matter."""
    code = (
        "import os, signal\nfrom orchestrator.store.base import open_store\n"
        f"with open_store({place!r}).log_file('runs/r/log') as path:\n"
        "    path.write_text('last words')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode < 0
    store = open_store(place)
    store.sweep()
    assert open_store(place).read_log("runs/r/log") == b"last words"


def test_a_full_cache_drops_what_was_not_used_for_longest_and_spares_what_is_in_use(tmp_path) -> None:
    """The disk would fill up; or a stage would find its input gone."""
    cache = BlobCache(tmp_path, max_bytes=3500)
    digests = []
    for number in range(3):
        content = b"%d" % number * 1000
        digests.append(digest_bytes(content))
        cache.open(digests[-1], lambda new, content=content: new.write_bytes(content))
        time.sleep(0.01)
    other = BlobCache(tmp_path, max_bytes=3500)
    cache.release()
    in_use = other.open(digests[0], lambda _: pytest.fail("it was there"))
    content = b"3" * 1000
    cache.open(digest_bytes(content), lambda new: new.write_bytes(content))
    cache.evict()
    assert in_use.read_bytes() == b"0" * 1000
    assert cache.path(digests[0]).exists()
    assert not cache.path(digests[1]).exists()


def test_a_fetch_that_fails_leaves_nothing_in_the_cache(tmp_path) -> None:
    """Half a file under a good name would be believed."""
    cache = BlobCache(tmp_path, max_bytes=10**6)

    def fail(new) -> None:
        new.write_bytes(b"half")
        raise KeyError

    with pytest.raises(KeyError):
        cache.open(digest_bytes(b"whole"), fail)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "locks" not in path.parts]


def test_requests_of_many_threads_share_one_client(moto: Server, place: str) -> None:
    """A plan asks for hundreds of records at once."""
    store = open_store(place)
    clients = set()
    threads = [threading.Thread(target=lambda: clients.add(id(store.client.raw))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(clients) == 1
