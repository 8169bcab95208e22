"""Tar shards: every image once from a folder or a bucket, known by their images alone, and nothing lost in a damaged one."""

import io
import pickle
import subprocess
import sys
import tarfile
import uuid

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import BUCKET, environment, started

from stages.data import tar_shards, webdataset
from stages.data.base import load_dataset
from stages.data.image_settings import WebDatasetData
from stages.data.tar_index import index_tar
from tests.stages.data.support import (
    PLAIN,
    all_numbers_in,
    flat,
    numbers_in,
    numbers_of,
    pack,
    png,
    write_shards,
    write_tar,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def reads(monkeypatch):
    """One entry for each shard that is read to learn what it holds."""
    read = []
    monkeypatch.setattr(tar_shards, "index_tar", lambda file, **how: read.append(1) or index_tar(file, **how))
    return read


def data_of(root, **changes):
    return WebDatasetData(**{**PLAIN, "path": str(root), "shuffle_window": 8, **changes})


def test_every_image_comes_once_with_its_label(folder):
    data = load_dataset(data_of(folder))
    assert (data.train.num_samples, data.test.num_samples, data.class_names) == (21, 6, ("0", "1"))
    assert sorted(all_numbers_in(data.test, batch_size=4)) == list(range(1000, 1006))
    for seed in (None, 1, 2):
        seen = {}
        for images, labels in data.train.batches(batch_size=5, shuffle_seed=seed):
            seen |= dict(zip(numbers_of(images), labels.tolist(), strict=True))
        assert seen == {number: number % 2 for number in range(21)}
    assert data.train.labels.tolist() == [number % 2 for number in range(21)]


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 30), st.integers(0, 2**40), st.data())
@settings(max_examples=20, deadline=None)
def test_workers_share_a_pass_and_each_goes_on_after_any_batch(folder, world_size, batch_size, window, seed, data):
    """What data-parallel training and a resume rest on: an image that comes twice or never would go unnoticed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webdataset, "GROUP_IMAGES", data.draw(st.integers(1, 6)))
        train = load_dataset(data_of(folder, shuffle_window=window)).train
    how = {"batch_size": batch_size, "shuffle_seed": seed, "world_size": world_size}
    shares = [numbers_in(train, rank=rank, **how) for rank in range(world_size)]
    assert sorted(flat(flat(shares))) == list(range(21))
    rank = data.draw(st.integers(0, world_size - 1))
    first = data.draw(st.integers(0, len(shares[rank])))
    assert numbers_in(train, rank=rank, first_batch=first, **how) == shares[rank][first:]


def test_a_second_plan_and_the_loading_after_it_read_no_shard_again(folder, reads):
    first = data_of(folder).identity()
    assert len(reads) == 4
    assert data_of(folder).identity() == first
    load_dataset(data_of(folder))
    assert len(reads) == 4


def test_planning_loads_neither_tensors_nor_arrow(folder):
    code = (
        f"import sys; from stages.data.settings import WebDatasetData; WebDatasetData(path={str(folder)!r}).identity(); "
        "print([name for name in ('torch', 'numpy', 'pyarrow', 'timm', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_images_and_labels_make_the_identity_and_the_tars_times_and_names_do_not(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset, "GROUP_BYTES", 300)
    monkeypatch.setattr(webdataset, "MAX_GAP", 1500)
    before, order = data_of(folder).identity(), {"batch_size": 9, "shuffle_seed": 1}
    other = write_shards(tmp_path / "other", mtime=1234.5)  # a fraction of a second takes a header of its own: places differ
    for path in list(other.iterdir()):
        path.rename(other / path.name.replace("train-", "a"))
    assert data_of(other, train="a*.tar").identity() == before
    ours, theirs = load_dataset(data_of(folder)).train, load_dataset(data_of(other, train="a*.tar")).train
    assert len(ours.images.group_sizes()) > 3
    assert numbers_in(theirs, **order) == numbers_in(ours, **order)
    for change in ([("0000.png", png(500)), ("0000.cls", b"0")], [("0000.png", png(0)), ("0000.cls", b"1")]):
        changed = write_shards(tmp_path / "changed")
        write_tar(changed / "train-01.tar", change)
        assert data_of(changed).identity() != before
    assert data_of(folder, num_classes=3).identity() != before
    assert data_of(folder, num_workers=3).identity() == before


def test_a_lost_or_damaged_memo_costs_a_reading_and_nothing_else(tmp_path, folder, reads):
    before = data_of(folder).identity()
    for memo in (tmp_path / "cache" / "data").iterdir():
        memo.write_bytes(memo.read_bytes()[:40])
    assert data_of(folder).identity() == before
    assert len(reads) == 8
    for memo in (tmp_path / "cache" / "data").iterdir():
        memo.unlink()
    assert load_dataset(data_of(folder)).train.num_samples == 21


def test_members_of_a_key_may_stand_anywhere_and_others_are_passed_over(tmp_path):
    """Also: a pickle in a shard, as some writers put one, is not loaded."""

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    members = [
        *((f"a/{number}.cls", b"%d" % number) for number in range(3)),
        *(("a/0.pyd", pickle.dumps(Trap())), ("a/0.txt", b"a cat"), ("a/._0.png", b"of a Mac"), ("a/1.mask.png", b"no image")),
        *((f"a/{number}.PNG", png(number)) for number in (2, 0, 1)),
    ]
    write_tar(tmp_path / "train-0.tar", members)
    write_tar(tmp_path / "test" / "0.tar", members)
    data = load_dataset(data_of(tmp_path, test="test/*.tar"))
    assert all_numbers_in(data.train, batch_size=2) == [2, 0, 1]
    assert data.train.labels.tolist() == [2, 0, 1]
    assert not (tmp_path / "executed").exists()


def test_labels_may_be_a_field_of_json(tmp_path):
    write_tar(tmp_path / "train-0.tar", [("0.png", png(0)), ("0.json", b'{"label": 2, "text": "x"}')])
    write_tar(tmp_path / "test-0.tar", [("0.png", png(0)), ("0.json", b'{"label": 1, "text": "x"}')])
    data = load_dataset(data_of(tmp_path, label_field="label"))
    assert (data.train.labels.tolist(), data.test.labels.tolist(), len(data.class_names)) == ([2], [1], 3)
    for field, message in [
        ("kind", r"train-0.tar: 0.json has the fields label, text; expected kind"),
        ("text", r"0.json: text is 'x'; expected the number of a class"),
        (None, r"0.png has no label beside it; expected 0.cls; where labels are in KEY.json, set label_field"),
    ]:
        with pytest.raises(ValueError, match=message):
            data_of(tmp_path, label_field=field).identity()


WRONG = {
    "no label": ([("a.png", png(1))], r"train-00.tar: a.png has no label beside it; expected a.cls"),
    "no image": ([("a.cls", b"1")], r"train-00.tar: a.cls has no image beside it"),
    "no number": ([("a.png", png(1)), ("a.cls", b"cat")], r"train-00.tar: a.cls says 'cat'; expected the number of a class"),
    "below 0": ([("a.png", png(1)), ("a.cls", b"-1")], r"train-00.tar: a.cls has the label -1; expected 0 to"),
    "two images": (
        [("a.png", b""), ("a.cls", b"1"), ("a.jpg", b"")],
        r"train-00.tar: a.png and a.jpg are two images of one key",
    ),
    "two labels": ([("a.cls", b"1"), ("a.cls", b"1")], r"train-00.tar: a.cls and a.cls are two labels of one key"),
    "nothing": ([("a.txt", b"1")], r"train-00.tar: it holds no images"),
    "number beyond": ([("a.png", png(1)), ("a.cls", b"9" * 12)], r"has the label 999999999999; expected 0 to 999999"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_in_a_shard_is_said_with_shard_and_member(tmp_path, case):
    members, message = WRONG[case]
    write_shards(tmp_path)
    write_tar(tmp_path / "train-00.tar", members)
    with pytest.raises(ValueError, match=message):
        data_of(tmp_path).identity()


def test_labels_beyond_the_classes_are_refused_with_shard_and_member(folder, tmp_path):
    write_shards(tmp_path)
    write_tar(tmp_path / "test-00.tar", [("a.png", png(1)), ("a.cls", b"7")])
    with pytest.raises(ValueError, match=r"test-00.tar/a.png has the label 7, but training images have the labels 0 to 1"):
        load_dataset(data_of(tmp_path))
    assert len(load_dataset(data_of(tmp_path, num_classes=8)).class_names) == 8
    with pytest.raises(ValueError, match=r"train-00.tar/0001.png has the label 1, but num_classes is 1"):
        load_dataset(data_of(folder, num_classes=1))


def test_shards_that_cannot_be_read_at_any_place_are_refused(tmp_path):
    write_shards(tmp_path)
    whole = (tmp_path / "train-00.tar").read_bytes()
    for mode, kind in (("w:gz", "gzip"), ("w:bz2", "bzip2"), ("w:xz", "xz")):
        write_tar(tmp_path / "train-00.tar", [("a.png", png(1)), ("a.cls", b"1")], mode=mode)
        with pytest.raises(ValueError, match=rf"train-00.tar: it is compressed \({kind}\)"):
            data_of(tmp_path).identity()
    for content in (b"", b"no tar at all" * 100, whole[:700], whole[: 512 * 9], whole[: 512 * 4]):
        (tmp_path / "train-00.tar").write_bytes(content)
        with pytest.raises(ValueError, match=r"train-00.tar: it is (no tar, or )?cut short or damaged"):
            data_of(tmp_path).identity()
    (tmp_path / "train-00.tar").unlink()
    with tarfile.open(tmp_path / "train-00.tar", "w") as tar:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(ValueError, match=r"train-00.tar: a.png is a link or no plain file"):
        data_of(tmp_path).identity()
    write_tar(tmp_path / "train-00.tar", [("\udcff.png", png(1)), ("\udcff.cls", b"1")])
    with pytest.raises(ValueError, match=r"train-00.tar: the name '.udcff.png' is not UTF-8"):
        data_of(tmp_path).identity()


SMALL = [item for number in range(4) for item in ((f"{number}.png", png(number)), (f"{number}.cls", b"%d" % number))]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_shard_never_passes_for_one_with_fewer_images(tmp_path_factory, data):
    """Python's reader takes a damaged header for the end: whatever comes after would be lost without a word."""
    path = write_tar(tmp_path_factory.getbasetemp() / "small.tar", SMALL)
    content = bytearray(path.read_bytes())
    length = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    at, value = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 255))
    content[at] = value
    try:
        index = index_tar(io.BufferedReader(io.BytesIO(bytes(content[:length]))), label_field=None)
    except ValueError:
        return
    assert len(index.names) == 4


def test_a_shard_that_changes_while_it_is_read_stops_the_stage(tmp_path):
    train = load_dataset(data_of(write_shards(tmp_path))).train
    path = tmp_path / "train-02.tar"
    content = path.read_bytes()
    at = content.index(b"IDAT")
    path.write_bytes(content[:at] + b"JDAT" + content[at + 4 :])
    with pytest.raises(ValueError, match=r"train-02.tar/0008.png is not what it was when the run began"):
        numbers_in(train, batch_size=4)
    path.unlink()
    with pytest.raises(ValueError, match=r"train-02.tar cannot be read"):
        numbers_in(train, batch_size=4)


def test_a_broken_image_is_named_or_left_out(tmp_path, capsys):
    write_shards(tmp_path)
    write_tar(tmp_path / "train-01.tar", [("a.png", png(1)[:40]), ("a.cls", b"1")])
    with pytest.raises(ValueError, match=r"train-01.tar/a.png cannot be decoded.*on_broken: skip"):
        numbers_in(load_dataset(data_of(tmp_path)).train, batch_size=5)
    assert len(all_numbers_in(load_dataset(data_of(tmp_path, on_broken="skip")).train, batch_size=5)) == 20
    assert "left out 1 broken images of 21: train-01.tar/a.png" in capsys.readouterr().out


def test_shards_can_be_packed(folder, tmp_path):
    packed = pack({"name": "webdataset", "path": str(folder)}, tmp_path, rows_per_group=4)
    data = load_dataset(webdataset_as_parquet(packed))
    assert sorted(all_numbers_in(data.train, batch_size=5)) == list(range(21))
    assert data.class_names == ("0", "1")


def webdataset_as_parquet(path):
    from stages.data.image_settings import ParquetData

    return ParquetData(**PLAIN, path=str(path))


def test_groups_end_after_so_many_images_or_bytes(monkeypatch):
    index = webdataset.TarIndex(names=list("abcde"), offsets=[0, 10, 20, 80, 90], sizes=[5, 5, 50, 5, 5], labels=[0] * 5)
    monkeypatch.setattr(webdataset, "MAX_GAP", 5)
    assert list(webdataset._pieces(index, 0, 5)) == [(0, 2), (3, 4)]
    assert list(webdataset._pieces(index, 1, 2)) == [(1, 1)]
    monkeypatch.setattr(webdataset, "GROUP_IMAGES", 2)
    monkeypatch.setattr(webdataset, "GROUP_BYTES", 60)
    assert [stretch[2:] for stretch in webdataset._stretches([("x", index)])] == [(0, 2), (2, 4), (4, 5)]
    monkeypatch.setattr(webdataset, "GROUP_IMAGES", 9)
    assert [stretch[2:] for stretch in webdataset._stretches([("x", index)])] == [(0, 3), (3, 5)]


def test_what_names_no_shards_is_refused(folder, tmp_path):
    for change, message in [
        (
            {"train": "a-*.tar"},
            r"no shards a-\*.tar in .*; it has test-00.tar, train-00.tar.*Say which with `train` and `test`",
        ),
        ({"train": "a/*.tar"}, r"no folder .*/a; check `path`"),
        ({"train": "train-{00..02}.tar"}, r"expected names of shards in `path` as train-\*.tar"),
        ({"train": "*/a.tar"}, r"in the last part only"),
        ({"test": None}, "evaluate_on: validation"),
        ({"path": "gs://bucket"}, r"expected a folder, or s3://bucket/prefix"),
    ]:
        with pytest.raises(ValueError, match=message):
            data_of(folder, **change).identity()
    held_out = load_dataset(data_of(folder, test=None, evaluate_on="validation"))
    assert held_out.train.num_samples + held_out.test.num_samples == 21


@pytest.mark.xdist_group("s3-moto")
def test_a_bucket_gives_the_same_key_and_batches_as_the_folder(folder, reads):
    server = started("moto")
    prefix, client = uuid.uuid4().hex, server.client()
    for path in folder.iterdir():
        client.upload_file(str(path), BUCKET, f"{prefix}/{path.name}")
    with environment(server.variables):
        local, remote = data_of(folder), data_of(folder, path=f"s3://{BUCKET}/{prefix}")
        assert remote.identity() == local.identity() == remote.identity()
        assert len(reads) == 8
        train = load_dataset(remote).train
        assert len(reads) == 8
        for rank in (0, 1):
            how = {"batch_size": 4, "shuffle_seed": 3, "rank": rank, "world_size": 2, "first_batch": 1}
            ours, theirs = (list(split.batches(**how)) for split in (load_dataset(local).train, train))
            assert len(ours) == len(theirs) == 2
            assert all(torch.equal(one.images, other.images) for one, other in zip(ours, theirs, strict=True))
        client.upload_file(str(folder / "train-01.tar"), BUCKET, f"{prefix}/train-00.tar")
        assert remote.identity() != local.identity(), "an object that was written again is read again"
        with pytest.raises(ValueError, match=r"no (folder|shards) .*nothing"):
            data_of(folder, path=f"s3://{BUCKET}/nothing").identity()
