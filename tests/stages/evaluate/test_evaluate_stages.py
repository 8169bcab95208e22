"""`evaluate.*`: what is counted, what is stored and what a clock said are kept apart, and empty savings are marked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper

from stages.data.base import load_dataset
from stages.data.settings import DigitsData
from stages.evaluate import classifier, compare
from stages.evaluate.settings import CLASSIFIER_METRICS, ClassifierSettings, CompareSettings
from stages.export import onnx as export
from stages.export import packed as packing
from stages.export.settings import ONNXSettings, PackedSettings
from stages.models.bundle import build_bundle, save_bundle
from stages.models.nm_mask import apply_masks
from stages.models.zoo import find_architecture
from stages.ops.nm import magnitude_mask
from stages.ops.pattern import NMPattern
from stages.training.loop import train
from stages.training.settings import TrainingSettings
from tests.stages.stage_calls import artifact_of, context_in

PATTERN = NMPattern(2, 4)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A small dense CNN, the same with 2:4 masks, and both exported."""
    folder = tmp_path_factory.mktemp("models")
    data = load_dataset(DigitsData())
    architecture = find_architecture("cnn_micro", {}, input_spec=data.input_spec, class_names=data.class_names)
    bundle = build_bundle(architecture, seed=0)
    settings = TrainingSettings(data="digits", epochs=3)
    train(bundle.model, data=data, settings=settings, context=context_in(folder / "run", settings))
    save_bundle(bundle, folder / "dense")
    names = ("blocks.1.0", "blocks.2.0")
    masks = {name: magnitude_mask(bundle.model.get_submodule(name).weight, pattern=PATTERN) for name in names}
    save_bundle(apply_masks(bundle, masks, pattern=PATTERN), folder / "masked")
    made = {name: artifact_of(folder / name, "model") for name in ("dense", "masked")}
    for name in ("dense", "masked"):
        export.run(context_in(folder / f"{name}_onnx", ONNXSettings(), model=made[name]))
        made[f"{name}_onnx"] = artifact_of(folder / f"{name}_onnx" / "output", "exported")
    return made


def evaluate(folder: Path, *, label: str = "", latency_seconds: float = 0.0, batch_sizes=(1, 16), **inputs):
    settings = ClassifierSettings(data="digits", latency_seconds=latency_seconds, batch_sizes=batch_sizes)
    result = classifier.run(context_in(folder, settings, **inputs))
    return result, artifact_of(folder / "output", "evaluation", label=label)


@pytest.fixture(scope="module")
def full(models, tmp_path_factory):
    """Everything connected, latencies taken."""
    inputs = {"model": models["masked"], "exported": models["masked_onnx"], "baseline": models["dense"]}
    return evaluate(tmp_path_factory.mktemp("full"), label="2:4", latency_seconds=0.4, **inputs)


def test_every_declared_metric_is_reported(full):
    metrics = full[0].metrics
    assert set(CLASSIFIER_METRICS) <= set(metrics)
    assert metrics["num_samples"] == 450
    assert metrics["top1_accuracy_low"] < metrics["top1_accuracy"] < metrics["top1_accuracy_high"]


def test_the_exported_file_classifies_as_the_model_does(full):
    metrics = full[0].metrics
    assert metrics["exported_agreement"] == 1
    assert metrics["model_top1_accuracy"] == metrics["top1_accuracy"]


def test_accuracy_and_drop_are_those_of_the_file_whose_bytes_are_reported(models, tmp_path):
    """A file that rounds too much must not be sold with the accuracy that the model had before."""
    folder = tmp_path / "constant"
    folder.mkdir()
    for name, path in models["dense_onnx"].files.items():
        (folder / name).write_bytes(path.read_bytes())
    proto = onnx.load(str(folder / "model.onnx"))
    (bias,) = (tensor for tensor in proto.graph.initializer if list(tensor.dims) == [10])
    values = numpy_helper.to_array(bias).copy()
    values[0] += 1e4
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    onnx.save(proto, str(folder / "model.onnx"))
    inputs = {"model": models["dense"], "exported": artifact_of(folder, "exported"), "baseline": models["dense"]}
    metrics = evaluate(tmp_path / "run", **inputs)[0].metrics
    share = sum(int((batch.labels == 0).sum()) for batch in load_dataset(DigitsData()).test.batches(batch_size=512)) / 450
    assert metrics["top1_accuracy"] == share
    assert metrics["top1_accuracy_high"] < metrics["model_top1_accuracy"] == metrics["baseline_top1_accuracy"]
    assert metrics["top1_drop"] == pytest.approx(metrics["model_top1_accuracy"] - share)
    assert metrics["top1_drop_low"] > 0
    assert metrics["exported_agreement"] < 0.2


def test_the_baseline_is_stored_by_the_same_exporter(full, models):
    """Sizes of different formats would make a mask look like a saving, or a loss."""
    metrics = full[0].metrics
    assert metrics["baseline_size_bytes"] == models["dense_onnx"].file("model.onnx").stat().st_size
    assert metrics["size_ratio"] == 1.0
    assert metrics["gmacs_ratio"] == 1.0
    assert metrics["gmacs_effective"] < 0.6 * metrics["gmacs"]


def test_a_mask_that_saves_neither_bytes_nor_time_is_marked(full):
    """Half of the multiplications are gone on paper; the file and the clock say otherwise, and the report must too."""
    measurements = full[0].measurements
    assert measurements["runtime"] == "onnxruntime"
    ratios = [measurements["latency_ratio_b1"], measurements["latency_ratio_b16"]]
    assert measurements["neither_smaller_nor_faster"] is all(ratio < 1.03 for ratio in ratios)
    assert classifier.is_false_saving(size_ratio=1.0, latency_ratios=[1.0, 1.02])
    assert not classifier.is_false_saving(size_ratio=1.0, latency_ratios=[1.0, 1.5])
    assert not classifier.is_false_saving(size_ratio=0.5, latency_ratios=[0.9, 0.9])


@pytest.mark.parametrize(
    ("size_ratio", "latency_ratios", "expected"),
    [
        (0.9, {1: 0.96, 64: 1.0}, "smaller, slower (slower at batch size 1)"),
        (0.9, {1: 0.5, 64: 0.96}, "smaller, slower (slower at batch sizes 1 and 64)"),
        (0.9, {1: 0.97, 64: 1.0}, None),
        (0.9, {1: 1.2, 64: 0.9}, "smaller, faster, slower (faster at batch size 1, slower at batch size 64)"),
        (0.9, {1: 1.2, 64: 1.0}, None),
        (1.0, {1: 1.2, 64: 0.9}, "faster, slower (faster at batch size 1, slower at batch size 64)"),
        (1.03, {1: 1.0, 64: 1.03}, "faster, larger (faster at batch size 64)"),
        (1.02, {1: 1.0, 64: 1.03}, None),
        (1.1, {1: 0.9, 64: 1.1}, "faster, slower, larger (faster at batch size 64, slower at batch size 1)"),
        (1.1, {1: 0.5, 64: 0.5}, None),
        (1.0, {1: 1.0, 64: 1.0}, None),
    ],
)
def test_a_gain_that_costs_something_else_is_marked_with_the_batch_size(size_ratio, latency_ratios, expected):
    """A packed or integer file may well be smaller and slower: whoever reads only one column must still see the price."""
    assert classifier.describe_trade_off(size_ratio=size_ratio, latency_ratios=latency_ratios) == expected
    if expected:
        assert not classifier.is_false_saving(size_ratio=size_ratio, latency_ratios=list(latency_ratios.values()))


def test_the_mark_of_a_trade_off_is_a_measurement(models, tmp_path, monkeypatch):
    """It depends on a clock: in the metrics it would make two machines disagree on one and the same evaluation."""
    monkeypatch.setattr(classifier, "paired_ratio", lambda *_: 0.9)
    monkeypatch.setattr(classifier, "SMALLER_BELOW", 1.1)
    inputs = {"model": models["masked"], "exported": models["masked_onnx"], "baseline": models["dense"]}
    result, written = evaluate(tmp_path, latency_seconds=0.1, **inputs)
    assert result.measurements["trade_off"] == "smaller, slower (slower at batch sizes 1 and 16)"
    assert result.measurements["neither_smaller_nor_faster"] is False
    assert "trade_off" not in result.metrics
    assert "slower" not in written.file("evaluation.json").read_text()


def test_nothing_from_the_clock_is_in_metrics_or_files(full):
    result, written = full
    evaluation = json.loads(written.file("evaluation.json").read_text())
    assert evaluation["metrics"] == result.metrics
    assert not any(word in name for name in result.metrics for word in ("latency", "per_s", "faster", "trade"))
    assert {"latency_ms_b1", "latency_ms_low_b1", "latency_ms_high_b16", "device", "num_threads"} <= set(result.measurements)


def test_the_same_evaluation_gives_the_same_bytes(full, models, tmp_path):
    inputs = {"model": models["masked"], "exported": models["masked_onnx"], "baseline": models["dense"]}
    _, again = evaluate(tmp_path, **inputs)
    assert again.file("evaluation.json").read_bytes() == full[1].file("evaluation.json").read_bytes()


def test_a_batch_larger_than_the_test_split_is_filled_by_repeating_it(models, tmp_path):
    result, _ = evaluate(tmp_path, latency_seconds=0.1, batch_sizes=(500,), model=models["dense"])
    assert result.measurements["images_per_s_b500"] == pytest.approx(500_000 / result.measurements["latency_ms_b500"])


def test_a_model_alone_is_measured_in_torch(models, tmp_path):
    result, _ = evaluate(tmp_path, latency_seconds=0.2, model=models["dense"])
    assert result.measurements["runtime"] == "torch"
    assert result.metrics["size_bytes"] == models["dense"].file("weights.safetensors").stat().st_size
    assert "neither_smaller_nor_faster" not in result.measurements
    assert "top1_drop" not in result.metrics


def test_a_model_alone_is_weighed_without_what_only_training_needs(models, tmp_path):
    """A bundle holds its masks, a byte for each weight: they would make a sparse model 1.2 times as large as the dense one."""
    result, _ = evaluate(tmp_path, model=models["masked"], baseline=models["dense"])
    assert models["masked"].file("weights.safetensors").stat().st_size > 1.1 * result.metrics["size_bytes"]
    assert result.metrics["size_ratio"] == 1.0


def test_what_an_earlier_stage_left_in_the_process_does_not_matter(models, tmp_path, monkeypatch):
    """Workers are reused: a number format or a mode that a stage before this one set must change neither result nor speed."""
    modes = []

    def note(model, batch):
        modes.append((torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()))
        return classifier_run_plain(model, batch)

    classifier_run_plain = classifier._run_plain
    monkeypatch.setattr(classifier, "_run_plain", note)
    _, fresh = evaluate(tmp_path / "fresh", model=models["dense"])
    precision, deterministic = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_float32_matmul_precision("medium")
        torch.use_deterministic_algorithms(True)
        _, reused = evaluate(tmp_path / "reused", model=models["dense"], latency_seconds=0.05)
        assert torch.get_default_dtype() == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
    assert reused.file("evaluation.json").read_bytes() == fresh.file("evaluation.json").read_bytes()
    assert set(modes) == {(False, "highest")}


def test_a_model_beside_itself_is_not_worse(models, tmp_path):
    result, _ = evaluate(tmp_path, model=models["dense"], baseline=models["dense"])
    assert result.metrics["top1_drop"] == 0
    assert result.metrics["top1_drop_low"] == -result.metrics["top1_drop_high"] < 0


def test_a_packed_file_is_weighed_against_the_plain_dense_one(models, tmp_path):
    packing.run(context_in(tmp_path / "packed", PackedSettings(), model=models["masked"]))
    packed = artifact_of(tmp_path / "packed" / "output", "packed")
    inputs = {"model": models["masked"], "baseline": models["dense"]}
    result, made = evaluate(tmp_path / "run", packed=packed, **inputs)
    alone, _ = evaluate(tmp_path / "alone", **inputs)
    assert result.metrics["size_bytes"] == packed.file("packed.safetensors").stat().st_size
    assert result.metrics["size_ratio"] == result.metrics["size_bytes"] / alone.metrics["size_bytes"] < 0.6
    assert {**result.metrics, "size_bytes": 0, "size_ratio": 0} == {**alone.metrics, "size_bytes": 0, "size_ratio": 0}
    assert json.loads(made.file("evaluation.json").read_text())["size_of"] == "packed"
    with pytest.raises(ValueError, match="a model with other weights; connect the packed file of this model"):
        evaluate(tmp_path / "other", model=models["dense"], packed=packed)
    with pytest.raises(ValueError, match="one evaluation is of one file"):
        evaluate(tmp_path / "both", packed=packed, exported=models["masked_onnx"], **inputs)


def test_the_export_of_another_model_is_refused(models, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    for name, path in models["dense_onnx"].files.items():
        (folder / name).write_bytes(path.read_bytes())
    text = (folder / "export.json").read_text()
    (folder / "export.json").write_text(text.replace('"9"', '"9",\n"10"'))
    with pytest.raises(ValueError, match="of 11 classes, the model"):
        evaluate(tmp_path / "run", model=models["dense"], exported=artifact_of(folder, "exported"))


def test_the_export_of_a_model_with_other_weights_is_refused(models, tmp_path):
    """Same shape, same classes: nothing but the digest tells them apart, and the report would mix two models."""
    with pytest.raises(ValueError, match="a model with other weights; connect the export of this model"):
        evaluate(tmp_path, model=models["dense"], exported=models["masked_onnx"], baseline=models["dense"])


def test_an_export_that_names_no_source_is_refused(models, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    for name, path in models["dense_onnx"].files.items():
        (folder / name).write_bytes(path.read_bytes())
    description = json.loads((folder / "export.json").read_text())
    del description["source_digest"]
    (folder / "export.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"does not say which model was exported .*export the model again"):
        evaluate(tmp_path / "run", model=models["dense"], exported=artifact_of(folder, "exported"))


def test_a_file_that_takes_one_image_is_fed_one_by_one(models, tmp_path):
    export.run(context_in(tmp_path / "export", ONNXSettings(dynamic_batch=False), model=models["masked"]))
    exported = artifact_of(tmp_path / "export" / "output", "exported")
    inputs = {"model": models["masked"], "exported": exported, "baseline": models["dense"]}
    result, _ = evaluate(tmp_path / "run", latency_seconds=0.1, **inputs)
    assert result.metrics["exported_agreement"] == 1
    assert result.measurements["latency_ms_b16"] > result.measurements["latency_ms_b1"]


class TestCompare:
    @pytest.fixture
    def table(self, full, models, tmp_path):
        _, dense = evaluate(tmp_path / "dense", label="dense", model=models["dense"], exported=models["dense_onnx"])
        context = context_in(tmp_path / "table", CompareSettings(title="Digits"), results=[dense, full[1]])
        return compare.run(context), tmp_path / "table" / "output"

    def test_there_is_one_row_per_evaluation_in_the_given_order(self, table):
        result, folder = table
        written = json.loads((folder / "table.json").read_text())
        assert [row["label"] for row in written["rows"]] == ["dense", "2:4"]
        assert result.metrics["num_rows"] == 2
        assert result.metrics["best_label"] in ("dense", "2:4")
        best = max(row["metrics"]["top1_accuracy"] for row in written["rows"])
        assert result.metrics["best_top1_accuracy"] == best

    def test_the_markdown_names_the_best_and_claims_no_speed(self, table):
        _, folder = table
        text = (folder / "table.md").read_text()
        assert text.startswith("# Digits\n\n| model | top-1, % |")
        assert "**14," in text
        assert "no speed" in text
        assert "latency" not in text

    def test_a_row_that_another_beats_everywhere_is_not_on_the_front(self, tmp_path):
        results = [self.fake(tmp_path / name, name, *values) for name, values in self.rows().items()]
        compare.run(context_in(tmp_path / "table", CompareSettings(), results=results))
        rows = json.loads((tmp_path / "table" / "output" / "table.json").read_text())["rows"]
        assert {row["label"]: row["on_front"] for row in rows} == {"accurate": True, "small": True, "beaten": False}

    def test_evaluations_of_different_data_are_refused(self, tmp_path):
        results = [self.fake(tmp_path / "a", "a", 0.9, 10), self.fake(tmp_path / "b", "b", 0.9, 10, data="other:1")]
        with pytest.raises(ValueError, match="different data, digits:1, other:1"):
            compare.run(context_in(tmp_path / "table", CompareSettings(), results=results))

    def test_sizes_of_different_formats_decide_nothing(self, tmp_path):
        """A safetensors file smaller than an ONNX file is no smaller model."""
        rows = [
            self.fake(tmp_path / "file", "file", 0.95, 100),
            self.fake(tmp_path / "bundle", "bundle", 0.95, 50, size_of="safetensors"),
        ]
        compare.run(context_in(tmp_path / "table", CompareSettings(), results=rows))
        folder = tmp_path / "table" / "output"
        table, text = json.loads((folder / "table.json").read_text()), (folder / "table.md").read_text()
        assert [row["on_front"] for row in table["rows"]] == [True, True]
        assert "size_bytes" not in table["best"]
        assert "stored, bytes" in text
        assert "| 50 |" in text
        assert "**50**" not in text
        assert "none is bold" in text

    def test_it_loads_no_tensor_library(self):
        code = "import sys, stages.evaluate.compare; sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])

    @staticmethod
    def rows():
        return {"accurate": (0.99, 100), "small": (0.95, 50), "beaten": (0.94, 60)}

    @staticmethod
    def fake(folder, label, accuracy, size, data="digits:1", size_of="onnx"):
        folder.mkdir()
        metrics = {"top1_accuracy": accuracy, "size_bytes": size, "gmacs": 1.0, "num_nonzero_parameters": 5}
        evaluation = {"metrics": metrics, "data": data, "architecture": "x", "transforms": [], "size_of": size_of}
        (folder / "evaluation.json").write_text(json.dumps(evaluation))
        return artifact_of(folder, "evaluation", label=label)
