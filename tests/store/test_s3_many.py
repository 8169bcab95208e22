"""Many objects asked for at once: listings say what stands, and what this machine has seen is not fetched again."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import BUCKET, Server

from orchestrator import api
from orchestrator.store import s3_many
from orchestrator.store.artifacts import record_path
from orchestrator.store.base import Store, open_store
from orchestrator.store.blobs import digest_bytes
from orchestrator.store.s3_client import Page, S3Client
from orchestrator.store.s3_probe import Promises

NUM_NODES = 30
WIDE = "version: 1\nname: wide\nnodes:\n  a: {{stage: probe.echo, foreach: {{value: [{values}]}}}}\n"


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A workflow of many nodes."""
    file = tmp_path / "wide.yaml"
    file.write_text(WIDE.format(values=", ".join(map(str, range(NUM_NODES)))))
    return file


def make(file: Path, place: str) -> api.Workspace:
    workspace = api.open_workspace(place)
    api.submit(api.plan(file, workspace=workspace), workspace=workspace, executor="inline")
    return workspace


def test_a_cached_plan_costs_a_listing_of_each_kind(moto: Server, place: str, wide: Path, requests: list[str]) -> None:
    """Hundreds of requests for what this machine has written itself take seconds."""
    make(wide, place)
    requests.clear()
    assert not api.plan(wide, workspace=api.open_workspace(place)).has_work
    assert requests == ["list_objects_v2", "list_objects_v2"]


def test_another_machine_fetches_each_record_once(
    moto: Server, place: str, wide: Path, requests: list[str], tmp_path: Path, monkeypatch
) -> None:
    """What one plan has fetched serves the next one, and every list of artifacts."""
    make(wide, place)
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "second"))
    for fetched in (NUM_NODES, 0):
        requests.clear()
        assert not api.plan(wide, workspace=api.open_workspace(place)).has_work
        assert requests.count("get_object") == fetched
    requests.clear()
    assert len(list(api.open_workspace(place).artifacts.all_records())) == NUM_NODES
    assert "get_object" not in requests


def test_what_was_removed_or_damaged_on_the_server_is_no_hit(server: Server, place: str, wide: Path) -> None:
    """Another machine's gc, or a stranger, has changed the bucket: what this one remembers must not hide it."""
    workspace = make(wide, place)
    removed, damaged, emptied, kept, *_ = workspace.artifacts.all_records()
    client = server.client()
    prefix = place.removeprefix(f"s3://{BUCKET}/")
    client.delete_object(Bucket=BUCKET, Key=f"{prefix}/{record_path(removed.stage, removed.key)}")
    client.put_object(Bucket=BUCKET, Key=f"{prefix}/{record_path(damaged.stage, damaged.key)}", Body=b"{}")
    for file in emptied.files.values():
        client.delete_object(Bucket=BUCKET, Key=f"{prefix}/blobs/{file.digest[:2]}/{file.digest}")
    plan = api.plan(wide, workspace=api.open_workspace(place))
    hits = {node.key for node in plan.nodes.values() if node.record is not None}
    assert hits.isdisjoint({removed.key, damaged.key})
    blobs = {file.digest for file in emptied.files.values()}
    assert all(
        (record.key in hits) is blobs.isdisjoint(file.digest for file in record.files.values()) for record in (emptied, kept)
    )


def test_a_damaged_memory_is_not_believed(moto: Server, place: str, wide: Path, tmp_path: Path) -> None:
    """A disk of this machine that turns bits must not change what artifacts are."""
    make(wide, place)
    files = [path for path in (tmp_path / "cache/records").rglob("*") if path.is_file()]
    assert len(files) == NUM_NODES
    for number, file in enumerate(files):
        data = file.read_bytes()
        file.write_bytes(data[:-9] if number % 2 else data[:-9] + b"#" + data[-8:])
    assert not api.plan(wide, workspace=api.open_workspace(place)).has_work


@pytest.mark.parametrize("worth", [1, 3, 10**6])
def test_many_at_once_are_what_each_is_by_itself(server: Server, tmp_path: Path, monkeypatch, worth: int) -> None:
    """Whatever was created, replaced and removed before, by this machine or by another one."""
    monkeypatch.setattr(s3_many, "WORTH_A_PAGE", worth)
    stages, keys = ("s", "t"), [f"{number:02x}" for number in range(6)]
    paths = [f"artifacts/{stage}/{key}/record.json" for stage in stages for key in keys]
    actions = st.tuples(st.sampled_from(["create", "replace", "delete", "look"]), st.sampled_from(paths), st.booleans())

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(actions, max_size=25))
    def check(history: list[tuple[str, str, bool]]) -> None:
        url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
        mine = open_store(url)
        monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / uuid.uuid4().hex))
        others = open_store(url)
        for number, (action, path, is_mine) in enumerate(history):
            act(mine if is_mine else others, action, path, f"{number}".encode())
            if action == "look":
                assert_agrees(mine if is_mine else others, paths)
        assert_agrees(mine, paths)
        assert_agrees(others, paths)

    def act(store: Store, action: str, path: str, data: bytes) -> None:
        if action == "create":
            store.create(path, data)
        elif action == "replace" and (entry := store.read(path)) is not None:
            store.replace(path, data, version=entry.version)
        elif action == "delete" and (entry := store.read(path)) is not None:
            store.delete(path, version=entry.version)

    check()


def assert_agrees(store: Store, paths: list[str]) -> None:
    single = {path: entry for path in paths if (entry := store.read(path)) is not None}
    assert dict(store.read_many(paths)) == single
    for folder in ("artifacts/s", "artifacts/t"):
        below = {f"{folder}/{name}/record.json": entry for name, entry in store.read_below(folder, "record.json")}
        assert below == {path: entry for path, entry in single.items() if path.startswith(f"{folder}/")}


@pytest.mark.parametrize("worth", [1, 10**6])
def test_blobs_that_are_there_are_found_with_their_size(server: Server, place: str, monkeypatch, worth: int) -> None:
    """A blob that was cut short, or removed, must not make a hit."""
    monkeypatch.setattr(s3_many, "WORTH_A_PAGE", worth)
    store = open_store(place)
    blobs = []
    for number in range(5):
        content = b"x" * number
        source = store.workspace("w") / "file"
        source.write_bytes(content)
        blobs.append((digest_bytes(content), number))
        store.put_blob(source, blobs[-1][0])
    store.remove_blob(blobs[2][0])
    wrong = (blobs[1][0], 7)
    assert store.which_blobs([*blobs, wrong]) == {*blobs} - {blobs[2]}
    assert store.which_blobs([]) == set()


def test_a_listing_in_another_order_hides_nothing(moto: Server, place: str, monkeypatch) -> None:
    """Some servers list by time: what is not on a page may be on none of them."""
    monkeypatch.setattr(s3_many, "WORTH_A_PAGE", 2)
    store = open_store(place)
    paths = [f"artifacts/s/{number:02x}/record.json" for number in range(6)]
    for path in paths:
        store.create(path, path.encode())
    pages = S3Client.pages

    def shuffled(self: S3Client, prefix: str, **more: bool) -> object:
        for page in pages(self, prefix, **more):
            yield Page([*page.listed[3:], page.listed[0]], is_last=page.is_last)

    monkeypatch.setattr(S3Client, "pages", shuffled)
    assert set(store.read_many(paths)) == set(paths)


def test_a_listing_is_given_up_where_few_of_its_names_are_asked_for(moto: Server, place: str, monkeypatch, requests) -> None:
    """A plan of a hundred nodes must not read the names of a million artifacts."""
    monkeypatch.setattr(s3_many, "WORTH_A_PAGE", 3)
    store = open_store(place)
    paths = [f"artifacts/s/{number:02x}/record.json" for number in range(40)]
    for path in paths:
        store.create(path, path.encode())
    call = S3Client.call

    def short_pages(self: S3Client, operation: str, path: str = "", **arguments: object) -> dict:
        more = {"MaxKeys": 10} if operation == "list_objects_v2" else {}
        return call(self, operation, path, **arguments, **more)

    monkeypatch.setattr(S3Client, "call", short_pages)
    requests.clear()
    assert set(store.read_many(paths[5::10])) == set(paths[5::10])
    assert requests.count("list_objects_v2") == 1
    requests.clear()
    assert set(store.read_many(paths)) == set(paths)
    assert requests == ["list_objects_v2"] * 4


def test_marks_of_what_was_removed_are_read_at_once_and_only_once(moto: Server, place: str, requests: list[str]) -> None:
    """A server that cannot delete by version (Ceph) keeps a mark for every lease that was ever held."""
    store = open_store(place)
    store.promises = Promises(creates_once=True, replaces_by_version=True, deletes_by_version=False)
    for number in range(5):
        version = store.create(f"leases/{number}", b"held")
        assert number == 0 or store.delete(f"leases/{number}", version=version)
    store.create("leases/other", b"x" * 54)  # as long as a mark
    for expected in (5, 0):
        del requests[:]
        assert sorted(store.list("leases")) == ["0", "other"]
        assert requests.count("get_object") == expected
    assert store.create("leases/1", b"held again") is not None
    assert sorted(store.list("leases")) == ["0", "1", "other"]
