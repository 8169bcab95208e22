"""The `quantize` stages as a user runs them, with masks, later fine-tuning and export; and structure on published networks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from stages.contract import Artifact, Cancelled
from stages.data.base import load_dataset
from stages.data.settings import DigitsData
from stages.export import onnx as export
from stages.export.settings import ONNXSettings
from stages.finetune.settings import FinetuneSettings
from stages.finetune.training import finetune_classifier
from stages.models.bundle import ModelBundle, apply_transform, build_bundle, fold_bundle, load_bundle
from stages.models.fake_quant import float_weight, layer_bits, quantized_layers, weight_quantizer
from stages.models.measures import measure_model
from stages.models.nm_mask import apply_masks, masked_layers
from stages.models.zoo import find_architecture
from stages.ops.nm import magnitude_mask
from stages.ops.onnx_file import find_weight, open_session, run_session, stored_arrays
from stages.ops.pattern import NMPattern
from stages.quantize import lts, qat
from stages.quantize.layers import attach_quantizers, bound_parameters, choose_layers, followed_by_batch_norm
from stages.quantize.settings import STAGES, LTSSettings, QATSettings
from stages.training.loop import train
from stages.training.settings import TrainingSettings
from tests.stages.stage_calls import artifact_of, context_in, saved

PATTERN = NMPattern(2, 4)
BITS = {"weight_bits": 2, "activation_bits": 4}


def bundle_of(name: str, *, size: int = 8, channels: int = 1, arguments=None) -> ModelBundle:
    spec = load_dataset(DigitsData()).input_spec
    if size != 8:
        spec = spec.model_copy(
            update={"channels": channels, "height": size, "width": size, "mean": (0.5,) * channels, "std": (0.5,) * channels}
        )
    names = tuple("0123456789")
    return build_bundle(find_architecture(name, arguments or {}, input_spec=spec, class_names=names), seed=0)


def trained(name: str, folder: Path) -> ModelBundle:
    bundle, settings = bundle_of(name), TrainingSettings(data="digits", epochs=3)
    train(bundle.model, data=load_dataset(settings.data), settings=settings, context=context_in(folder / "run", settings))
    return bundle


@pytest.fixture(scope="module")
def dense_cnn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    return saved(trained("cnn_micro", folder), folder / "model")


@pytest.fixture(scope="module")
def masked_cnn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked")
    bundle = trained("cnn_micro", folder)
    masks = {n: magnitude_mask(bundle.model.get_submodule(n).weight, pattern=PATTERN) for n in ("blocks.1.0", "blocks.2.0")}
    return saved(apply_masks(bundle, masks, pattern=PATTERN), folder / "model")


LTS = LTSSettings(data="digits", epochs=4, bound_learning_rate=1e-3, distance_momentum=0.9, bounds_init="least_squares", **BITS)


@pytest.fixture(scope="module")
def lts_run(masked_cnn, tmp_path_factory):
    """LTS on a model with 2:4 masks."""
    folder = tmp_path_factory.mktemp("lts")
    return lts.run(context_in(folder, LTS, model=masked_cnn)), folder / "output"


def test_lts_freezes_most_weights_and_keeps_accuracy(lts_run):
    result, folder = lts_run
    metrics = result.metrics
    assert metrics["top1_accuracy"] > 0.9
    assert metrics["frozen_weights_fraction"] > 0.6
    assert 0.2 < metrics["mean_frozen_fraction"] < metrics["frozen_fraction"]
    assert metrics["backward_cost_saved_accounted"] == metrics["mean_frozen_fraction"] / 2
    assert 0 <= metrics["backward_cost_skipped"] <= 0.5
    assert (metrics["num_normalized_layers"], metrics["num_dequantized_layers"]) == (3, 1)
    assert metrics["levels_valid"] is True
    assert metrics["max_levels"] <= 4
    assert "backward_cost_saved_measured" in result.measurements
    assert "backward_cost_saved_measured" not in metrics
    history = [line["frozen_fraction"] for line in json.loads((folder / "history.json").read_text())]
    assert history == sorted(history)
    assert history[-1] == metrics["frozen_fraction"]


def test_the_bundle_says_which_form_and_how_many_bits_each_layer_has(lts_run):
    _, folder = lts_run
    transform = next(t for t in json.loads((folder / "model.json").read_text())["transforms"] if t["name"] == "fake_quant")
    assert transform["settings"]["layers"]["head"] == {"weight_bits": 2, "activation_bits": 4, "form": "dequantized"}
    assert transform["settings"]["layers"]["blocks.1.0"]["form"] == "normalized"


def test_masked_weights_stay_exactly_zero_and_are_never_counted_as_frozen(lts_run):
    """A grid with an even number of levels has none at 0: rounding alone would bring every removed weight back."""
    _, folder = lts_run
    bundle = load_bundle(folder)
    plain = fold_bundle(bundle)
    assert len(masked_layers(bundle.model)) == 2
    for name, fixed in masked_layers(bundle.model).items():
        layer = bundle.model.get_submodule(name)
        for weight in (layer.weight, plain.get_submodule(name).weight):
            assert not weight[~fixed.mask].any()
            assert weight[fixed.mask].all()
            assert len(weight[fixed.mask].unique()) <= 4
        quantizer = weight_quantizer(layer)
        assert not (quantizer.frozen & ~fixed.mask).any()
        assert quantizer.frozen.any()


def test_a_saved_quantized_model_comes_back_and_folds_to_the_same_outputs(lts_run):
    bundle, images = load_bundle(lts_run[1]), torch.randn(9, 1, 8, 8)
    expected = bundle.model(images)
    plain = fold_bundle(bundle)
    assert torch.equal(plain(images), expected)
    assert not quantized_layers(plain)
    assert quantized_layers(bundle.model)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in bundle_of("cnn_micro").model.parameters())


def test_lts_resumed_after_a_stop_ends_on_the_same_bits(lts_run, masked_cnn, tmp_path):
    """The stop falls after freezing began; counter, distances, frozen values and the bounds' Adam must all come back."""
    calls = iter(range(10_000))

    def stop():
        if next(calls) == 52:
            raise Cancelled

    context = replace(context_in(tmp_path, LTS, model=masked_cnn), check_cancelled=stop)
    with pytest.raises(Cancelled):
        lts.run(context)
    result = lts.run(context)
    assert result.metrics == lts_run[0].metrics
    assert (tmp_path / "output" / "weights.safetensors").read_bytes() == (lts_run[1] / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_later_fine_tuning_keeps_quantizers_masks_and_frozen_weights(optimizer, lts_run, tmp_path):
    """Momentum, decay and the average of weights must not reach what is frozen."""
    settings = FinetuneSettings(
        data="digits", epochs=1, ema_decay=0.9, optimizer=optimizer, weight_decay=0.5, learning_rate=0.01
    )
    finetune_classifier(context_in(tmp_path, settings, model=artifact_of(lts_run[1])))
    before, after = load_bundle(lts_run[1]).model, load_bundle(tmp_path / "output").model
    assert quantized_layers(after).keys() == quantized_layers(before).keys()
    changed = 0
    for name, layer in quantized_layers(before).items():
        frozen, other = weight_quantizer(layer).frozen, after.get_submodule(name)
        assert torch.equal(weight_quantizer(other).frozen, frozen)
        assert torch.equal(float_weight(other)[frozen], float_weight(layer)[frozen])
        changed += int((float_weight(other) != float_weight(layer)).sum())
    assert changed > 0
    for name, fixed in masked_layers(after).items():
        assert not after.get_submodule(name).weight[~fixed.mask].any()


def test_the_control_freezes_nothing_and_carries_no_room_for_it(dense_cnn, tmp_path):
    settings = QATSettings(data="digits", epochs=2, bound_learning_rate=1e-3, end_layers="8bit", ema_decay=0.9, **BITS)
    result = qat.run(context_in(tmp_path, settings, model=dense_cnn))
    assert result.metrics["top1_accuracy"] > 0.9
    assert set(STAGES[1].metrics) <= set(result.metrics)
    bundle = load_bundle(tmp_path / "output")
    assert not [name for name in bundle.model.state_dict() if "frozen" in name]
    assert layer_bits(bundle.model)["head"] == layer_bits(bundle.model)["blocks.0.0"] == (8, 8)
    assert layer_bits(bundle.model)["blocks.1.0"] == (2, 4)
    macs = {"blocks.0.0": 64 * 9 * 32, "blocks.1.0": 64 * 9 * 32 * 48, "blocks.2.0": 16 * 9 * 48 * 32, "head": 320}
    bits = {"blocks.0.0": 64, "blocks.1.0": 8, "blocks.2.0": 8, "head": 64}
    assert measure_model(bundle)["bops"] == sum(macs[name] * bits[name] for name in macs)


def exported(model: Artifact, folder: Path) -> tuple[ModelBundle, torch.Tensor, dict]:
    """Export with the stage and compare image by image: the largest difference of each, relative to the largest logit.

    A value within a rounding error of the middle between two levels may fall to either side in another runtime, so single
    images may differ by a level's worth, and the stage allows for that. All others agree to rounding.
    """
    metrics = export.run(context_in(folder, ONNXSettings(verify_samples=64), model=model)).metrics
    session = open_session(folder / "output" / "model.onnx", num_threads=1)
    images = next(iter(load_dataset(DigitsData()).test.batches(batch_size=64))).images
    bundle = load_bundle(model)
    with torch.no_grad():
        expected = bundle.model(images)
    difference = (run_session(session, images) - expected).abs().amax(1) / expected.abs().max()
    return bundle, difference, dict(metrics)


def test_an_exported_file_computes_what_the_quantized_bundle_does(lts_run, tmp_path):
    bundle, difference, metrics = exported(artifact_of(lts_run[1]), tmp_path)
    assert (difference < 1e-5).float().mean() > 0.9
    assert metrics["num_violating_blocks"] == 0
    assert metrics["num_nm_blocks"] > 0
    arrays = stored_arrays(tmp_path / "output" / "model.onnx")
    stored = find_weight(bundle.model.get_submodule("head").weight, arrays)
    assert stored is not None
    assert len(torch.from_numpy(stored.values.copy()).unique()) <= 4


def test_a_quantized_vision_transformer_is_exported_and_checked(tmp_path):
    bundle = bundle_of("vit_micro")
    torch.manual_seed(0)
    for parameter in bundle.model.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    images = next(iter(load_dataset(DigitsData()).train.batches(batch_size=64))).images
    layers = choose_layers(bundle.model, images[:2], weight_bits=4, activation_bits=4)
    bundle = attach_quantizers(bundle, images, layers=layers, freezes=False)
    assert {chosen["form"] for chosen in layers.values()} == {"dequantized"}
    _, difference, _ = exported(saved(bundle, tmp_path / "model"), tmp_path)
    assert (difference < 1e-5).float().mean() > 0.9


class TestStructure:
    """Random weights: attach, one step, fold."""

    @pytest.mark.parametrize(
        ("name", "size", "num_normed", "num_others"),
        [("resnet18", 32, 20, 1), ("mobilenetv2_100", 32, 52, 1), ("deit_tiny_patch16_224", 32, 0, 50)],
    )
    def test_published_networks_are_quantized_trained_a_step_and_folded(self, name, size, num_normed, num_others):
        bundle, images = bundle_of(name, size=size, channels=3), torch.randn(4, 3, size, size)
        bundle = attach_quantizers(bundle, images, layers=choose_layers(bundle.model, images[:1], **BITS), freezes=True)
        model = bundle.model.train()
        forms = [weight_quantizer(layer).form for layer in quantized_layers(model).values()]
        assert (forms.count("normalized"), forms.count("dequantized")) == (num_normed, num_others)
        freezing = lts.Freezing(model, total_steps=4, warmup_steps=0, skip_frozen="rows")
        bounds = bound_parameters(model)
        weights = [p for name, p in model.named_parameters() if not name.endswith((".lower", ".upper"))]
        assert len(weights) + len(bounds) == len(list(model.parameters()))
        optimizers = torch.optim.SGD(weights, lr=1e-3), torch.optim.Adam(bounds.values(), lr=1e-4)
        for step in range(3):
            freezing.before_step(step)
            nn.functional.cross_entropy(model(images), torch.arange(4)).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        assert freezing.num_frozen > 0
        plain = fold_bundle(bundle)
        with torch.no_grad():
            assert torch.equal(plain(images), model.eval()(images))
        assert all(len(plain.get_submodule(name).weight.unique()) <= 4 for name in quantized_layers(model))

    def test_a_layer_whose_output_is_also_used_elsewhere_keeps_its_scale(self):
        class Branching(nn.Module):
            def __init__(self):
                super().__init__()
                self.shared, self.normed = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 1)
                self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
                self.linear, self.last = nn.Linear(4, 4), nn.BatchNorm1d(4)

            def forward(self, images):
                value = self.shared(images)
                features = self.first(value) + value + self.second(self.normed(images))
                return self.last(self.linear(features.mean((2, 3))))

        normed, ran = followed_by_batch_norm(Branching(), torch.randn(2, 1, 3, 3))
        assert normed == {"normed", "linear"}
        assert ran == ("shared", "normed", "linear")


class TestRefusals:
    @pytest.mark.parametrize("bits", [1, 5, 17])
    @pytest.mark.parametrize("field", ["weight_bits", "activation_bits", "layer_bits"])
    def test_other_bits_are_refused_with_the_legal_ones(self, field, bits):
        value = {"head": bits} if field == "layer_bits" else bits
        with pytest.raises(ValueError, match="2, 3, 4 or 8"):
            LTSSettings(data="digits", **{field: value})

    def test_a_bundle_with_other_bits_is_refused(self):
        layers = {"head": {"weight_bits": 17, "activation_bits": 2, "form": "normalized"}}
        with pytest.raises(ValueError, match="head: weight_bits is 17; expected one of 2, 3, 4, 8"):
            apply_transform(bundle_of("cnn_micro"), "fake_quant", {"layers": layers, "freezes": False})

    def test_layer_patterns_set_bits_leave_layers_out_and_must_match(self):
        model, images = bundle_of("vit_micro").model, torch.randn(2, 1, 8, 8)
        chosen = choose_layers(
            model, images, layer_bits={"*.mlp.*": 4, "blocks.0.mlp.fc1": 8}, unquantized_layers=("head",), **BITS
        )
        assert "head" not in chosen
        assert chosen["blocks.0.mlp.fc1"]["weight_bits"] == 8
        assert chosen["blocks.0.mlp.fc2"]["activation_bits"] == 4
        assert chosen["blocks.0.attn.qkv"]["weight_bits"] == 2
        ends = choose_layers(model, images, end_layers="float", **BITS)
        assert not {"head", "patch_embed.proj"} & ends.keys()
        with pytest.raises(ValueError, match=r"'block\.0' matches no layer; layers: patch_embed\.proj"):
            choose_layers(model, images, layer_bits={"block.0": 4}, **BITS)

    def test_layers_without_a_quantizer_are_refused_by_name(self):
        class Standardised(nn.Conv2d):
            def forward(self, images):
                return self._conv_forward(images, self.weight - self.weight.mean(), self.bias)

        images = torch.randn(2, 1, 6, 6)
        with pytest.raises(ValueError, match="0 is a Standardised, which changes its weight before use"):
            choose_layers(nn.Sequential(Standardised(1, 4, 3)), images, **BITS)
        with pytest.raises(ValueError, match="0 is a ConvTranspose2d; supported: Linear, Conv2d"):
            choose_layers(nn.Sequential(nn.ConvTranspose2d(1, 4, 3), nn.Conv2d(4, 4, 3)), images, **BITS)
        unused = nn.Sequential(nn.Conv2d(1, 4, 3))
        unused.extra = nn.Identity()
        unused.extra.layer = nn.Linear(3, 3)
        with pytest.raises(ValueError, match=r"extra\.layer did not run"):
            choose_layers(unused, images, **BITS)
        with pytest.raises(ValueError, match="no layer is left to quantize"):
            choose_layers(nn.Sequential(nn.Conv2d(1, 4, 3)), images, unquantized_layers=("*",), **BITS)

    def test_a_model_that_is_quantized_already_is_refused(self, lts_run, tmp_path):
        with pytest.raises(ValueError, match="fake_quant"):
            lts.run(context_in(tmp_path, LTS, model=artifact_of(lts_run[1])))

    def test_a_warm_up_that_leaves_no_time_to_freeze_is_refused_before_training(self):
        with pytest.raises(ValueError, match="leaves less than one epoch"):
            LTSSettings(data="digits", epochs=10, freeze_warmup=0.95)

    def test_a_fixed_rate_without_its_mode_is_refused(self):
        with pytest.raises(ValueError, match="set threshold_mode: fixing"):
            LTSSettings(data="digits", fixed_rate=0.2)
        assert LTSSettings(data="digits", fixed_rate=0.2, threshold_mode="fixing").fixed_rate == 0.2
