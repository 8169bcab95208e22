"""Disks that are full or read-only, and memory that does not suffice: a truthful end, and nothing is lost for the next run."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from servers import environment, started
from small_disk import SmallDisk, small_disk

from orchestrator import api
from orchestrator.errors import StageFailed, StoreError
from orchestrator.store import local
from orchestrator.store.base import open_store
from orchestrator.store.blobs import digest_bytes

SUBMIT = Path(__file__).with_name("submit_once.py")
COMMAND = Path(sys.executable).with_name("orchestrator")
WORKFLOW = """
version: 1
name: full
nodes:
  a: {stage: probe.bytes, params: {size: 30000}}
  b: {stage: probe.bytes, params: {size: 40001}, inputs: {input: a}}
  c: {stage: probe.bytes, params: {size: 50002}, inputs: {input: b}}
  d: {stage: probe.echo, params: {value: 1}, inputs: {inputs: [a, b, c]}}
"""
LARGE_KIB = 20_000


def contents(store: str) -> dict[str, str]:
    """Content by node, each artifact read whole."""
    workspace = api.open_workspace(store)
    found = {}
    for record in workspace.artifacts.all_records():
        workspace.artifacts.open(record)
        found[record.label] = record.content_digest
    workspace.store.release_blobs()
    return found


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    file = tmp_path / "w.yaml"
    file.write_text(WORKFLOW)
    return file


@pytest.fixture
def expected(workflow: Path, tmp_path: Path) -> dict[str, str]:
    workspace = api.open_workspace(str(tmp_path / "reference"))
    api.submit(api.plan(workflow, workspace=workspace), workspace=workspace, executor="inline")
    return contents(workspace.store.url)


def costs(lines: str, seen: dict[str, str], expected: dict[str, str]) -> list[str]:
    """What a run that was disturbed, and the one that followed it, have cost."""
    made = [line.split()[1] for line in lines.splitlines() if line.startswith("node_done") and line.endswith(" done")]
    problems = [f"duplicate: {name} was made twice" for name in set(made) if made.count(name) > 1]
    problems += [f"wrong: {name}" for name, digest in seen.items() if expected.get(name) != digest]
    return problems + [f"lost: {name}" for name in expected if name not in seen]


def fill_up(disk: SmallDisk, workflow: Path, expected: dict[str, str], variables: dict[str, str], store: str) -> list[str]:
    """Run on the disk as it is, then on a large one; returns what that has cost."""
    first = disk.run(sys.executable, SUBMIT, workflow, store, "inline", variables=variables)
    output = first.stdout + first.stderr
    problems = [] if "Traceback" not in output else [f"other: {output}"]
    if first.returncode not in (0, StoreError.exit_code, StageFailed.exit_code):
        problems.append(f"other: it ended with {first.returncode}: {output}")
    shown = disk.run(COMMAND, "--store", store, "--json", "ls", variables=variables)
    states = [run["state"] for run in json.loads(shown.stdout)["runs"]] if shown.returncode == 0 else [shown.stderr]
    if not set(states) <= {"done", "failed", "interrupted"}:
        problems.append(f"other: its run seems to be {states}")
    disk.resize(LARGE_KIB)
    second = disk.run(sys.executable, SUBMIT, workflow, store, "inline", variables=variables)
    if second.returncode != 0:
        problems.append(f"other: with room the next run ended with {second.returncode}: {second.stdout}{second.stderr}")
    seen = contents(str(disk.seen / "store") if store.startswith("/") else store)
    return problems + costs(first.stdout + second.stdout, seen, expected)


@pytest.mark.parametrize(
    "size_kib",
    [40, 120, *(pytest.param(size, marks=pytest.mark.chaos) for size in range(4, 240, 24))],
)
def test_a_full_disk_ends_a_run_in_words_and_the_next_goes_on(
    tmp_path: Path, workflow: Path, expected: dict[str, str], tally, size_kib: int
) -> None:
    """Wherever the disk ends: in a lease, in a blob, in a record, in a line of the log."""
    with small_disk(tmp_path / "disk", size_kib) as disk:
        problems = fill_up(disk, workflow, expected, {}, str(disk.path / "store"))
    tally.add("disk full: store", problems=problems)


@pytest.mark.xdist_group("s3-moto")
@pytest.mark.parametrize(
    "size_kib",
    [60, *(pytest.param(size, marks=pytest.mark.chaos) for size in range(4, 240, 24))],
)
def test_a_full_cache_disk_never_harms_the_shared_store(
    tmp_path: Path, place: str, workflow: Path, expected: dict[str, str], tally, size_kib: int
) -> None:
    """A file that was fetched half because the disk was full would be taken for damage, and removed from the bucket."""
    with environment({**started("moto").variables, "ORCHESTRATOR_CACHE": str(tmp_path / "first")}):
        workspace = api.open_workspace(place)
        plan = api.plan(workflow, workspace=workspace, selection=api.Selection(until=("c",)))
        api.submit(plan, workspace=workspace, executor="inline")
        before = contents(place)
        with small_disk(tmp_path / "disk", size_kib) as disk:
            problems = fill_up(disk, workflow, expected, {"ORCHESTRATOR_CACHE": str(disk.path / "cache")}, place)
        problems += [f"lost: {name} on the server" for name in before if name not in contents(place)]
        problems += [f"lost: {name} was set aside" for name in workspace.store.list("quarantine")]
    tally.add("disk full: cache", problems=problems)


def test_a_read_only_store_can_be_looked_at_and_refuses_work_in_words(
    tmp_path: Path, workflow: Path, expected: dict[str, str], tally
) -> None:
    """An archive, or a disk that the kernel has set to read-only after an error."""
    with small_disk(tmp_path / "disk", LARGE_KIB) as disk:
        store = str(disk.path / "store")

        def command(*words: str) -> subprocess.CompletedProcess[str]:
            return disk.run(COMMAND, "--store", store, *words)

        assert command("submit", str(workflow), "--executor", "inline", "--until", "b").returncode == 0
        disk.make_read_only()
        assert "HIT" in command("plan", str(workflow)).stdout
        for words in (["ls"], ["status", "@last"], ["artifacts", "ls"], ["gc"]):
            done = command(*words)
            assert done.returncode == 0, (words, done.stderr)
        refused = command("submit", str(workflow), "--executor", "inline")
        assert refused.returncode == StoreError.exit_code
        assert "Read-only file system" in refused.stderr
        assert "Traceback" not in refused.stderr
        disk.make_read_only(is_read_only=False)
        assert command("submit", str(workflow), "--executor", "inline").returncode == 0
        tally.add("read-only store", 6, problems=costs("", contents(str(disk.seen / "store")), expected))


def test_a_stage_without_memory_fails_as_such_and_goes_on_with_more(tmp_path: Path, tally) -> None:
    """The reason must not be looked for in the store or in Ray."""
    file, store = tmp_path / "w.yaml", str(tmp_path / "store")
    file.write_text(
        "version: 1\nname: memory\nnodes:\n  a: {stage: probe.echo, params: {value: 1}}\n"
        "  b: {stage: probe.bytes, params: {size: 40000000}, inputs: {input: a}}\n"
    )

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(SUBMIT), str(file), store, "inline", *more], capture_output=True, text=True, check=False
        )

    done = run("24")
    assert done.returncode == StageFailed.exit_code, done.stdout + done.stderr
    status = api.status("@last", workspace=api.open_workspace(store))
    assert (status.state, status.nodes["b"].state) == ("failed", "failed")
    assert "MemoryError" in status.nodes["b"].error_type
    again = run()
    assert again.returncode == 0
    assert "node_started a" not in again.stdout
    tally.add("memory limit")


def test_a_write_that_takes_less_than_it_was_given_is_continued(tmp_path: Path, place: str, tally, monkeypatch) -> None:
    """A disk that is almost full does so without an error; the rest would read as zeros, and as damage on the server."""
    with environment({**started("moto").variables, "ORCHESTRATOR_CACHE": str(tmp_path / "first")}):
        content = os.urandom(100_000)
        source = tmp_path / "source"
        source.write_bytes(content)
        open_store(place).put_blob(source, digest_bytes(content))
        monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "second"))
        pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda descriptor, data, place: pwrite(descriptor, data[: 1 + len(data) // 2], place))
        assert open_store(place).blob_path(digest_bytes(content)).read_bytes() == content
    tally.add("short writes")


def test_an_event_that_did_not_fit_takes_no_other_with_it(tmp_path: Path, tally, monkeypatch) -> None:
    """Half a line without its end would be read as one with the next, and both be lost."""
    store = open_store(str(tmp_path / "store"))
    store.append("log", b"one\n")
    with monkeypatch.context() as patch:
        patch.setattr(local, "_write_all", write_half_and_fail)
        with pytest.raises(StoreError, match="No space left"):
            store.append("log", b"two\n")
    store.append("log", b"three\n")
    assert store.read_log("log") == b"one\nthree\n"
    tally.add("short writes")


def write_half_and_fail(descriptor: int, data: bytes) -> None:
    os.write(descriptor, data[: len(data) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
