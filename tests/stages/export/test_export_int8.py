"""`export.onnx_int8`: integers really run, zeros stay zeros, bytes repeat, and what cannot be done is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper

from stages.contract import Artifact, local_context
from stages.data.base import load_dataset
from stages.data.settings import DigitsData
from stages.evaluate import classifier
from stages.evaluate.settings import ClassifierSettings
from stages.export import int8 as export
from stages.export.quantized_onnx import count_operators, plan_quantization, stored_integers
from stages.export.settings import STAGES, INT8Settings
from stages.models.bundle import build_bundle, load_bundle, save_bundle
from stages.models.nm_mask import apply_masks
from stages.models.zoo import find_architecture
from stages.ops.nm import magnitude_mask, violating_blocks
from stages.ops.pattern import parse_pattern
from stages.sparsify.layers import select_layers
from stages.training.loop import train
from stages.training.settings import TrainingSettings


def artifact(folder: Path, kind: str = "model") -> Artifact:
    return Artifact(kind=kind, key="0" * 64, files={path.name: path for path in folder.iterdir()})


def context_in(folder: Path, model: Artifact, **settings):
    settings = INT8Settings(**{"data": "digits", "calibration_samples": 64, **settings})
    return replace(local_context(settings, folder=folder, inputs={"model": model}), num_threads=1)


def make_trained(name: str, folder: Path) -> Artifact:
    """A 2:4 masked model that knows its digits a little: agreement of untrained ones would be a lottery."""
    data = load_dataset(DigitsData())
    bundle = build_bundle(find_architecture(name, {}, input_spec=data.input_spec, class_names=data.class_names), seed=0)
    pattern = parse_pattern("2:4")
    masks = {
        layer: magnitude_mask(bundle.model.get_submodule(layer).weight, pattern=pattern)
        for layer in select_layers(bundle.model, pattern=pattern)
    }
    bundle = apply_masks(bundle, masks, pattern=pattern)
    settings = TrainingSettings(data="digits", epochs=2)
    train(bundle.model, data=data, settings=settings, context=replace(local_context(settings, folder=folder), num_threads=1))
    save_bundle(bundle, folder / "model")
    return artifact(folder / "model")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return {name: make_trained(name, tmp_path_factory.mktemp(name)) for name in ("cnn_micro", "vit_micro")}


@pytest.fixture(scope="module", params=["cnn_micro", "vit_micro"])
def exported(request, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    return request.param, export.run(context_in(folder, trained[request.param])), folder / "output"


EXPECTED = {
    # bytes of the float file: at most this share; integer operators; kinds
    "cnn_micro": (0.33, 3, ("static", "float")),
    "vit_micro": (0.40, 16, ("float", "dynamic")),
}


def test_the_file_is_small_and_runs_on_integers(exported, tmp_path):
    name, result, folder = exported
    ratio, operators, kinds = EXPECTED[name]
    assert set(next(spec for spec in STAGES if spec.name == "export.onnx_int8").metrics) == set(result.metrics)
    assert result.metrics["size_ratio"] <= ratio
    assert result.metrics["num_integer_operators"] >= operators
    assert (result.metrics["convolutions"], result.metrics["products"]) == kinds
    assert result.metrics["top1_agreement"] >= 0.97
    ran = count_operators(folder / "model.onnx", scratch=tmp_path)
    operator, count = ("QLinearConv", 3) if name == "cnn_micro" else ("DynamicQuantizeMatMul", 17)
    assert ran[operator] == count, ran


def test_zeros_of_masked_layers_are_zeros_in_the_file(exported):
    name, result, folder = exported
    integers = stored_integers(folder / "model.onnx", source=folder.parent / "scratch" / "float.onnx")
    layers = 2 if name == "cnn_micro" else 16
    assert result.metrics["num_masked_layers_in_integers"] == layers
    if name == "cnn_micro":
        weights = [torch.from_numpy(array.copy()) for array in integers.values() if array.shape[1] > 1]
        assert [violating_blocks(weight, pattern=parse_pattern("2:4")) for weight in weights] == [0, 0]


def test_a_masked_layer_with_a_row_that_a_batch_norm_multiplies_by_zero_is_checked_too(trained, tmp_path):
    bundle = load_bundle(trained["cnn_micro"])
    bundle.model.blocks[2][1].weight.data[:3] = 0
    save_bundle(bundle, tmp_path / "model")
    result = export.run(context_in(tmp_path, artifact(tmp_path / "model"), min_agreement=0))
    assert result.metrics["num_masked_layers_in_integers"] == 2


@pytest.mark.parametrize("exported", ["cnn_micro"], indirect=True)
def test_evaluate_takes_the_integer_file_where_it_takes_an_onnx_file(exported, trained, tmp_path):
    name, result, folder = exported
    settings = ClassifierSettings(data="digits", batch_sizes=(1, 8), latency_seconds=0.1)
    inputs = {"model": trained[name], "baseline": trained[name], "exported": artifact(folder, "exported")}
    measured = classifier.run(replace(local_context(settings, folder=tmp_path, inputs=inputs), num_threads=1))
    assert measured.metrics["exported_agreement"] == pytest.approx(result.metrics["top1_agreement"])
    assert measured.metrics["size_ratio"] == pytest.approx(result.metrics["size_ratio"])
    assert measured.measurements["runtime"] == "onnxruntime"


@pytest.mark.parametrize("exported", ["vit_micro"], indirect=True)
def test_the_same_model_gives_the_same_bytes(exported, trained, tmp_path):
    name, _, folder = exported
    export.run(context_in(tmp_path, trained[name]))
    for file in ("model.onnx", "export.json"):
        assert (tmp_path / "output" / file).read_bytes() == (folder / file).read_bytes()


def test_the_file_names_no_path_of_the_machine(exported):
    _, _, folder = exported
    for path in folder.iterdir():
        for text in (str(folder), str(Path.home()), "site-packages", ".py"):
            assert text.encode() not in path.read_bytes()


@pytest.mark.parametrize(("name", "mode"), [("cnn_micro", "static"), ("cnn_micro", "dynamic"), ("vit_micro", "static")])
def test_both_kinds_of_scales_can_be_asked_for(name, mode, trained, tmp_path):
    result = export.run(context_in(tmp_path, trained[name], mode=mode))
    assert (result.metrics["convolutions"], result.metrics["products"]) == (mode, mode)
    ran = json.loads((tmp_path / "output" / "export.json").read_text())["quantization"]["operators"]
    assert ("ConvInteger" in ran) == (mode == "dynamic")
    assert ("QLinearConv" in ran) == (mode == "static")


def test_four_bits_for_linear_layers_keep_zeros_too(trained, tmp_path):
    result = export.run(context_in(tmp_path, trained["vit_micro"], weight_bits=4, min_agreement=0.5))
    assert result.metrics["products"] == "int4"
    assert result.metrics["num_integer_weights"] == result.metrics["num_masked_layers_in_integers"] == 16
    assert result.metrics["size_ratio"] < 0.25


def test_four_bits_are_refused_where_no_operator_has_them(trained, tmp_path):
    with pytest.raises(ValueError, match=r"weight_bits 4: the model's weights are those of convolutions.*use weight_bits 8"):
        export.run(context_in(tmp_path, trained["cnn_micro"], weight_bits=4))
    with pytest.raises(ValueError, match="weight_bits 4 with mode static"):
        INT8Settings(data="digits", weight_bits=4, mode="static")


def test_a_model_without_weights_to_round_is_refused(tmp_path):
    node = onnx.helper.make_node("Relu", ["images"], ["logits"])
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in ("images", "logits")]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:])), tmp_path / "relu.onnx")
    with pytest.raises(ValueError, match="no convolution and no matrix product with constant weights"):
        plan_quantization(tmp_path / "relu.onnx", mode="auto", weight_bits=8)


def break_file(path: Path) -> None:
    proto = onnx.load(path)
    tensor = max((part for part in proto.graph.initializer if part.name.endswith("_quantized")), key=lambda t: len(t.raw_data))
    array = numpy_helper.to_array(tensor).copy()
    array[array == 0] = 1
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    path.write_bytes(proto.SerializeToString())


def test_a_zero_lost_in_the_file_fails_the_export(trained, tmp_path, monkeypatch):
    real = export.write_quantized

    def broken(source, target, **arguments):
        real(source, target, **arguments)
        break_file(target)

    monkeypatch.setattr(export, "write_quantized", broken)
    with pytest.raises(RuntimeError, match=r"weights of blocks.* outside of its mask are not 0 in the file"):
        export.run(context_in(tmp_path, trained["cnn_micro"], min_agreement=0))


def test_a_file_that_classifies_otherwise_or_in_floats_fails_the_export(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "run_session", lambda *_args: torch.randn(len(_args[1]), 10))
    with pytest.raises(RuntimeError, match=r"test images as the model does; at least 90\.0% is asked for"):
        export.run(context_in(tmp_path / "a", trained["cnn_micro"]))
    monkeypatch.setattr(export, "write_quantized", lambda source, target, **_: target.write_bytes(source.read_bytes()))
    with pytest.raises(RuntimeError, match="no operator of the file multiplies integers"):
        export.run(context_in(tmp_path / "b", trained["cnn_micro"]))


def test_a_fixed_batch_of_one_is_calibrated_and_checked_too(trained, tmp_path):
    export.run(context_in(tmp_path, trained["cnn_micro"], dynamic_batch=False, calibration_samples=8, verify_samples=8))
