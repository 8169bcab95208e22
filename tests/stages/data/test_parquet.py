"""Packed images: the same batches from a folder, a bucket and an artifact, in bounded memory, with each row group checked."""

import json
import random
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

from stages.contract import local_context
from stages.data import pack as pack_stage
from stages.data.base import load_dataset
from stages.data.images import EncodedImage
from stages.data.parquet import GroupPlace, ShardImages
from stages.data.settings import FolderData, PackedData, PackSettings, ParquetData
from stages.data.shard_writer import ShardWriter
from stages.data.shards import RowGroup, read_manifest
from tests.stages.data.support import PLAIN, all_numbers_in, numbers_in, pack, packed_artifact, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of 60 + 10 images and its packed form: row groups of 4, shards of a few groups."""
    root = tmp_path_factory.mktemp("data")
    with environment({"ORCHESTRATOR_CACHE": str(root / "cache")}):
        write_folder(root / "images", train=60, test=10)
        pack({"name": "folder", "path": str(root / "images")}, root / "packed", rows_per_group=4, shard_bytes=1500)
    return root


def data_of(folder, **settings):
    return ParquetData(**{**PLAIN, "path": str(folder / "packed" / "output"), "shuffle_window": 10, **settings})


def test_packing_keeps_every_image_and_label(folder):
    packed, plain = load_dataset(data_of(folder)), load_dataset(FolderData(**PLAIN, path=str(folder / "images")))
    assert packed.class_names == plain.class_names
    assert packed.input_spec == plain.input_spec
    for split, count in (("train", 60), ("test", 10)):
        one, other = getattr(packed, split), getattr(plain, split)
        assert one.num_samples == other.num_samples == count
        assert sorted(all_numbers_in(one, batch_size=7)) == sorted(all_numbers_in(other, batch_size=7))
    labels = torch.cat([batch.labels for batch in packed.train.batches(batch_size=7)])
    assert torch.equal(labels, packed.train.labels)
    assert [number % 2 for number in all_numbers_in(packed.train, batch_size=7)] == labels.tolist()
    assert len(set(labels[:8].tolist())) == 2, "shards are shuffled, so the first images are of several classes"


def test_packing_again_elsewhere_gives_the_same_bytes_and_identity(folder, tmp_path):
    write_folder(tmp_path / "images", train=60, test=10)
    again = pack({"name": "folder", "path": str(tmp_path / "images")}, tmp_path / "packed", rows_per_group=4, shard_bytes=1500)
    first = folder / "packed" / "output"
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in first.iterdir()
    }
    assert data_of(folder).identity() == data_of(folder, path=str(again)).identity()


def test_identity_needs_the_manifest_alone(folder):
    """A plan must not read the shards, whose content the manifest vouches for, nor load pyarrow to read a local file."""
    code = (
        "import sys; from stages.data.settings import ParquetData; "
        f"ParquetData(path={str(folder / 'packed' / 'output')!r}).identity(); "
        "print([name for name in ('torch', 'numpy', 'pyarrow', 'timm', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert data_of(folder).identity() == data_of(folder, num_workers=2).identity()
    assert data_of(folder).identity() != data_of(folder, image_size=9).identity()


@pytest.mark.xdist_group("s3-moto")
def test_a_bucket_gives_the_same_batches_as_the_folder(folder):
    server = started("moto")
    prefix, client = uuid.uuid4().hex, server.client()
    for path in (folder / "packed" / "output").iterdir():
        client.upload_file(str(path), BUCKET, f"{prefix}/{path.name}")
    with environment(server.variables):
        local, remote = data_of(folder), data_of(folder, path=f"s3://{BUCKET}/{prefix}")
        assert remote.identity() == local.identity()
        arguments = {"batch_size": 8, "shuffle_seed": 4, "first_batch": 1}
        ours, theirs = (list(load_dataset(source).train.batches(**arguments)) for source in (local, remote))
        assert len(ours) == len(theirs) == 7
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)
        with pytest.raises(ValueError, match=r"no s3://bucket/nothing/dataset.json: .*artifacts get"):
            data_of(folder, path=f"s3://{BUCKET}/nothing").identity()


def test_an_artifact_gives_the_same_batches_as_the_folder(folder):
    artifact = packed_artifact(folder / "packed" / "output")
    source = PackedData(**PLAIN, shuffle_window=10)
    ours, theirs = load_dataset(source, artifact=artifact), load_dataset(data_of(folder))
    assert numbers_in(ours.train, batch_size=8, shuffle_seed=4) == numbers_in(theirs.train, batch_size=8, shuffle_seed=4)
    assert ours.identity.endswith(read_manifest(str(folder / "packed" / "output")).content_digest())
    with pytest.raises(ValueError, match=r"connect it: inputs: \{data: NODE\}"):
        load_dataset(source)
    with pytest.raises(ValueError, match=r"write data: \{name: packed\}"):
        load_dataset(data_of(folder), artifact=artifact)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_order_does_not_depend_on_the_decoding_processes(folder, num_workers):
    train = load_dataset(data_of(folder, num_workers=num_workers)).train
    expected = load_dataset(data_of(folder)).train
    for first_batch in (0, 5):
        arguments = {"batch_size": 8, "shuffle_seed": 2, "first_batch": first_batch}
        assert numbers_in(train, **arguments) == numbers_in(expected, **arguments)


def test_a_stopped_pass_leaves_no_process_and_no_thread_behind(folder):
    batches = load_dataset(data_of(folder, num_workers=2)).train.batches(batch_size=4, shuffle_seed=0)
    next(batches)
    batches.close()
    import gc
    import multiprocessing
    import threading

    gc.collect()
    assert not multiprocessing.active_children()
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


class CountingShards(ShardImages):
    """Made-up row groups: image = its number; counts those that are held."""

    def read_group(self, number):
        self.footers.setdefault("read", []).append(number)
        return [EncodedImage(b"%d" % value, value, "x") for value in range(*self.starts[number : number + 2].tolist())]


def shards_of(sizes, window):
    groups = [GroupPlace("x.parquet", number, RowGroup(rows=rows, digest="0" * 64)) for number, rows in enumerate(sizes)]
    return CountingShards(groups=groups, open_file=open, window=window, num_classes=1000)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 30), st.none() | st.integers(0, 2**40), st.data())
@settings(max_examples=60, deadline=None)
def test_a_pass_from_any_image_reads_each_group_once_and_only_what_it_needs(sizes, window, seed, data):
    images = shards_of(sizes, window)
    order = images.order(seed)
    assert sorted(order.tolist()) == list(range(sum(sizes)))
    first = data.draw(st.integers(0, len(order)))
    found = [image.label for image in images.read(order[first:])]
    assert found == order[first:].tolist()
    read = images.footers.get("read", [])
    assert len(read) == len(set(read))
    needed = set((torch.searchsorted(images.starts, order[first:], right=True) - 1).tolist())
    assert set(read) == needed


@given(st.lists(st.integers(1, 9), min_size=2, max_size=12), st.data())
@settings(max_examples=40, deadline=None)
def test_a_part_gives_exactly_its_images(sizes, data):
    images = shards_of(sizes, 7)
    index = torch.tensor(sorted(data.draw(st.sets(st.integers(0, sum(sizes) - 1), min_size=1))))
    part = images.part(index)
    assert len(part) == len(index)
    assert [image.label for image in part.read(part.order(None))] == index.tolist()
    assert sorted(image.label for image in part.read(part.order(3))) == index.tolist()
    assert part.part(torch.tensor([0])).order(None).tolist() == index[:1].tolist()


def test_memory_is_bounded_by_the_window_and_not_by_the_data(tmp_path):
    """240 images of 20 kB in row groups of 4: a window of 16 may hold 32 of them, and a row group on its way."""
    generator = random.Random(0)
    images = [(generator.randbytes(20_000), number, str(number)) for number in range(240)]
    writer = ShardWriter(tmp_path, "train", settings=PackSettings(data="digits", rows_per_group=4, shard_bytes=10**6))
    for content, number, name in images:
        writer.add(EncodedImage(content, number, name))
    writer.close()
    groups = [GroupPlace(shard.file, number, group) for shard in writer.shards for number, group in enumerate(shard.groups)]
    shards = ShardImages(groups=groups, open_file=lambda name: (tmp_path / name).open("rb"), window=16, num_classes=1000)
    del images
    before, most, seen = pa.total_allocated_bytes(), 0, []
    for image in shards.read(shards.order(1)):
        most = max(most, pa.total_allocated_bytes() - before)
        seen.append(image.label)
    assert sorted(seen) == list(range(240))
    assert most <= (2 * 16 + 4 * 4) * 20_000 * 1.2, f"{most} bytes held of {240 * 20_000}"


def test_damaged_or_exchanged_shards_are_found_out(folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in (folder / "packed" / "output").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    first, second = sorted(copy.glob("train-*.parquet"))[:2]
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(ValueError, match=r"train-00000.parquet, row group \d is not what dataset.json says"):
        numbers_in(load_dataset(data_of(folder, path=str(copy))).train, batch_size=8)
    for damaged in (content[:100], content[:-8]):
        first.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"train-00000.parquet, row group \d cannot be read"):
            numbers_in(load_dataset(data_of(folder, path=str(copy))).train, batch_size=8)
    first.write_bytes(content)
    manifest = json.loads((copy / "dataset.json").read_text())
    (copy / "dataset.json").write_text(json.dumps({**manifest, "classes": manifest["classes"][:1]}))
    with pytest.raises(ValueError, match=r"row group \d has the label \d+; dataset.json names 1 classes, so labels are 0 to 0"):
        numbers_in(load_dataset(data_of(folder, path=str(copy))).train, batch_size=8)
    (copy / "dataset.json").write_text(json.dumps({"format": 1, "classes": ["a"]}))
    with pytest.raises(ValueError, match="is no manifest of packed images"):
        data_of(folder, path=str(copy)).identity()
    with pytest.raises(ValueError, match=r"expected a folder, or s3://bucket/prefix"):
        data_of(folder, path="gs://bucket/images")


def test_whatever_byte_of_a_shard_is_damaged_the_shard_is_named(folder, tmp_path):
    shutil.copytree(folder / "packed" / "output", tmp_path / "copy")
    first = tmp_path / "copy" / "train-00000.parquet"
    whole, draw = first.read_bytes(), random.Random(1)
    places = [*(draw.randrange(len(whole)) for _ in range(30)), *(len(whole) - 1 - draw.randrange(1500) for _ in range(30))]
    said: list[str] = []
    for place in (whole.index(b"cat/"), *places):
        first.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        for split in ("test", "validation"):
            try:
                numbers_in(load_dataset(data_of(folder, path=str(first.parent), evaluate_on=split)).train, batch_size=8)
            except ValueError as error:  # where no value hangs on the byte there is none
                said.append(str(error))
    assert len(said) > 60
    assert [text for text in said if not text.startswith(str(first))] == []


def test_shards_with_other_columns_are_named_with_what_was_expected(folder, tmp_path):
    shutil.copytree(folder / "packed" / "output", tmp_path / "copy")
    first = tmp_path / "copy" / "train-00000.parquet"
    whole = parquet.read_table(first)
    text, missing = pa.array(["cat"] * len(whole)), pa.array([None] * len(whole), pa.int32())
    for table, message in [
        (whole.drop(["image"]), r"columns label \(int32\), name \(string\); expected image \(binary\), label \(integer\)"),
        (whole.drop(["label"]), r"columns image \(binary\), name \(string\); expected"),
        (whole.set_column(1, "label", text), r"label \(string\).*; expected"),
        (whole.set_column(0, "image", missing), r"image \(int32\).*; expected"),
        (whole.set_column(1, "label", missing), r"is not what dataset.json says|rows without a label"),
    ]:
        parquet.write_table(table, first)
        for split in ("test", "validation"):
            with pytest.raises(ValueError, match=rf"^{first}.*{message}"):
                numbers_in(load_dataset(data_of(folder, path=str(first.parent), evaluate_on=split)).train, batch_size=8)


def test_broken_images_are_found_while_packing_and_can_be_left_out(tmp_path, capsys):
    root = write_folder(tmp_path / "images")
    (root / "train" / "cat" / "000.png").write_bytes(b"no image")
    source = {"name": "folder", "path": str(root)}
    with pytest.raises(ValueError, match=r"000\.png cannot be decoded"):
        pack(source, tmp_path / "a")
    context = local_context(PackSettings(data={**source, "on_broken": "skip"}), folder=tmp_path / "b")
    metrics = pack_stage.pack(context).metrics
    assert (metrics["num_train"], metrics["num_test"], metrics["num_broken"]) == (11, 6, 1)
    assert "left out 1 broken images: cat/000.png" in capsys.readouterr().out


def test_digits_can_be_packed_and_read_back(tmp_path):
    folder = pack("digits", tmp_path)
    packed = load_dataset(
        ParquetData(path=str(folder), image_size=8, channels=1, crop=1.0, mean=(0.305,), std=(0.376,), shuffle_window=64)
    )
    original = load_dataset(PackSettings(data="digits").data)
    assert (packed.train.num_samples, packed.test.num_samples) == (1347, 450)
    found = torch.cat([batch.images for batch in packed.test.batches(batch_size=450)])
    # 8 bits hold a value to half of one 255th, and 0.376 is the deviation that it is scaled by.
    distances = torch.cdist(found.flatten(1), original.test.images.flatten(1), p=float("inf")).min(dim=1).values
    assert float(distances.max()) <= 0.5 / 255 / 0.376 + 1e-5


def test_packing_refuses_what_would_have_no_effect():
    for data, message in [
        ({"name": "folder", "path": "x", "image_size": 64}, "image_size: without effect here"),
        ({"name": "packed"}, "which is what it makes"),
    ]:
        with pytest.raises(ValueError, match=message):
            PackSettings(data=data)


@pytest.mark.xdist_group("s3-rclone")
def test_two_workers_stream_a_bucket_each_image_once_and_go_on_where_they_were(folder):
    """As data-parallel training reads: an image that comes twice or never, or others after a stop, would go unnoticed.

    This server answers a range with the checksum of the whole object, as others do.
    """
    server = started("rclone")
    prefix, client = uuid.uuid4().hex, server.client()
    for path in (folder / "packed" / "output").iterdir():
        client.upload_file(str(path), BUCKET, f"{prefix}/{path.name}")
    with environment(server.variables):
        shares = []
        for rank in (0, 1):
            train = load_dataset(data_of(folder, path=f"s3://{BUCKET}/{prefix}")).train
            whole, rest = (
                list(train.batches(batch_size=8, shuffle_seed=4, first_batch=first, rank=rank, world_size=2))
                for first in (0, 2)
            )
            assert [len(batch.images) for batch in whole] == [8, 8, 8, 6]
            assert all(torch.equal(late.images, early.images) for late, early in zip(rest, whole[2:], strict=True))
            shares.append(numbers_in(train, batch_size=8, shuffle_seed=4, rank=rank, world_size=2))
    assert sorted(number for share in shares for batch in share for number in batch) == list(range(60))
