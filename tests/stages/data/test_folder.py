"""Folders of images: what they are known by, what they refuse, and the batches that they give."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stages.data import file_digests
from stages.data.base import load_dataset
from stages.data.image_settings import Augmentation, WebDatasetData
from stages.data.settings import FolderData
from tests.stages.data.support import PLAIN, all_numbers_in, flat, make_old, numbers_in, numbers_of, write_folder, write_image

AUGMENT = {
    "crop_scale": (0.3, 1.0),
    "flip": 0.5,
    "color_jitter": 0.3,
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "erasing": 0.5,
    "mixup": 0.8,
    "cutmix": 1.0,
}


@pytest.fixture
def reads(monkeypatch):
    """The files whose content is read for a digest."""
    read, real = [], file_digests._content_digest
    monkeypatch.setattr(file_digests, "_content_digest", lambda path: read.append(path) or real(path))
    return read


def data_of(root, **settings):
    return FolderData(**{**PLAIN, "path": str(root), **settings})


def test_a_second_plan_reads_no_content(tmp_path, reads):
    root = write_folder(tmp_path / "images")
    first = data_of(root).identity()
    assert len(reads) == 18
    assert data_of(root).identity() == first
    assert len(reads) == 18


def test_a_changed_image_is_read_again_and_is_other_data(tmp_path, reads):
    root = write_folder(tmp_path / "images")
    before = data_of(root).identity()
    changed = root / "train" / "cat" / "000.png"
    write_image(changed, 77)
    assert data_of(root).identity() != before
    assert [path.name for path in reads[18:]] == ["000.png"]
    assert data_of(root).identity() != before
    assert len(reads) == 20, "what was changed just now may change again unseen, so it is not remembered"


def test_a_damaged_memo_costs_a_reading_and_nothing_else(tmp_path, reads):
    root = write_folder(tmp_path / "images")
    before = data_of(root).identity()
    for memo in (tmp_path / "cache" / "data").iterdir():
        memo.write_bytes(memo.read_bytes()[:40])
    assert data_of(root).identity() == before
    assert len(reads) == 36


def test_the_same_images_elsewhere_under_other_split_names_are_the_same_data(tmp_path):
    first = write_folder(tmp_path / "a")
    second = write_folder(tmp_path / "b")
    (second / "test").rename(second / "val")
    assert data_of(first).identity() == data_of(second, test="val").identity()
    (second / "val" / "cat" / "000.png").rename(second / "val" / "cat" / "new.png")
    assert data_of(first).identity() != data_of(second, test="val").identity()


def test_how_images_are_seen_is_in_the_identity_and_how_they_are_read_is_not(tmp_path):
    root = write_folder(tmp_path / "images")
    plain = data_of(root).identity()
    assert plain == data_of(root, num_workers=3).identity()
    for change in ({"image_size": 16}, {"crop": 0.5}, {"resize": "squash"}, {"evaluate_on": "validation"}):
        assert plain != data_of(root, **change).identity()


def test_what_does_not_fit_together_is_named(tmp_path):
    root = write_folder(tmp_path / "images")
    for change, message in [
        ({"path": str(tmp_path / "nowhere")}, "nowhere either: check `path`"),
        ({"test": "val"}, "has test, train; say which with `train` and `test`"),
    ]:
        with pytest.raises(ValueError, match=message):
            data_of(root, **change).identity()
    (root / "train" / "eel").mkdir()
    with pytest.raises(ValueError, match="no images for eel"):
        load_dataset(data_of(root))
    write_image(root / "train" / "eel" / "a.png", 1)
    with pytest.raises(ValueError, match="different classes: only train has eel"):
        load_dataset(data_of(root))
    with pytest.raises(ValueError, match=r"pack the images once\s+with data.pack"):
        data_of(root, path="s3://bucket/images")


def test_a_broken_image_is_named_or_left_out_and_listed(tmp_path, capsys):
    root = write_folder(tmp_path / "images")
    broken = root / "train" / "dog" / "001.png"
    broken.write_bytes(broken.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"train/dog/001.png cannot be decoded.*on_broken: skip"):
        numbers_in(load_dataset(data_of(root)).train, batch_size=5)
    data = load_dataset(data_of(root, on_broken="skip"))
    assert sorted(all_numbers_in(data.train, batch_size=5)) == [0, *range(2, 12)]
    assert "left out 1 broken images of 12: dog/001.png" in capsys.readouterr().out


def test_whatever_a_decoder_comes_across_in_a_damaged_file_the_file_is_named(tmp_path):
    """Pillow answers the first two with a plain ValueError, where others get an OSError."""
    root = write_folder(tmp_path / "images")
    broken = root / "train" / "dog" / "001.png"
    short_header = broken.read_bytes()[:8] + b"\0\0\0\5IHDR" + bytes(9)
    for content in (short_header, b"P6 8 8 x55 " + bytes(192), b"no image"):
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=r"train/dog/001.png cannot be decoded: "):
            numbers_in(load_dataset(data_of(root)).train, batch_size=5)
        data = load_dataset(data_of(root, on_broken="skip"))
        assert sorted(all_numbers_in(data.train, batch_size=5)) == [0, *range(2, 12)]


def test_pixel_formats_that_would_lose_something_are_refused(tmp_path):
    root = write_folder(tmp_path / "images")
    grey = {"channels": 1, "mean": (0.0,), "std": (1.0,)}
    with pytest.raises(ValueError, match=r"format RGB \(3 channels\); expected grey of 8 bits: set channels: 3"):
        numbers_in(load_dataset(data_of(root, **grey)).test, batch_size=6)
    Image.new("I;16", (8, 8)).save(root / "test" / "cat" / "000.png")
    with pytest.raises(ValueError, match="format I;16"):
        numbers_in(load_dataset(data_of(root)).test, batch_size=6)


def test_every_image_comes_once_and_the_label_is_that_of_its_folder(tmp_path):
    data = load_dataset(data_of(write_folder(tmp_path / "images")))
    assert data.class_names == ("cat", "dog")
    seen = {}
    for images, labels in data.train.batches(batch_size=5, shuffle_seed=3):
        seen |= dict(zip(numbers_of(images), labels.tolist(), strict=True))
    assert seen == {number: number % 2 for number in range(12)}
    assert [len(batch) for batch in numbers_in(data.train, batch_size=5, shuffle_seed=3, drop_last=True)] == [5, 5]


def test_a_pass_goes_on_after_any_batch_and_ranks_share_it_without_overlap(tmp_path):
    train = load_dataset(data_of(write_folder(tmp_path / "images", train=21))).train
    whole = numbers_in(train, batch_size=4, shuffle_seed=1)
    for done in range(7):
        assert numbers_in(train, batch_size=4, shuffle_seed=1, first_batch=done) == whole[done:]
    for world_size in (2, 3):
        parts = [
            numbers_in(train, batch_size=4, shuffle_seed=1, rank=rank, world_size=world_size) for rank in range(world_size)
        ]
        assert sorted(flat(flat(parts))) == list(range(21))
        dropped = [
            numbers_in(train, batch_size=4, shuffle_seed=1, rank=rank, world_size=world_size, drop_last=True)
            for rank in range(world_size)
        ]
        assert {len(part) for part in dropped} == {21 // world_size // 4}


def test_validation_images_are_of_every_class_and_seen_as_test_images_are(tmp_path):
    root = write_folder(tmp_path / "images", train=20)
    data = load_dataset(data_of(root, evaluate_on="validation", test=None, augment={"flip": 1.0, "mixup": 1.0}))
    held_out, rest = (all_numbers_in(split, batch_size=4) for split in (data.test, data.train))
    assert sorted(held_out + rest) == list(range(20))
    assert sorted(number % 2 for number in held_out) == [0, 0, 1, 1]
    batch = next(iter(data.test.batches(batch_size=4, shuffle_seed=0)))
    assert batch.labels.dtype == torch.int64


def test_augmented_batches_follow_from_the_seed_whatever_decodes_them(tmp_path):
    """Changes drawn by a decoding process, or from the generators of the model, would differ from run to run."""
    root = write_folder(tmp_path / "images", size=12)

    def batches(num_workers, seed=5, first=0):
        train = load_dataset(data_of(root, augment=AUGMENT, num_workers=num_workers)).train
        return list(train.batches(batch_size=4, shuffle_seed=seed, first_batch=first))

    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    alone = batches(0)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before  # noqa: NPY002
    torch.manual_seed(2)
    for others, offset in ((batches(2), 0), (batches(0, first=1), 1)):
        assert len(others) == 3 - offset
        for one, other in zip(alone[offset:], others, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)
    assert alone[0].labels.shape == (4, 2)
    assert torch.allclose(alone[0].labels.sum(1), torch.ones(4))
    assert not torch.equal(alone[0].images, batches(0, seed=6)[0].images)


def test_nothing_is_changed_at_random_without_a_shuffle_or_without_being_asked(tmp_path):
    root = write_folder(tmp_path / "images")
    asked, not_asked = (load_dataset(data_of(root, augment=augment)).train for augment in (AUGMENT, None))
    assert sorted(all_numbers_in(asked, batch_size=6)) == list(range(12))
    assert sorted(all_numbers_in(not_asked, batch_size=6, shuffle_seed=1)) == list(range(12))


def test_repeated_images_come_several_times_and_differ(tmp_path):
    root = write_folder(tmp_path / "images", size=12)
    train = load_dataset(data_of(root, augment={"repeats": 3})).train
    seen = all_numbers_in(train, batch_size=6, shuffle_seed=0)
    assert len(seen) == 12
    assert sorted(seen.count(number) for number in set(seen)) == [3, 3, 3, 3]
    erased = load_dataset(data_of(root, augment={"repeats": 2, "erasing": 1.0})).train
    first = next(iter(erased.batches(batch_size=2, shuffle_seed=0))).images
    assert not torch.equal(first[0], first[1])


def test_settings_that_cannot_act_are_refused(tmp_path):
    for change, message in [
        ({"mean": (0.5, 0.5, 0.5), "std": None}, "mean and std belong together"),
        ({"augment": {"auto_augment": "randaug"}}, "timm knows policies by their first word"),
        ({"augment": {"auto_augment": "rand-m9-foo"}}, r"would leave 'foo' out; expected one of m, mstd"),
        ({"augment": {"auto_augment": "3a-m9"}}, r"would leave 'm9' out; expected one of mstd with a number"),
        ({"augment": {"crop_ratio": (1, 1)}}, "set crop_scale, too"),
        ({"augment": {"crop_scale": (0.9, 0.1)}}, "smallest, largest"),
        ({"test": None}, "evaluate_on: validation"),
        ({"normalization": "half"}, "both normalization and mean"),
    ]:
        with pytest.raises(ValueError, match=message):
            data_of(tmp_path, **change)
    train = load_dataset(data_of(write_folder(tmp_path / "images"), augment={"mixup": 1.0})).train
    with pytest.raises(ValueError, match="batch_size is 5; mixup and CutMix mix images in pairs"):
        next(iter(train.batches(batch_size=5, shuffle_seed=0)))


def test_every_setting_of_images_is_on_the_page_of_data_sets():
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    named = {*WebDatasetData.model_fields, *Augmentation.model_fields} - {"train", "test", "path", "name"}
    assert not [name for name in named if f"`{name}`" not in page and f"{name}:" not in page]


def test_scaling_is_imagenets_or_that_of_a_models_weights(tmp_path):
    root = write_folder(tmp_path / "images")
    free = {"mean": None, "std": None}
    specs = {
        name: load_dataset(data_of(root, normalization=name, **free)).input_spec
        for name in ("imagenet", "half", "vit_small_patch16_224")
    }
    assert specs["imagenet"].mean == (0.485, 0.456, 0.406)
    assert specs["half"].mean == specs["vit_small_patch16_224"].mean == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="a model that timm has weights of"):
        load_dataset(data_of(root, normalization="no_such_model", **free))


def test_a_memo_is_written_for_files_that_look_settled_only(tmp_path, reads):
    root = write_folder(tmp_path / "images", train=2, test=2)
    write_image(root / "train" / "cat" / "000.png", 9)
    data_of(root).identity()
    data_of(root).identity()
    assert [path.name for path in reads].count("000.png") == 3  # twice the new one of train, once that of test
    make_old(root / "train" / "cat" / "000.png")
    data_of(root).identity()
    data_of(root).identity()
    assert len(reads) == 6
