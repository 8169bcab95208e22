"""`export.onnx`: the file is checked, not the promise; its bytes repeat; it tells nothing of the machine."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from stages.contract import Artifact, StageContext, local_context
from stages.data.base import load_dataset
from stages.data.settings import DigitsData
from stages.export import onnx as export
from stages.export.settings import STAGES, ONNXSettings
from stages.models.bundle import build_bundle, load_bundle, save_bundle
from stages.models.measures import model_digest
from stages.models.nm_mask import apply_masks
from stages.models.zoo import find_architecture
from stages.ops.nm import magnitude_mask
from stages.ops.onnx_file import open_session, run_session, stored_arrays
from stages.ops.pattern import NMPattern
from stages.quantize import lts, qat
from stages.quantize.settings import LTSSettings, QATSettings
from tests.stages.stage_calls import saved

PATTERN = NMPattern(2, 4)
LAYERS = {
    "vit_micro": ("blocks.0.attn.qkv", "blocks.1.attn.proj", "blocks.3.mlp.fc2"),
    "cnn_micro": ("blocks.1.0", "blocks.2.0"),
}


def make_model(name: str, folder: Path, *, masked: bool = True) -> Artifact:
    data = load_dataset(DigitsData())
    architecture = find_architecture(name, {}, input_spec=data.input_spec, class_names=data.class_names)
    bundle = build_bundle(architecture, seed=0)
    torch.manual_seed(0)
    for parameter in bundle.model.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))  # the new head is all zero: any two files would agree
    for module in bundle.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    if masked:
        masks = {layer: magnitude_mask(bundle.model.get_submodule(layer).weight, pattern=PATTERN) for layer in LAYERS[name]}
        bundle = apply_masks(bundle, masks, pattern=PATTERN)
    return saved(bundle, folder)


def context_in(folder: Path, model: Artifact, **settings) -> StageContext:
    return replace(local_context(ONNXSettings(**settings), folder=folder, inputs={"model": model}), num_threads=1)


@pytest.fixture(scope="module", params=["vit_micro", "cnn_micro"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model = make_model(request.param, folder / "model")
    return request.param, model, export.run(context_in(folder, model, data="digits")), folder / "output"


def test_every_declared_metric_is_reported_and_the_file_agrees(exported):
    _, _, result, folder = exported
    assert set(STAGES[0].metrics) == set(result.metrics)
    assert result.metrics["max_abs_difference"] < 1e-4
    assert result.metrics["size_bytes"] == (folder / "model.onnx").stat().st_size
    assert not result.measurements


def test_every_masked_layer_is_checked_on_the_file(exported):
    name, model, result, folder = exported
    description = json.loads((folder / "export.json").read_text())
    assert [layer["layer"] for layer in description["sparse_layers"]] == list(LAYERS[name])
    weights = [load_bundle(model).model.get_submodule(layer).weight for layer in LAYERS[name]]
    assert result.metrics["num_nm_blocks"] == sum(weight.numel() // 4 for weight in weights)
    assert result.metrics["num_violating_blocks"] == 0


@pytest.mark.parametrize("exported", ["cnn_micro"], indirect=True)
def test_normalization_is_stated(exported):
    _, model, _, folder = exported
    stated = json.loads((folder / "export.json").read_text())["input"]["normalization"]
    spec = load_bundle(model).architecture.input_spec
    assert stated == {
        "inside": False,
        "formula": "(value - mean) / std",
        "pixel_range": [0, 1],
        "mean": list(spec.mean),
        "std": list(spec.std),
    }


@pytest.mark.parametrize("exported", ["cnn_micro"], indirect=True)
@pytest.mark.parametrize("file", ["model.json", "weights.safetensors"])
def test_the_description_names_the_weights_and_the_architecture_that_were_exported(exported, file, tmp_path):
    _, model, _, folder = exported
    stated = json.loads((folder / "export.json").read_text())["source_digest"]
    assert stated == model_digest(model)
    (tmp_path / file).write_bytes(model.file(file).read_bytes() + b" ")
    assert stated != model_digest(replace(model, files={**model.files, file: tmp_path / file}))


@pytest.mark.parametrize("exported", ["cnn_micro"], indirect=True)
def test_the_masks_cost_no_bytes(exported, tmp_path):
    """A mask left in the file would make the sparse file larger than the dense one."""
    name, _, result, _ = exported
    dense = export.run(context_in(tmp_path, make_model(name, tmp_path / "dense", masked=False)))
    assert result.metrics["size_bytes"] == dense.metrics["size_bytes"]


@pytest.mark.parametrize("exported", ["vit_micro"], indirect=True)
def test_another_process_in_another_folder_writes_the_same_bytes(exported, tmp_path):
    name, _, _, folder = exported
    code = (
        "from pathlib import Path\n"
        "from tests.stages.export.test_export_onnx import context_in, export, make_model\n"
        f"folder = Path({str(tmp_path)!r})\n"
        f"export.run(context_in(folder, make_model({name!r}, folder / 'model'), data='digits'))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
    for file in ("model.onnx", "export.json"):
        assert (tmp_path / "output" / file).read_bytes() == (folder / file).read_bytes()


def test_the_files_name_no_path_of_the_machine(exported):
    _, _, _, folder = exported
    for path in folder.iterdir():
        content = path.read_bytes()
        for text in (str(folder), str(Path(__file__).parents[3]), str(Path.home()), "site-packages", ".py"):
            assert text.encode() not in content


@pytest.mark.parametrize("exported", ["cnn_micro"], indirect=True)
def test_a_wrong_weight_in_the_file_fails_the_export(exported, tmp_path, monkeypatch):
    """The check reads the file: a writer that loses a weight must not pass."""
    _, model, _, _ = exported
    real = export.write_onnx

    def broken(*args, path, **kwargs):
        real(*args, path=path, **kwargs)
        proto = onnx.load(path)
        tensor = max(proto.graph.initializer, key=lambda part: len(part.raw_data))
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[::-1].copy(), tensor.name))
        path.write_bytes(proto.SerializeToString())

    monkeypatch.setattr(export, "write_onnx", broken)
    with pytest.raises(RuntimeError, match="the file's logits differ from the model's"):
        export.run(context_in(tmp_path, model))
    monkeypatch.setattr(export, "compare_logits", lambda *args, **kwargs: {})
    with pytest.raises(RuntimeError, match=r"is not among the \d+ tensors"):
        export.run(context_in(tmp_path, model))


@pytest.mark.parametrize("exported", ["cnn_micro"], indirect=True)
def test_a_block_that_breaks_its_pattern_fails_the_export(exported, tmp_path, monkeypatch):
    """If folding forgot the masks, both models would agree and only the pattern on the file would tell."""
    _, model, _, _ = exported

    def unmasked(source):
        bundle = load_bundle(source)
        for layer in export.masked_layers(bundle.model).values():
            layer.mask.fill_(True)
        generator = torch.Generator().manual_seed(0)
        for name in export.masked_layers(bundle.model):
            bundle.model.get_submodule(name).parametrizations.weight.original.data.normal_(std=0.05, generator=generator)
        return bundle

    monkeypatch.setattr(export, "load_bundle", unmasked)
    with pytest.raises(RuntimeError, match=r"\d+ of \d+ blocks of blocks.* are not 2:4"):
        export.run(context_in(tmp_path, model))


def test_the_file_of_a_model_trained_by_lts_is_as_large_as_that_of_its_control(tmp_path):
    """Frozen masks or held values left in the file would make the method pay for what only training needs."""
    dense = make_model("cnn_micro", tmp_path / "dense", masked=False)
    chosen = {"data": "digits", "epochs": 2, "weight_bits": 2, "activation_bits": 4, "bounds_init": "least_squares"}
    methods = {
        "lts": (lts.run, LTSSettings(**chosen, distance_momentum=0.9, freeze_warmup=0.0)),
        "qat": (qat.run, QATSettings(**chosen)),
    }
    sizes, tensors, results = {}, {}, {}
    for name, (run, settings) in methods.items():
        folder = tmp_path / name
        context = replace(local_context(settings, folder=folder / "trained", inputs={"model": dense}), num_threads=1)
        results[name] = run(context).metrics
        model = Artifact(kind="model", key="0" * 64, files={path.name: path for path in context.output.iterdir()})
        sizes[name] = export.run(context_in(folder, model)).metrics["size_bytes"]
        graph = onnx.load(folder / "output" / "model.onnx").graph
        tensors[name] = sorted((tensor.name, tuple(tensor.dims)) for tensor in graph.initializer)
    assert results["lts"]["frozen_fraction"] > 0.3
    assert results["lts"]["size_bytes"] > 1.2 * results["qat"]["size_bytes"]  # the bundle does hold what froze
    assert sizes["lts"] <= 1.02 * sizes["qat"]
    assert tensors["lts"] == tensors["qat"]


@pytest.mark.parametrize(("rows", "scale"), [(slice(3), 0.0), (slice(None), 0.0), (slice(None), 1e-42)])
def test_a_masked_layer_that_a_batch_norm_multiplies_by_zero_is_found_in_the_file(tmp_path, rows, scale):
    """The exporter folds the scale into the weight; weight decay and zero-initialised residual blocks leave such scales."""
    model = make_model("cnn_micro", tmp_path / "model")
    bundle = load_bundle(model)
    bundle.model.blocks[2][1].weight.data[rows] = scale
    save_bundle(bundle, tmp_path / "model")
    result = export.run(context_in(tmp_path, model))
    stored = stored_arrays(tmp_path / "output" / "model.onnx")
    assert abs(stored["blocks.2.0.weight"][rows]).max() < 1e-38  # as long as the exporter folds
    assert result.metrics["num_nm_blocks"] == sum(
        bundle.model.get_submodule(n).weight.numel() // 4 for n in LAYERS["cnn_micro"]
    )
    assert result.metrics["num_violating_blocks"] == 0


def test_a_fixed_batch_of_one_is_checked_too(tmp_path):
    model = make_model("cnn_micro", tmp_path / "model")
    export.run(context_in(tmp_path, model, dynamic_batch=False, verify_samples=3))
    session = open_session(tmp_path / "output" / "model.onnx", num_threads=1)
    assert run_session(session, torch.randn(1, 1, 8, 8)).shape == (1, 10)


def test_data_with_other_images_are_refused(tmp_path):
    model = make_model("cnn_micro", tmp_path / "model")
    with pytest.raises(ValueError, match="the model takes images"):
        export.run(context_in(tmp_path, model, data={"name": "synthetic", "height": 16, "width": 16}))
