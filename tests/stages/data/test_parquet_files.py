"""Parquet files of images that nobody packed here: Hugging Face's or plain columns; checked, streamed, known by content."""

import json
import shutil
import subprocess
import sys
import uuid

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from servers import BUCKET, environment, started

from stages.data.base import load_dataset
from stages.data.settings import ParquetData
from tests.stages.data.support import PLAIN, all_numbers_in, flat, make_old, numbers_in, pack, packed_artifact, png

CLASSES = ("cat", "dog")


def write_file(path, numbers, *, as_struct=True, rows=3, labels=None, columns=("image", "label"), images=None, note=CLASSES):
    """A file whose images say their numbers; a label is the number's remainder by 2."""
    contents = [png(number) for number in numbers] if images is None else images
    structs = [{"bytes": content, "path": f"{number}.png"} for content, number in zip(contents, numbers, strict=True)]
    labels = [number % 2 for number in numbers] if labels is None else labels
    table = pa.table({columns[0]: structs if as_struct else contents, columns[1]: pa.array(labels, pa.int64())})
    if note is not None:
        features = {columns[1]: {"names": list(note), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=rows)
    make_old(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    for part, (first, last) in enumerate([(0, 7), (7, 8), (8, 21)]):
        write_file(root / "data" / f"train-{part:05d}-of-00003.parquet", range(first, last))
    write_file(root / "data" / "test-00000-of-00001.parquet", range(1000, 1006))
    return root


def data_of(root, **changes):
    places = {"path": str(root), "train": "data/train-*.parquet", "test": "data/test-*.parquet"}
    return ParquetData(**{**PLAIN, **places, "shuffle_window": 5, **changes})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))


def test_every_image_comes_once_with_its_label_and_the_noted_classes(folder):
    data = load_dataset(data_of(folder))
    assert data.class_names == CLASSES
    assert sorted(all_numbers_in(data.train, batch_size=4, shuffle_seed=3)) == list(range(21))
    assert all_numbers_in(data.test, batch_size=4) == list(range(1000, 1006))
    assert data.train.labels.tolist() == [number % 2 for number in range(21)]


@settings(max_examples=25, deadline=None)
@given(
    world_size=st.integers(1, 4),
    batch_size=st.integers(1, 6),
    window=st.integers(1, 30),
    seed=st.integers(0, 9),
    data=st.data(),
)
def test_workers_share_a_pass_and_each_goes_on_after_any_batch(folder, world_size, batch_size, window, seed, data):
    split = load_dataset(data_of(folder, shuffle_window=window)).train
    places = [
        {"rank": rank, "world_size": world_size, "batch_size": batch_size, "shuffle_seed": seed} for rank in range(world_size)
    ]
    shares = [numbers_in(split, **place) for place in places]
    assert sorted(flat(flat(shares))) == list(range(21))
    rank = data.draw(st.integers(0, world_size - 1))
    done = data.draw(st.integers(0, len(shares[rank])))
    assert numbers_in(split, **places[rank], first_batch=done) == shares[rank][done:]


def test_plain_columns_of_other_names_read_the_same(folder, tmp_path):
    for name, numbers in (("train", range(21)), ("test", range(1000, 1006))):
        write_file(tmp_path / f"{name}.parquet", numbers, as_struct=False, columns=("png", "digit"), note=None)
    named = {"train": "train.parquet", "test": "test.parquet", "image_column": "png", "label_column": "digit"}
    data = load_dataset(data_of(tmp_path, **named))
    assert data.class_names == ("0", "1")
    assert all_numbers_in(data.train, batch_size=4) == all_numbers_in(load_dataset(data_of(folder)).train, batch_size=4)
    assert load_dataset(data_of(tmp_path, **named, num_classes=5)).class_names == ("0", "1", "2", "3", "4")


def test_a_second_plan_reads_no_file_again_and_loads_neither_tensors_nor_arrow(folder):
    identity = data_of(folder).identity()
    program = (
        "import sys; from stages.data.settings import ParquetData; "
        f"assert ParquetData(**{data_of(folder).model_dump(exclude_unset=True)!r}).identity() == {identity!r}; "
        "assert not {'torch', 'pyarrow'} & set(sys.modules), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_identity_is_that_of_rows_and_classes_and_not_of_places(folder, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(folder / "data", moved / "images")
    same = data_of(moved, train="images/train-*.parquet", test="images/test-*.parquet").identity()
    assert same == data_of(folder).identity()
    for change in (
        {"labels": [1] * 6},
        {"note": ("cat", "cow"), "path": "train-00000-of-00003.parquet"},
        {"images": [png(9)] * 6},
    ):
        other = tmp_path / str(len(change)) / next(iter(change))
        shutil.copytree(folder / "data", other / "data")
        name = change.pop("path", "test-00000-of-00001.parquet")
        write_file(other / "data" / name, range(7) if name.startswith("train") else range(1000, 1006), **change)
        assert data_of(other).identity() != same


def test_the_identity_and_the_classes_are_the_same_on_a_machine_that_remembers_other_first_files(folder, tmp_path, monkeypatch):
    """Two machines that plan the same files would have two keys, and one of them lose the names of the classes."""
    shutil.copytree(folder / "data", tmp_path / "data")
    first = tmp_path / "data" / "train-00000-of-00003.parquet"

    def known(machine):
        monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / machine))
        return data_of(tmp_path).identity(), load_dataset(data_of(tmp_path)).class_names

    whole = known("old")
    first.rename(first.with_name("aside"))
    assert known("old") == known("new")
    first.with_name("aside").rename(first)
    assert known("new") == whole


def test_packed_they_are_the_same_wherever_they_lay(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "moved")
    packed = []
    for number, root in enumerate((folder, tmp_path / "moved")):
        plain = {"name": "parquet", **data_of(root).model_dump(include={"path", "train", "test"})}
        packed.append(packed_artifact(pack(plain, tmp_path / str(number))))
    assert packed[0].file("dataset.json").read_bytes() == packed[1].file("dataset.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"columns": ("picture", "label")},
            r"train-1\.parquet has the columns picture \(struct.*expected image .*image_column",
        ),
        ({"labels": [0, None, 1]}, r"train-1\.parquet, row group 0: of 3 rows 0 have no encoded image and 1 no label"),
        ({"images": [png(1), None, png(2)]}, r"row group 0: of 3 rows 1 have no encoded image and 0 no label"),
        (
            {"labels": [0, -1, 1]},
            r"train-1\.parquet, row group 0 has the label -1; labels are classes, from 0 to 999999 at most",
        ),
        (
            {"labels": [0, 20_000_000, 1], "note": None},
            r"row group 0 has the label 20000000; labels are classes, from 0 to 999999",
        ),
        (
            {"labels": [0, 2, 1]},
            r"train-1\.parquet has the label 2, but there are 2 classes, so labels are 0 to 1; .*num_classes",
        ),
    ],
    ids=str,
)
def test_what_is_wrong_in_a_file_is_said_with_its_name(tmp_path, change, message):
    write_file(tmp_path / "train-0.parquet", range(4))
    write_file(tmp_path / "train-1.parquet", range(3), **change)
    with pytest.raises(ValueError, match=message):
        load_dataset(data_of(tmp_path, train="train-*.parquet", test=None, evaluate_on="validation"))


def test_a_cut_file_is_refused_with_its_name(folder, tmp_path):
    shutil.copytree(folder / "data", tmp_path / "data")
    path = tmp_path / "data" / "train-00001-of-00003.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"train-00001-of-00003\.parquet cannot be read"):
        data_of(tmp_path).identity()


def test_a_file_that_changes_while_it_is_read_stops_the_stage(folder, tmp_path):
    shutil.copytree(folder / "data", tmp_path / "data")
    data = load_dataset(data_of(tmp_path))
    write_file(tmp_path / "data" / "test-00000-of-00001.parquet", range(2000, 2006))
    with pytest.raises(ValueError, match=r"test-00000-of-00001\.parquet, row group 0 is not what it was when the run began"):
        all_numbers_in(data.test, batch_size=4)


def test_settings_of_files_without_train_are_refused(folder):
    for setting in ({"test": "test-*"}, {"image_column": "png"}, {"num_classes": 3}):
        with pytest.raises(ValueError, match=r"for files that data\.pack did not write; say which they are with train"):
            ParquetData(path=str(folder), **setting)
    with pytest.raises(ValueError, match="set evaluate_on: validation"):
        ParquetData(path=str(folder), train="train-*")


def test_a_bucket_gives_the_same_key_and_batches_as_the_folder(folder):
    server = started("moto")
    prefix = f"{BUCKET}/{uuid.uuid4().hex}"
    for path in (folder / "data").iterdir():
        server.client().put_object(Bucket=BUCKET, Key=f"{prefix.partition('/')[2]}/data/{path.name}", Body=path.read_bytes())
    with environment(server.variables):
        remote, local = data_of(folder, path=f"s3://{prefix}"), data_of(folder)
        assert remote.identity() == local.identity()
        pairs = zip(
            load_dataset(remote).train.batches(batch_size=4, shuffle_seed=1),
            load_dataset(local).train.batches(batch_size=4, shuffle_seed=1),
            strict=True,
        )
        assert all(torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels) for one, other in pairs)
