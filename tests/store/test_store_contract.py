"""What every store promises, whatever is behind it. Another back end joins by one more parameter of the fixture `store`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from servers import damage_blob

from orchestrator.errors import StoreError, UsageError
from orchestrator.store import local
from orchestrator.store.base import Store, open_store
from orchestrator.store.blobs import digest_bytes
from orchestrator.store.local import LocalStore


def put(store: Store, content: bytes, name: str = "file") -> str:
    source = store.workspace("w") / name
    source.write_bytes(content)
    store.put_blob(source, digest_bytes(content))
    return digest_bytes(content)


def test_an_object_is_read_as_it_was_created(store: Store) -> None:
    """Otherwise nothing that is stored can be trusted."""
    version = store.create("a/b/c", b"text")
    entry = store.read("a/b/c")
    assert entry is not None
    assert (entry.data, entry.version) == (b"text", version)
    assert store.read("a/b/other") is None
    assert store.read("a/b/c/below-a-file") is None


def test_the_first_writer_wins(store: Store) -> None:
    """Two runs that finish the same node must not overwrite each other's record."""
    assert store.create("key", b"first") is not None
    assert store.create("key", b"second") is None
    entry = store.read("key")
    assert entry is not None
    assert entry.data == b"first"


def test_exactly_one_of_many_processes_creates_an_object(store: Store, race) -> None:
    """A lease or a record with two owners would publish two artifacts under one key."""
    for turn in range(5 if store.width == 1 else 2):
        created = race(
            8, lambda number, turn=turn: (number, store.create(f"deep/{turn}/key", str(number).encode()) is not None)
        )
        winners = [number for number, won in created if won]
        entry = store.read(f"deep/{turn}/key")
        assert len(winners) == 1
        assert entry is not None
        assert entry.data == str(winners[0]).encode()


def test_two_store_objects_of_one_process_do_not_mix_their_temporary_files(store: Store) -> None:
    """A program that opens a store twice would otherwise commit the bytes of one object under the name of another."""
    other = open_store(store.url)
    for number in range(20):
        assert (store if number % 2 else other).create(f"o/{number}", f"{number}".encode() * 500) is not None
    for number in range(20):
        entry = store.read(f"o/{number}")
        assert entry is not None
        assert entry.data == f"{number}".encode() * 500


def test_replace_names_the_version_it_replaces(store: Store) -> None:
    """A lease could otherwise be taken by two observers at once."""
    first = store.create("key", b"1")
    assert first is not None
    second = store.replace("key", b"2", version=first)
    assert second is not None
    assert store.replace("key", b"3", version=first) is None
    assert store.replace("absent", b"3", version=first) is None
    entry = store.read("key")
    assert entry is not None
    assert (entry.data, entry.version) == (b"2", second)


def test_exactly_one_of_many_processes_replaces_a_version(store: Store, race) -> None:
    """The takeover of a dead run's lease must have one winner."""
    for turn in range(5 if store.width == 1 else 2):
        version = store.create(f"key{turn}", b"old")
        assert version is not None
        replaced = race(
            8, lambda number, turn=turn, version=version: store.replace(f"key{turn}", b"new%d" % number, version=version)
        )
        assert sum(result is not None for result in replaced) == 1


def test_delete_with_a_version_spares_a_newer_object(store: Store) -> None:
    """A process that lost its lease would otherwise remove the lease of its successor."""
    first = store.create("key", b"1")
    assert first is not None
    second = store.replace("key", b"2", version=first)
    assert not store.delete("key", version=first)
    assert store.read("key") is not None
    assert store.delete("key", version=second)
    assert store.read("key") is None
    assert not store.delete("key")


def test_a_log_grows_and_is_read_from_an_offset(store: Store) -> None:
    """`logs --follow` and `status` read only what is new."""
    assert store.read_log("runs/r/log") == b""
    store.append("runs/r/log", b"one\n")
    store.append("runs/r/log", b"two\n")
    assert store.read_log("runs/r/log") == b"one\ntwo\n"
    assert store.read_log("runs/r/log", offset=4) == b"two\n"
    assert store.read_log("runs/r/log", offset=400) == b""


def test_a_log_file_is_written_as_a_file_and_read_as_a_log(store: Store) -> None:
    """What a stage prints would be lost."""
    with store.log_file("runs/r/nodes/n/attempt-1.log") as path:
        path.write_bytes(b"printed")
    assert store.read_log("runs/r/nodes/n/attempt-1.log") == b"printed"
    with store.log_file("runs/r/nodes/n/attempt-2.log") as path:
        path.touch()
    assert sorted(store.list("runs/r/nodes/n")) == ["attempt-1.log", "attempt-2.log"]
    store.append("runs/r/nodes/n/attempt-2.log", b"late")
    assert store.read_log("runs/r/nodes/n/attempt-2.log") == b"late"


def test_names_below_a_folder_are_listed_once(store: Store) -> None:
    """`ls` and the look-up of an artifact by the beginning of its key rest on this."""
    for name in ("a/x", "a/y", "a/z/deep", "b/x"):
        store.create(name, b"")
    assert sorted(store.list("a")) == ["x", "y", "z"]
    assert list(store.list("nowhere")) == []
    assert list(store.list("a/x")) == []


def test_a_blob_is_read_by_its_digest(store: Store) -> None:
    """The files of an artifact."""
    digest = put(store, b"content")
    assert store.blob_path(digest).read_bytes() == b"content"
    assert store.has_blob(digest, 7)
    assert not store.has_blob(digest, 8)
    assert not store.has_blob(digest_bytes(b"other"), 7)
    with pytest.raises(FileNotFoundError):
        store.blob_path(digest_bytes(b"other"))


def test_every_blob_is_listed_with_its_size_and_age(store: Store) -> None:
    """What nothing names any more could never be found and removed; what was put just now would be taken for garbage."""
    digests = {put(store, b"one"): 3, put(store, b"three"): 5, put(store, b""): 0}
    found = {blob.digest: blob for blob in store.blobs()}
    assert {digest: blob.size_bytes for digest, blob in found.items()} == digests
    assert all(-5 < blob.age_s < 60 for blob in found.values())
    store.remove_blob(next(iter(digests)))
    assert len(list(store.blobs())) == 2


def test_an_old_file_becomes_a_young_blob(store: Store) -> None:
    """What a stage wrote days before it ended would go before its record is there."""
    source = store.workspace("w") / "file"
    source.write_bytes(b"old")
    os.utime(source, (0, 0))
    store.put_blob(source, digest_bytes(b"old"))
    assert [blob.age_s < 60 for blob in store.blobs()] == [True]


def test_what_was_deleted_is_listed_no_more(store: Store) -> None:
    """A run or an artifact would be there by name, with nothing in it."""
    store.create("runs/one/run.json", b"{}")
    store.create("runs/one/nodes/a/log", b"")
    store.create("runs/two/run.json", b"{}")
    assert store.delete("runs/one/nodes/a/log")
    assert sorted(store.list("runs/one")) == ["run.json"]
    assert store.delete("runs/one/run.json")
    assert list(store.list("runs")) == ["two"]
    assert store.create("runs/one/run.json", b"{}") is not None


def test_putting_a_blob_takes_the_file_away_even_if_the_blob_is_there(store: Store) -> None:
    """A checkpoint that equals an earlier one would otherwise stay behind and fill the disk."""
    for _ in range(2):
        put(store, b"content", "file")
        assert not (store.workspace("w") / "file").exists()


def test_a_damaged_blob_can_be_removed_and_put_again(store: Store) -> None:
    """Repair: a damaged artifact is made again under the same digest."""
    digest = put(store, b"content")
    damage_blob(store, digest, b"cont")
    assert not store.has_blob(digest, 7)
    store.remove_blob(digest)
    store.remove_blob(digest)
    put(store, b"content")
    assert store.blob_path(digest).read_bytes() == b"content"


def test_a_blob_shares_no_bytes_with_another_name_of_its_file(store: Store, tmp_path: Path) -> None:
    """A stage that links a file of a data set into its output must not let a change of the data set damage the artifact."""
    original = store.workspace("elsewhere") / "original"
    original.write_bytes(b"content")
    source = store.workspace("w") / "file"
    os.link(original, source)
    store.put_blob(source, digest_bytes(b"content"))
    original.write_bytes(b"changed")
    assert store.blob_path(digest_bytes(b"content")).read_bytes() == b"content"


def test_a_workspace_is_made_and_removed_with_all_in_it(store: Store) -> None:
    """Half-made outputs would pile up."""
    folder = store.workspace("some/place")
    (folder / "deep").mkdir()
    (folder / "deep" / "file").write_bytes(b"x")
    assert store.workspace("some/place") == folder
    assert list(store.workspaces("some")) == ["place"]
    store.remove_workspace("some/place")
    store.remove_workspace("some/place")
    assert not folder.exists()
    assert not store.workspace("some/place", make=False).exists()


def test_a_local_store_is_moved_by_renaming_its_folder(tmp_path: Path) -> None:
    """A store that spelled absolute paths would lose its artifacts when the disk is mounted elsewhere."""
    digest = put(LocalStore(tmp_path / "one"), b"content")
    LocalStore(tmp_path / "one").create("key", b"x")
    (tmp_path / "one").rename(tmp_path / "two")
    moved = LocalStore(tmp_path / "two")
    assert moved.read("key") is not None
    assert moved.blob_path(digest).read_bytes() == b"content"


def test_reading_an_absent_store_makes_no_folder(tmp_path: Path) -> None:
    """`plan` and `ls` in a wrong folder would leave litter."""
    store = LocalStore(tmp_path / "absent")
    assert store.read("a") is None
    assert list(store.list("runs")) == []
    store.sweep()
    assert not (tmp_path / "absent").exists()


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an almost full disk the system may write half of what it was given and say so only by a number."""

    class ShortWrites:
        def __getattr__(self, name):
            return getattr(os, name)

        def write(self, descriptor, data):
            return os.write(descriptor, data[:3])

    monkeypatch.setattr(local, "os", ShortWrites())
    store = LocalStore(tmp_path)
    store.create("key", b"0123456789")
    store.append("log", b"0123456789")
    entry = store.read("key")
    assert entry is not None
    assert entry.data == b"0123456789"
    assert store.read_log("log") == b"0123456789"


@pytest.mark.parametrize("effect", ["write", "fsync", "link", "open"])
def test_a_full_disk_is_a_store_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, effect: str) -> None:
    """The user reads what is wrong and with which store, and no half object appears."""

    class FullDisk:
        def __getattr__(self, name):
            return getattr(os, name)

    def refuse(*_arguments):
        raise OSError(28, "No space left on device")

    store = LocalStore(tmp_path)
    store.create("before", b"x")
    full = FullDisk()
    setattr(full, effect, refuse)
    monkeypatch.setattr(local, "os", full)
    with pytest.raises(StoreError, match="No space left"):
        store.create("key", b"data")
    if effect in ("write", "open"):
        with pytest.raises(StoreError, match="No space left"):
            store.append("log", b"line")
    monkeypatch.undo()
    assert store.read("key") is None
    assert not list((tmp_path / "work/objects").iterdir())


def test_sweep_removes_what_dead_processes_left_and_spares_the_living(tmp_path: Path, race) -> None:
    """Temporary files of killed runs would pile up; those of a living run are about to be linked."""
    store = LocalStore(tmp_path)
    (dead,) = race(1, lambda _: store._write_temporary(b"half", durable=False))
    alive = store._write_temporary(b"whole", durable=False)
    store.sweep()
    assert not Path(dead).exists()
    assert Path(alive).exists()


def test_a_temporary_file_left_by_a_kill_is_never_written_again(tmp_path: Path) -> None:
    """It may be linked as a record already; a later process with the same number would truncate that record."""
    store = LocalStore(tmp_path)
    left = store._write_temporary(b"committed", durable=False)
    (tmp_path / "record").hardlink_to(left)  # killed between link and unlink
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "_numbers", iter([int(left.rpartition("-")[2])]))
        with pytest.raises(StoreError):
            store.create("key", b"other")
    assert (tmp_path / "record").read_bytes() == b"committed"


@pytest.mark.parametrize("url", ["gs://bucket/prefix", "http://bucket"])
def test_an_address_of_no_kind_of_store_says_what_is_expected(url: str) -> None:
    """A typing error must not become a folder called `gs:`."""
    with pytest.raises(UsageError, match="s3://bucket/prefix"):
        open_store(url)


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///prefix", "s3://key:secret@bucket/prefix", "s3://bucket?secret=x", "s3://key:secret"]
)
def test_an_address_of_a_bucket_holds_no_secret_and_is_not_repeated(url: str) -> None:
    """Addresses end up in logs, records and the history of shells."""
    with pytest.raises(UsageError, match="no address of a store") as caught:
        open_store(url)
    assert "secret" not in f"{caught.value.message}{caught.value.next_step}"


def test_an_address_of_a_bucket_is_written_in_one_way() -> None:
    """One store under two names would have two folders of unfinished work."""
    assert open_store("s3://bucket//a/b/").url == "s3://bucket/a/b"
    assert open_store("s3://bucket/").url == "s3://bucket"
