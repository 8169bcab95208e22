"""Fine-tuning takes any model that fits the data and keeps its transforms."""

from dataclasses import replace

import pytest
import torch

from stages.catalog import find_stage, load_implementation
from stages.contract import Artifact, local_context
from stages.data.settings import SyntheticData
from stages.models.bundle import apply_transform, build_bundle, load_bundle, save_bundle
from stages.models.zoo import find_architecture
from stages.ops.input_spec import InputSpec

DATA = SyntheticData(num_train=32, num_test=16, num_classes=4, noise=0.2)


def make_model(folder, *, seed=0, num_classes=4, height=8, masked=False):
    spec = InputSpec(channels=1, height=height, width=8, mean=(0.0,), std=(1.0,))
    class_names = tuple(f"class{index}" for index in range(num_classes))
    architecture = find_architecture(
        "cnn_micro", {"widths": [8, 8], "strides": [1, 2]}, input_spec=spec, class_names=class_names
    )
    bundle = build_bundle(architecture, seed=seed)
    if masked:
        bundle = apply_transform(bundle, "nm_mask", {"layers": {"blocks.1.0": "2:4"}})
        for name, buffer in bundle.model.named_buffers():
            if "mask" in name:
                buffer.copy_(torch.arange(buffer.numel()).reshape(buffer.shape) % 2 == 0)
    save_bundle(bundle, folder)
    return Artifact(kind="model", key=folder.name * 8, files={path.name: path for path in folder.iterdir()})


def run(name, folder, *, inputs, **params):
    spec = find_stage(name)
    context = local_context(
        spec.settings.model_validate({"data": DATA, "batch_size": 8, **params}), folder=folder, inputs=inputs
    )
    return load_implementation(spec)(replace(context, num_threads=1)), context.output


def test_finetuning_starts_from_the_given_weights(tmp_path):
    model = make_model(tmp_path / "m")
    result, output = run(
        "finetune.classifier", tmp_path / "f", inputs={"model": model}, epochs=1, learning_rate=1e-12, weight_decay=0
    )
    before, after = load_bundle(model).model, load_bundle(output).model
    torch.testing.assert_close(after.head.weight, before.head.weight, rtol=0, atol=1e-9)
    assert set(find_stage("finetune.classifier").metrics) <= set(result.metrics)


def test_a_student_comes_nearer_to_its_teacher(tmp_path):
    teacher, student = make_model(tmp_path / "t", seed=1), make_model(tmp_path / "s", seed=2)
    trained, trained_output = run(
        "finetune.classifier", tmp_path / "tt", inputs={"model": teacher}, epochs=8, learning_rate=0.02
    )
    taught = Artifact(kind="model", key="t" * 8, files={path.name: path for path in trained_output.iterdir()})
    inputs = {"model": student, "teacher": taught}
    result, _ = run("finetune.distill", tmp_path / "d", inputs=inputs, epochs=8, learning_rate=0.02, alpha=1.0)
    assert result.metrics["teacher_top1_accuracy"] == trained.metrics["top1_accuracy"]
    assert result.metrics["top1_accuracy"] >= trained.metrics["top1_accuracy"] - 0.2
    assert result.metrics["top1_accuracy"] > 0.5


@pytest.mark.parametrize("stage", ["finetune.classifier", "finetune.distill"])
def test_a_mask_stays_exactly_what_it_was(tmp_path, stage):
    """A fine-tuned 2:4 model has to be 2:4 still, or the report lies."""
    model = make_model(tmp_path / "m", masked=True)
    inputs = {"model": model} | ({"teacher": make_model(tmp_path / "t")} if stage == "finetune.distill" else {})
    _, output = run(stage, tmp_path / "f", inputs=inputs, epochs=2, ema_decay=0.9)
    before, after = load_bundle(model), load_bundle(output)
    assert after.transforms == before.transforms
    masks = {name: buffer for name, buffer in before.model.named_buffers() if "mask" in name}
    assert masks
    assert all(torch.equal(dict(after.model.named_buffers())[name], mask) for name, mask in masks.items())
    assert not torch.equal(after.model.head.weight, before.model.head.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 3}, "'model' knows 3 classes class0, class1, class2; the data have 4"),
        ({"height": 6}, "takes images .*height=6"),
    ],
)
def test_a_model_of_other_data_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run("finetune.classifier", tmp_path / "f", inputs={"model": make_model(tmp_path / "m", **changes)}, epochs=1)
