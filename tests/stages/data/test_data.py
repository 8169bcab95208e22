"""Data splits: what is promised by an identity, an order and a seed."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from stages.data import digits
from stages.data.augmentation import shift_images
from stages.data.base import TensorSplit, load_dataset
from stages.data.settings import DataSettings, DigitsData, SyntheticData


class Holder(BaseModel):
    data: DataSettings


def test_data_are_named_by_a_word_or_a_mapping():
    """`data: digits` and `data: {name: digits}` are one setting, so they must give one key."""
    assert Holder(data="digits") == Holder(data={"name": "digits"})
    assert Holder(data={"name": "synthetic", "height": 5}).data == SyntheticData(height=5)


@pytest.mark.parametrize(
    ("value", "message"),
    [("digist", "'digits', 'photographs', 'synthetic'"), ({"name": "synthetic", "hight": 3}, "hight"), (3, "data")],
)
def test_unknown_data_and_settings_are_refused(value, message):
    with pytest.raises(ValidationError, match=message):
        Holder(data=value)


def test_digits_are_split_stratified_in_1347_and_450():
    data = load_dataset(DigitsData())
    assert (data.train.num_samples, data.test.num_samples) == (1347, 450)
    assert len(data.class_names) == 10
    counts = torch.bincount(data.test.labels)
    assert counts.min() >= 43
    assert counts.max() <= 46
    assert data.train.images.shape == (1347, 1, 8, 8)
    assert abs(float(data.train.images.mean())) < 1e-2
    assert float(data.train.images.std()) == pytest.approx(1, abs=1e-2)


def test_other_digits_than_the_identity_promises_are_refused(monkeypatch):
    """A new scikit-learn with other bytes would give other results under old keys."""
    monkeypatch.setattr(digits, "DIGITS_IDENTITY", "digits:sklearn-1:0000:split75-0")
    with pytest.raises(RuntimeError, match="gives other digits than results here stand on"):
        digits.load_digits.__wrapped__(DigitsData())


def test_settings_load_no_tensor_library():
    """Planning reads the settings of every stage; it has to stay quick."""
    code = (
        "import sys, stages.pretrain.settings as p, stages.finetune.settings, stages.probe.settings; "
        "p.ClassifierSettings(model='vit_micro', data='digits').data_identity(); "
        "print([name for name in ('torch', 'numpy', 'sklearn', 'timm', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_synthetic_images_follow_from_their_seed_and_have_the_shape_asked_for():
    source = SyntheticData(channels=3, height=4, width=6, num_classes=5, num_train=12, num_test=7)
    first, second, other = load_dataset(source), load_dataset(source), load_dataset(source.model_copy(update={"data_seed": 1}))
    assert first.train.images.shape == (12, 3, 4, 6)
    assert first.test.num_samples == 7
    assert first.input_spec.shape == (3, 4, 6)
    assert torch.equal(first.train.images, second.train.images)
    assert not torch.equal(first.train.images, other.train.images)


@pytest.mark.parametrize("name", sorted(SyntheticData.model_fields.keys() - {"name", "evaluate_on"}))
def test_every_setting_of_synthetic_data_is_in_their_identity(name):
    """What is compared only where identities are equal must be measured on the same images."""
    source = SyntheticData()
    other = source.model_copy(update={name: getattr(source, name) + 1})
    assert other.identity() != source.identity() == SyntheticData().identity()


def test_validation_holds_training_images_of_every_class_out_and_shows_no_test_image():
    whole, cut = load_dataset(DigitsData()), load_dataset(DigitsData(evaluate_on="validation"))
    images = [split.images.flatten(1) for split in (whole.train, cut.train, cut.test)]
    rows = [[row.numpy().tobytes() for row in part] for part in images]
    assert sorted(rows[0]) == sorted(rows[1] + rows[2])
    counts = torch.bincount(whole.train.labels)
    assert (torch.bincount(cut.test.labels) - counts / 5).abs().max() <= 1
    assert torch.equal(cut.test.images, load_dataset(DigitsData(evaluate_on="validation")).test.images)


@pytest.mark.parametrize("source", [DigitsData, SyntheticData])
def test_results_on_validation_images_have_another_identity_than_those_on_test_images(source):
    assert source().identity() != source(evaluate_on="validation").identity()
    assert source().identity() == source(evaluate_on="test").identity()


def test_a_number_written_otherwise_is_the_same_synthetic_data():
    assert Holder(data={"name": "synthetic", "noise": 1}).data.identity() == SyntheticData(noise=1.0).identity()


@st.composite
def passes(draw):
    length = draw(st.integers(1, 40))
    return {
        "length": length,
        "batch_size": draw(st.integers(1, length)),
        "shuffle_seed": draw(st.none() | st.integers(0, 2**62)),
        "drop_last": draw(st.booleans()),
        "world_size": draw(st.integers(1, 3)),
    }


def labels_of(length, **arguments):
    split = TensorSplit(images=torch.zeros(length, 1, 1, 1), labels=torch.arange(length))
    return [batch.labels.tolist() for batch in split.batches(**arguments)]


@given(passes(), st.integers(0, 50))
@settings(max_examples=100, deadline=None)
def test_a_pass_goes_on_after_any_batch_as_if_it_had_not_stopped(arguments, stopped_after):
    """Exact resume needs the rest of an epoch without the batches before it."""
    whole = labels_of(**arguments)
    assert labels_of(**arguments, first_batch=stopped_after) == whole[stopped_after:]


@given(passes())
@settings(max_examples=100, deadline=None)
def test_processes_read_disjoint_parts_and_all_images_unless_told_to_drop(arguments):
    parts = [labels_of(**arguments, rank=rank) for rank in range(arguments["world_size"])]
    seen = [label for part in parts for batch in part for label in batch]
    assert len(seen) == len(set(seen))
    if arguments["drop_last"]:
        assert len({len(part) for part in parts}) == 1
        assert all(len(batch) == arguments["batch_size"] for part in parts for batch in part)
    else:
        assert sorted(seen) == list(range(arguments["length"]))


def test_order_changes_with_the_seed():
    assert labels_of(20, batch_size=20, shuffle_seed=1) != labels_of(20, batch_size=20, shuffle_seed=2)


@given(st.integers(0, 3), st.integers(0, 2**40), st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_shifted_images_agree_with_a_slow_reference(pixels, seed, probability):
    """Each image is one of its own shifts; unmoved ones stay bit for bit."""
    images = torch.rand(5, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    black = torch.tensor([0.25, -0.5])
    shifted = shift_images(images, pixels=pixels, probability=probability, seed=seed, fill=black)
    assert torch.equal(shifted, shift_images(images, pixels=pixels, probability=probability, seed=seed, fill=black))
    if pixels == 0 or probability == 0:
        assert shifted is images
        return
    canvas = black[None, :, None, None].expand(5, 2, 4 + 2 * pixels, 6 + 2 * pixels).clone()
    canvas[:, :, pixels : pixels + 4, pixels : pixels + 6] = images
    reach = range(2 * pixels + 1)
    for index in range(5):
        windows = [canvas[index, :, row : row + 4, column : column + 6] for row in reach for column in reach]
        assert any(torch.allclose(shifted[index], window, rtol=0, atol=1e-6) for window in windows)


def test_about_half_of_the_images_are_moved():
    images = torch.rand(4000, 1, 8, 8)
    moved = (shift_images(images, pixels=1, probability=0.5, seed=0) != images).flatten(1).any(1)
    assert 0.41 < float(moved.float().mean()) < 0.48  # half, of which one in nine is moved by nothing
