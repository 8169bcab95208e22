"""`pretrain.classifier` as a user runs it."""

import json
from dataclasses import replace

import pytest
from pydantic import ValidationError

from stages.catalog import find_stage, load_implementation
from stages.contract import local_context
from stages.pretrain.settings import STAGES, ClassifierSettings


def run(folder, *, seed=0, **params):
    spec = find_stage("pretrain.classifier")
    context = local_context(spec.settings.model_validate(params), folder=folder, seed=seed)
    return load_implementation(spec)(replace(context, num_threads=1)), context.output


def test_the_micro_cnn_learns_digits_and_reports_its_declared_metrics(tmp_path):
    result, output = run(tmp_path, model="cnn_micro", data="digits", epochs=8)
    assert result.metrics["top1_accuracy"] >= 0.96
    assert set(STAGES[0].metrics) <= set(result.metrics)
    assert result.metrics["num_parameters"] == 28_490
    assert result.metrics["gmacs"] == pytest.approx(0.001124672)
    assert sorted(path.name for path in output.iterdir()) == [
        "history.json",
        "layers.json",
        "model.json",
        "weights.safetensors",
    ]
    history = json.loads((output / "history.json").read_text())
    assert len(history) == 8
    assert history[-1]["top1_accuracy"] == result.metrics["top1_accuracy"]
    assert result.measurements.keys() == {"training_s", "training_images_per_s"}


def test_the_same_seed_gives_the_same_files_and_metrics(tmp_path):
    runs = [
        run(tmp_path / name, seed=seed, model="cnn_micro", data="digits", epochs=1)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    contents = [{path.name: path.read_bytes() for path in output.iterdir()} for _, output in runs]
    assert contents[0] == contents[1]
    assert runs[0][0].metrics == runs[1][0].metrics
    assert contents[0]["weights.safetensors"] != contents[2]["weights.safetensors"]


def test_any_timm_model_trains_on_any_image_size(tmp_path):
    data = {"name": "synthetic", "channels": 3, "height": 32, "width": 32, "num_classes": 3, "num_train": 8, "num_test": 4}
    result, _ = run(tmp_path, model="resnet10t", data=data, epochs=1, batch_size=4)
    assert result.metrics["num_test"] == 4


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"data": "digits"}, "model"),
        ({"model": "vit_micro", "data": "digits", "epoch": 3}, "epoch"),
        ({"model": "vit_micro", "data": "digits", "learning_rate": float("nan")}, "learning_rate"),
        ({"model": "vit_micro", "data": "digits", "label_smoothing": 1.0}, "less than 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(params, message):
    with pytest.raises(ValidationError, match=message):
        ClassifierSettings.model_validate(params)


def test_every_setting_says_what_it_is():
    """`orchestrator stages` and the documentation print these."""
    fields = ClassifierSettings.model_fields
    assert all(field.description for name, field in fields.items() if name != "data")


@pytest.mark.slow
def test_the_default_recipe_brings_vit_micro_above_96_percent(tmp_path):
    result, _ = run(tmp_path, model="vit_micro", data="digits")
    assert result.metrics["top1_accuracy"] >= 0.96
