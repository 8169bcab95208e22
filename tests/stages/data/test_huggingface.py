"""Hugging Face data sets: a saved folder is read and known by its content; the hub only at a commit."""

import io
import sys

import pytest
from PIL import Image

from stages.data.base import load_dataset
from stages.data.settings import HuggingFaceData
from tests.stages.data.support import PLAIN, all_numbers_in, numbers_in

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def rows(numbers, labels=None):
    images = []
    for number in numbers:
        file = io.BytesIO()
        Image.new("RGB", (8, 8), (number // 256, number % 256, 0)).save(file, format="PNG")
        images.append({"bytes": file.getvalue(), "path": None})
    return {"image": images, "label": labels or [number % 2 for number in numbers]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    datasets = pytest.importorskip("datasets", reason="pip install 'orchestrator[huggingface]'")
    splits = {name: table(datasets, rows(numbers)) for name, numbers in SPLITS.items()}
    folder = tmp_path_factory.mktemp("saved")
    datasets.DatasetDict(splits).save_to_disk(str(folder))
    return folder


def table(datasets, found):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    return datasets.Dataset.from_dict(found, features)


SPLITS = {"train": range(12), "test": range(100, 106)}


def data_of(folder, **settings):
    return HuggingFaceData(**{**PLAIN, "path": str(folder), **settings})


def test_a_saved_data_set_gives_its_images_and_is_known_by_its_content(saved):
    data = load_dataset(data_of(saved))
    assert data.class_names == ("cat", "dog")
    assert sorted(all_numbers_in(data.train, batch_size=5, shuffle_seed=1)) == list(range(12))
    assert sorted(all_numbers_in(data.test, batch_size=5)) == list(range(100, 106))
    assert [number % 2 for number in SPLITS["train"]] == data.train.labels.tolist()
    whole = numbers_in(data.train, batch_size=4, shuffle_seed=1)
    assert numbers_in(data.train, batch_size=4, shuffle_seed=1, first_batch=2) == whole[2:]
    held_out = load_dataset(data_of(saved, evaluate_on="validation"))
    assert held_out.train.num_samples + held_out.test.num_samples == 12
    assert data_of(saved).identity() == data_of(saved, num_workers=2).identity()
    assert data_of(saved).identity() != data_of(saved, test="train").identity()


@pytest.mark.parametrize("label", [-1, None])
def test_a_label_of_no_class_is_named_with_its_row(label, tmp_path):
    """Test splits of competitions have -1; on a GPU such a label would end the process."""
    datasets = pytest.importorskip("datasets", reason="pip install 'orchestrator[huggingface]'")
    whole, gaps = table(datasets, rows(range(4))), table(datasets, rows(range(4), labels=[0, 1, label, 1]))
    datasets.DatasetDict(train=whole, test=gaps).save_to_disk(str(tmp_path))
    with pytest.raises(ValueError, match=rf"row 2 of the split test has the label {label}; there are 2 classes"):
        numbers_in(load_dataset(data_of(tmp_path)).test, batch_size=4)
    with pytest.raises(ValueError, match=f"row 2 of the split test has the label {label}"):
        load_dataset(data_of(tmp_path, train="test", evaluate_on="validation"))


def test_what_is_not_there_is_named_with_what_is(saved, tmp_path):
    for change, message in [
        ({"test": "val"}, r"no split val; it has train, test"),
        ({"label_column": "class"}, r"column class is no ClassLabel; there are image \(Image\), label \(ClassLabel\)"),
        ({"path": str(tmp_path)}, "is no folder that save_to_disk wrote"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_dataset(data_of(saved, **change))
    with pytest.raises(ValueError, match="no such folder"):
        data_of(tmp_path / "nowhere").identity()


def test_the_hub_is_read_at_a_commit_alone():
    """A branch gives other images tomorrow, under the same key."""
    for revision in (None, "main", COMMIT[:7]):
        with pytest.raises(ValueError, match=r"expected the 40 hex digits of a commit.*dataset_info\('lab/birds'\)"):
            HuggingFaceData(repo="lab/birds", revision=revision)
    pinned = HuggingFaceData(repo="lab/birds", revision=COMMIT)
    assert f"lab/birds@{COMMIT}" in pinned.identity()
    assert pinned.identity() != HuggingFaceData(repo="lab/birds", revision=COMMIT, config="small").identity()
    with pytest.raises(ValueError, match="either repo"):
        HuggingFaceData()


def test_a_missing_package_says_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RuntimeError, match=r"pip install 'orchestrator\[huggingface\]'"):
        load_dataset(HuggingFaceData(repo="lab/birds", revision=COMMIT))


def test_a_hub_that_cannot_be_reached_says_what_to_do(monkeypatch):
    datasets = pytest.importorskip("datasets", reason="pip install 'orchestrator[huggingface]'")

    def refuse(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(RuntimeError, match=r"lab/birds at 0123456789.* cannot be had \(ConnectionError.*save_to_disk there"):
        load_dataset(HuggingFaceData(repo="lab/birds", revision=COMMIT))
