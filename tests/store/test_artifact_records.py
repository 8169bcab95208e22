"""Artifact records: the finished mark comes last, says the truth, and never lets a damaged artifact pass for a hit."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from orchestrator.errors import IntegrityError, StageFailed
from orchestrator.store.artifacts import Artifacts, Record, content_digest, record_mark
from orchestrator.store.local import LocalStore

KEY = "0123456789abcdef0123456789abcdef"
RECORD = f"artifacts/probe.echo/{KEY}/record.json"


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(LocalStore(tmp_path / "store"))


def make(artifacts: Artifacts, content: bytes = b"content", *, run: str = "r", key: str = KEY) -> Record:
    folder = artifacts.store.workspace("out")
    (folder / "model.bin").write_bytes(content)
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "config.json").write_bytes(b"{}")
    files = artifacts.take_files(folder)
    return Record(
        key=key, stage="probe.echo", kind="probe", identity={"stage": "probe.echo"}, files=files, metrics={"a": 0.5, "b": 3},
        measurements={"seconds": 1.5}, content_digest=content_digest(files, {"a": 0.5, "b": 3}), input_digests={},
        source_digest="s", label="n", run=run, attempt=1, finished="2026-01-01T00:00:00.000Z", seconds=1.0,
    )  # fmt: skip


def test_a_published_artifact_is_found_with_all_it_holds(artifacts: Artifacts) -> None:
    """The next run would compute it again."""
    record = artifacts.publish(make(artifacts))
    assert artifacts.find("probe.echo", KEY) == record
    opened = artifacts.open(record)
    assert opened.file("model.bin").read_bytes() == b"content"
    assert opened.file("sub/config.json").read_bytes() == b"{}"
    assert artifacts.keys_starting(KEY[:6]) == [("probe.echo", KEY)]
    assert list(artifacts.all_records()) == [record]


def test_the_first_publisher_wins_and_the_second_learns_it(artifacts: Artifacts) -> None:
    """Both must go on with the same artifact."""
    first = artifacts.publish(make(artifacts, b"one", run="first"))
    second = artifacts.publish(make(artifacts, b"two", run="second"))
    assert second == first
    assert artifacts.find("probe.echo", KEY) == first


def test_one_record_stands_after_many_processes_published(artifacts: Artifacts, race) -> None:
    """At most one committed record per key, whoever wins."""

    def publish(number: int) -> str:
        folder = artifacts.store.workspace(f"out-{number}")
        (folder / "f").write_bytes(b"%d" % number)
        files = artifacts.take_files(folder)
        return artifacts.publish(dataclasses.replace(template, files=files, run=str(number))).run

    template = make(artifacts)
    runs = race(8, publish)
    found = artifacts.find("probe.echo", KEY)
    assert found is not None
    assert set(runs) == {found.run}


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"null", b'{"format": 1}', b'{"format": 99}', b'{"format": 1, "key": "other"}', b"\xff"]
)
def test_a_damaged_record_is_a_miss_and_gives_way(artifacts: Artifacts, damage: bytes) -> None:
    """A record torn by a loss of power must neither be a hit nor lock its key for ever."""
    artifacts.store.create(RECORD, damage)
    assert artifacts.find("probe.echo", KEY) is None
    assert list(artifacts.all_records()) == []
    record = artifacts.publish(make(artifacts))
    assert artifacts.find("probe.echo", KEY) == record
    assert len(list(artifacts.store.list(f"quarantine/probe.echo/{KEY}"))) == 1


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.99])
def test_a_record_cut_off_anywhere_is_a_miss(artifacts: Artifacts, cut: float) -> None:
    """Half a record is no record."""
    data = json.dumps({"format": 1, **vars(make(artifacts))}, default=vars).encode()
    artifacts.store.create(RECORD, data[: int(len(data) * cut)])
    assert artifacts.find("probe.echo", KEY) is None


def test_a_missing_or_shortened_blob_makes_a_miss_until_it_is_made_again(artifacts: Artifacts) -> None:
    """Someone cleaned up `blobs/`, or the disk lost the end of a file: it is made again, not handed out."""
    record = artifacts.publish(make(artifacts))
    path = artifacts.store.blob_path(record.files["model.bin"].digest)
    path.chmod(0o644)
    path.write_bytes(b"cont")
    assert artifacts.find("probe.echo", KEY) is None
    path.unlink()
    assert artifacts.find("probe.echo", KEY) is None
    again = artifacts.publish(make(artifacts, run="second"))
    assert artifacts.find("probe.echo", KEY) == again
    artifacts.open(again)


def test_a_record_whose_blobs_are_gone_gives_way_to_other_content(artifacts: Artifacts) -> None:
    """A stage that does not repeat its bytes must still be able to repair its artifact."""
    record = artifacts.publish(make(artifacts))
    artifacts.store.remove_blob(record.files["model.bin"].digest)
    again = artifacts.publish(make(artifacts, b"other", run="second"))
    assert again.run == "second"
    assert artifacts.find("probe.echo", KEY) == again


def test_changed_bytes_of_the_same_length_are_noticed_when_they_are_read(artifacts: Artifacts) -> None:
    """A flipped bit in a weight must never reach a stage."""
    record = artifacts.publish(make(artifacts))
    path = artifacts.store.blob_path(record.files["model.bin"].digest)
    path.chmod(0o644)
    path.write_bytes(b"Content")
    with pytest.raises(IntegrityError):
        artifacts.open(record)
    artifacts.set_aside(record)
    assert artifacts.find("probe.echo", KEY) is None
    assert not path.exists()
    assert artifacts.store.has_blob(record.files["sub/config.json"].digest, 2), "what is whole serves others"
    assert len(list(artifacts.store.list(f"quarantine/probe.echo/{KEY}"))) == 1


def test_setting_aside_spares_a_record_that_was_made_again_meanwhile(artifacts: Artifacts) -> None:
    """Two nodes find the same damage; the second must not throw the repaired artifact away."""
    old = artifacts.publish(make(artifacts, run="old"))
    artifacts.set_aside(old)
    new = artifacts.publish(make(artifacts, run="new"))
    artifacts.set_aside(old)
    assert artifacts.find("probe.echo", KEY) == new


def test_a_rerun_on_purpose_supersedes_and_keeps_the_earlier_record(artifacts: Artifacts) -> None:
    """`--rerun` must not lose what was there."""
    old = artifacts.publish(make(artifacts, b"one", run="old"))
    new = artifacts.publish(make(artifacts, b"two", run="new"), replaces=record_mark(old))
    assert artifacts.publish(make(artifacts, b"three", run="late"), replaces=record_mark(old)) == new, "made again meanwhile"
    assert artifacts.find("probe.echo", KEY) == new
    (name,) = artifacts.store.list(f"quarantine/probe.echo/{KEY}")
    entry = artifacts.store.read(f"quarantine/probe.echo/{KEY}/{name}")
    assert entry is not None
    assert json.loads(entry.data)["run"] == "old"


@pytest.mark.parametrize(
    "name",
    ["a b", "-rf", ".hidden", "sub/.hidden", "new\nline", "Ünicode", "back\\slash", "semi;colon", "..data", "x" * 100 + "\t"],
)
def test_odd_file_names_are_refused_before_anything_moves(artifacts: Artifacts, name: str) -> None:
    """A name goes into URLs, shells and other systems; it must be plain everywhere."""
    folder = artifacts.store.workspace("out")
    (folder / "good").write_bytes(b"x")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    with pytest.raises(StageFailed, match="cannot be part of an artifact"):
        artifacts.take_files(folder)
    assert (folder / "good").exists()


@pytest.mark.parametrize("kind", ["to a file", "to a folder", "dangling", "fifo"])
def test_links_and_pipes_are_refused(artifacts: Artifacts, kind: str, tmp_path: Path) -> None:
    """A link to /etc would otherwise move the system's files into the store."""
    folder = artifacts.store.workspace("out")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"precious")
    if kind == "fifo":
        os.mkfifo(folder / "f")
    else:
        (folder / "f").symlink_to({"to a file": outside / "file", "to a folder": outside, "dangling": outside / "no"}[kind])
    with pytest.raises(StageFailed, match="cannot be part of an artifact"):
        artifacts.take_files(folder)
    assert (outside / "file").read_bytes() == b"precious"


def test_an_output_folder_that_is_gone_or_a_link_is_refused(artifacts: Artifacts, tmp_path: Path) -> None:
    """An artifact without its files would be published, or foreign files would be taken."""
    folder = artifacts.store.workspace("out")
    folder.rmdir()
    with pytest.raises(StageFailed):
        artifacts.take_files(folder)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"precious")
    folder.symlink_to(tmp_path / "outside")
    with pytest.raises(StageFailed):
        artifacts.take_files(folder)
    assert (tmp_path / "outside" / "file").exists()


def test_measurements_do_not_reach_the_content_digest(artifacts: Artifacts) -> None:
    """Two runs of the same work would look different because one was slower."""
    first = make(artifacts)
    assert content_digest(first.files, {"a": 0.5, "b": 3}) == content_digest(first.files, {"b": 3, "a": 0.5})
    assert content_digest(first.files, {"a": 0.5}) != content_digest(first.files, {"a": 0.25})
    assert content_digest({}, {}) != content_digest(first.files, {})


def test_an_empty_artifact_and_an_empty_file_are_artifacts(artifacts: Artifacts) -> None:
    """A stage that only measures writes no file."""
    folder = artifacts.store.workspace("out")
    assert artifacts.take_files(folder) == {}
    (folder / "empty").touch()
    (entry,) = artifacts.take_files(folder).values()
    assert entry.size_bytes == 0
    assert artifacts.store.has_blob(entry.digest, 0)


def test_a_damaged_blob_of_the_right_size_does_not_pass_for_what_is_made_again(artifacts: Artifacts) -> None:
    """Made again on purpose, the artifact would still hold the damaged bytes."""
    record = artifacts.publish(make(artifacts))
    blob = artifacts.store.blob_path(record.files["model.bin"].digest)
    blob.chmod(0o644)
    blob.write_bytes(b"CONTENT")
    with pytest.raises(IntegrityError):
        artifacts.open(record)
    again = artifacts.publish(make(artifacts, run="again"), replaces=record_mark(record))
    assert artifacts.open(again).file("model.bin").read_bytes() == b"content"


def test_a_whole_artifact_is_not_set_aside(artifacts: Artifacts) -> None:
    """A copy that failed for another reason must not cost the work."""
    record = artifacts.publish(make(artifacts))
    artifacts.set_aside(record)
    assert artifacts.find("probe.echo", KEY) == record
