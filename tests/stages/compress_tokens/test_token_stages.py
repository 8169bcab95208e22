"""The `compress_tokens` stages as a user runs them, the transform they leave, and the files made of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import timm
import torch
from torch import nn

from stages.catalog import load_implementation
from stages.compress_tokens.settings import (
    STAGES,
    DiffRateSettings,
    EViTSettings,
    ScheduleSettings,
    ToMeSettings,
    UniformSettings,
)
from stages.contract import Cancelled
from stages.data.base import load_dataset
from stages.data.settings import DigitsData
from stages.export import onnx as export_onnx
from stages.export.settings import ONNXSettings
from stages.finetune.settings import FinetuneSettings
from stages.finetune.training import finetune_classifier
from stages.models.bundle import ModelBundle, build_bundle, fold_bundle, load_bundle
from stages.models.nm_mask import apply_masks, masked_layers
from stages.models.token_reduction import apply_bipartite, apply_schedule, kept_tokens, refuse_model, vit_shape
from stages.models.zoo import find_architecture
from stages.ops.counting import count_compute
from stages.ops.nm import magnitude_mask
from stages.ops.onnx_file import open_session, run_session, write_onnx
from stages.ops.pattern import NMPattern
from stages.ops.token_budget import PUBLISHED_SCHEDULES, TokenSchedule
from tests.stages.stage_calls import artifact_of, context_in, saved

SPECS = {spec.name.partition(".")[2]: spec for spec in STAGES}
SCHEDULE = TokenSchedule(prune=(17, 15, 12, 9), merge=(17, 13, 8, 4))


def run(method: str, folder: Path, settings, **inputs):
    return load_implementation(SPECS[method])(context_in(folder, settings, **inputs))


def digits_bundle(name="vit_micro", arguments=None) -> ModelBundle:
    data = load_dataset(DigitsData())
    architecture = find_architecture(name, arguments or {}, input_spec=data.input_spec, class_names=data.class_names)
    bundle = build_bundle(architecture, seed=0)
    torch.manual_seed(1)
    nn.init.normal_(bundle.model.head.weight, std=0.1)  # it starts at 0, which would make all logits alike
    bundle.model.eval()
    return bundle


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return saved(digits_bundle(), tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module")
def searched(dense, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    settings = DiffRateSettings(data="digits", gmacs_ratio=0.65, granularity=1, epochs=4, learning_rate=0.1, budget_weight=1000)
    return run("diffrate", folder, settings, model=dense), folder / "output"


def weights(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


def test_the_search_meets_the_budget_and_leaves_the_weights_to_the_bit(searched, dense):
    result, folder = searched
    assert abs(result.metrics["budget_error"]) < 0.04, "one token of 17 in one block costs 2.3 % of this budget"
    assert weights(folder) == dense.files["weights.safetensors"].read_bytes()
    assert set(SPECS["diffrate"].metrics) <= set(result.metrics)
    assert result.metrics["kept_tokens"][0] == 17


def test_the_history_shows_the_rates(searched):
    lines = json.loads((searched[1] / "history.json").read_text())
    assert len(lines) == 4
    assert {"gmacs_ratio", "kept_tokens.3", "prune_expected.1", "merge_expected.3", "top1_accuracy"} <= lines[0].keys()
    assert lines[-1]["kept_tokens.3"] == searched[0].metrics["kept_tokens"][3]


def test_the_bundle_has_the_accuracy_that_the_search_saw(searched):
    lines = json.loads((searched[1] / "history.json").read_text())
    assert searched[0].metrics["top1_accuracy"] == lines[-1]["top1_accuracy"]


def test_a_search_resumed_after_a_stop_ends_on_the_same_schedule(searched, dense, tmp_path):
    calls = iter(range(10_000))

    def stop():
        if next(calls) == 33:
            raise Cancelled

    settings = DiffRateSettings(data="digits", gmacs_ratio=0.65, granularity=1, epochs=4, learning_rate=0.1, budget_weight=1000)
    context = replace(context_in(tmp_path, settings, model=dense), check_cancelled=stop)
    stage = load_implementation(SPECS["diffrate"])
    with pytest.raises(Cancelled):
        stage(context)
    assert stage(context).metrics == searched[0].metrics
    assert (tmp_path / "output" / "model.json").read_text() == (searched[1] / "model.json").read_text()


@pytest.mark.parametrize(
    ("method", "settings", "kept"),
    [
        ("tome", ToMeSettings(data="digits", merged=3), [14, 11, 8, 5]),
        ("tome", ToMeSettings(data="digits", merged=(0, 1, 2, 20)), [17, 16, 14, 8]),
        ("tome", ToMeSettings(data="digits", gmacs_ratio=0.65), [14, 11, 8, 5]),
        ("evit", EViTSettings(data="digits", keep_rate=0.7), [17, 13, 10, 8]),
        ("evit", EViTSettings(data="digits", keep_rate=0.5, blocks=(0, 2)), [9, 9, 5, 5]),
        ("uniform", UniformSettings(data="digits", keep_rate=0.5, operations="merge"), [17, 9, 5, 3]),
        ("uniform", UniformSettings(data="digits", gmacs_ratio=0.7), [17, 11, 8, 6]),
        ("schedule", ScheduleSettings(data="digits", prune=SCHEDULE.prune, merge=SCHEDULE.merge), [17, 13, 8, 4]),
    ],
)
def test_controls_keep_what_they_say(method, settings, kept, dense, tmp_path):
    metrics = run(method, tmp_path, settings, model=dense).metrics
    assert metrics["kept_tokens"] == kept
    before = [17, *kept]
    gone = [n + m for n, m in zip(metrics["num_pruned"], metrics["num_merged"], strict=True)]
    assert gone == [before[i] - before[i + 1] for i in range(4)]
    assert weights(tmp_path / "output") == dense.files["weights.safetensors"].read_bytes()
    if method == "tome":
        assert not any(metrics["num_pruned"])
    if method == "evit":
        assert not any(metrics["num_merged"])
    assert set(SPECS[method].metrics) <= set(metrics)


def test_a_schedule_goes_over_to_another_checkpoint(searched, tmp_path):
    other = digits_bundle()
    with torch.no_grad():
        other.model.head.bias.add_(1)
    artifact = saved(other, tmp_path / "other")
    settings = ScheduleSettings(data="digits")
    result = run("schedule", tmp_path, settings, model=artifact, schedule=artifact_of(searched[1]))
    assert result.metrics["kept_tokens"] == searched[0].metrics["kept_tokens"]
    with pytest.raises(ValueError, match="give one schedule"):
        run("schedule", tmp_path / "none", settings, model=artifact)
    with pytest.raises(ValueError, match="prune has 12 counts; the model has 4 blocks"):
        run("schedule", tmp_path / "long", ScheduleSettings(data="digits", published="deit_small_2.9"), model=artifact)


def test_fine_tuning_keeps_the_schedule(searched, tmp_path):
    context = context_in(tmp_path, FinetuneSettings(data="digits", epochs=1), model=artifact_of(searched[1]))
    finetune_classifier(context)
    tuned = load_bundle(tmp_path / "output")
    assert list(kept_tokens(tuned.model)) == searched[0].metrics["kept_tokens"]
    assert weights(tmp_path / "output") != weights(searched[1])


def token_counts(path: Path, width: int) -> list[int]:
    """Tokens that each MLP's activation sees, read off the file's own shapes."""
    inferred = onnx.shape_inference.infer_shapes(onnx.load(str(path)), data_prop=True)
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in inferred.graph.value_info}
    gelu = [node.output[0] for node in inferred.graph.node if node.op_type in ("Erf", "Gelu")]
    return [shapes[name][1] for name in gelu if shapes[name][-1] == width]


@pytest.mark.parametrize("dynamic", [True, False])
def test_the_exported_file_has_the_schedule_inside(dynamic, tmp_path):
    bundle = apply_schedule(digits_bundle(), SCHEDULE)
    settings = ONNXSettings(data="digits", dynamic_batch=dynamic, verify_samples=16)
    result = export_onnx.run(context_in(tmp_path, settings, model=saved(bundle, tmp_path / "model")))
    assert result.metrics["max_relative_difference"] < 1e-5
    path = tmp_path / "output" / "model.onnx"
    assert token_counts(path, 128) == [17, 13, 8, 4]
    operators = {node.op_type for node in onnx.load(str(path)).graph.node}
    assert not {name for name in operators if "Scatter" in name or name in ("NonZero", "Loop", "If")}


def test_tome_is_exported_too(tmp_path):
    bundle = apply_bipartite(digits_bundle(), (3, 3, 3, 3))
    result = export_onnx.run(context_in(tmp_path, ONNXSettings(verify_samples=8), model=saved(bundle, tmp_path / "model")))
    assert result.metrics["max_relative_difference"] < 1e-5


def test_a_mask_under_the_reduction_stays_and_folds(tmp_path):
    bundle, pattern = digits_bundle(), NMPattern(2, 4)
    names = [f"blocks.{index}.attn.qkv" for index in range(4)]
    masks = {name: magnitude_mask(bundle.model.get_submodule(name).weight, pattern=pattern) for name in names}
    bundle = apply_schedule(apply_masks(bundle, masks, pattern=pattern), SCHEDULE)
    saved(bundle, tmp_path / "model")
    again = load_bundle(tmp_path / "model")
    assert list(masked_layers(again.model)) == names
    images = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(again.model(images), bundle.model(images))
    torch.testing.assert_close(fold_bundle(again)(images), bundle.model(images))
    result = export_onnx.run(context_in(tmp_path, ONNXSettings(verify_samples=8), model=artifact_of(tmp_path / "model")))
    assert result.metrics["num_violating_blocks"] == 0


@pytest.mark.parametrize(("name", "arguments"), [("vit_micro", {}), ("vit65_micro", {}), ("vit_micro", {"depth": 2})])
def test_counter_and_formula_agree_on_reduced_models(name, arguments):
    bundle = digits_bundle(name, arguments)
    shape = vit_shape(bundle.model, image_shape=(1, 8, 8))
    kept = tuple(max(3, shape.num_tokens // (index + 1)) for index in range(shape.depth))
    bundle = apply_schedule(bundle, TokenSchedule(prune=kept, merge=kept))
    count = count_compute(fold_bundle(bundle), torch.zeros(1, 1, 8, 8))
    assert count.macs == pytest.approx(shape.macs(kept), rel=0.01)
    assert 0 < count.macs_apart < 0.05 * count.macs


@pytest.mark.parametrize(
    ("name", "schedule", "gmacs"),
    [("deit_small_patch16_224", "deit_small_2.9", 2.9053), ("vit_base_patch16_224", "deit_base_11.5", 11.5172)],
)
def test_published_schedules_cost_what_is_published_counted_on_the_model(name, schedule, gmacs):
    with torch.device("meta"):
        model = timm.create_model(name).eval()
    shape, counts = vit_shape(model), PUBLISHED_SCHEDULES[schedule]
    assert shape.macs(counts.kept_tokens(197)) / 1e9 == pytest.approx(gmacs, abs=1e-3)
    bundle = apply_schedule(ModelBundle(architecture=digits_bundle().architecture, model=model), counts)
    found = count_compute(bundle.model, torch.zeros(1, 3, 224, 224, device="meta")).macs
    assert found / 1e9 == pytest.approx(gmacs, rel=0.01)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("deit_tiny_patch16_224", {"depth": 2}),
        ("deit_small_patch16_224", {"depth": 2}),
        ("vit_tiny_patch16_224", {"depth": 3, "global_pool": "avg"}),
        ("deit3_small_patch16_224", {"depth": 2}),
    ],
)
def test_known_models_are_attached_trained_folded_and_exported(name, arguments, tmp_path):
    model = timm.create_model(name, img_size=64, num_classes=5, **arguments)
    depth, tokens = len(model.blocks), 17
    counts = TokenSchedule(prune=(tokens, *(12,) * (depth - 1)), merge=(tokens, *(8,) * (depth - 1)))
    bundle = apply_schedule(ModelBundle(architecture=digits_bundle().architecture, model=model), counts)
    bundle.model.train()(torch.randn(2, 3, 64, 64)).sum().backward()
    assert bundle.model.blocks[0].attn.qkv.weight.grad is not None
    plain = fold_bundle(bundle)
    if vit_shape(model).mean_pooled:  # the others are exported on digits
        check_export(plain, tmp_path)


def check_export(plain: nn.Module, tmp_path: Path) -> None:
    write_onnx(plain, image_shape=(3, 64, 64), path=tmp_path / "model.onnx", opset=18)
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        expected = plain(images)
    found = run_session(open_session(tmp_path / "model.onnx", num_threads=1), images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: timm.create_model("resnet18"), "the model is a ResNet, which is no plain Vision Transformer"),
        (lambda: timm.create_model("swin_tiny_patch4_window7_224"), "the model is a SwinTransformer"),
        (
            lambda: timm.create_model("deit_tiny_distilled_patch16_224"),
            "VisionTransformerDistilled, which has a distillation token",
        ),
        (lambda: timm.create_model("vit_tiny_patch16_224", reg_tokens=4), "it has 4 register tokens"),
        (lambda: timm.create_model("vit_tiny_patch16_224", class_token=False, global_pool="avg"), "it has no class token"),
        (lambda: timm.create_model("vit_tiny_patch16_224", global_pool="max"), "it is read out by 'max'"),
        (lambda: timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True), "takes images of any size"),
        (lambda: timm.create_model("vit_tiny_patch16_224", patch_drop_rate=0.1), "drops patches at random"),
        (lambda: timm.create_model("vit_small_patch16_18x2_224"), "blocks.0 has a ParallelThingsBlock"),
    ],
)
def test_other_models_are_refused_by_name(build, message):
    with torch.device("meta"):
        model = build()
    with pytest.raises(ValueError, match=message):
        refuse_model(model, who="compress_tokens.diffrate")


def test_a_model_that_reduces_already_is_refused(searched, tmp_path):
    with pytest.raises(ValueError, match=r"compress_tokens\.tome: the model is a ReducedViT, which reduces its tokens already"):
        run("tome", tmp_path, ToMeSettings(data="digits", merged=1), model=artifact_of(searched[1]))


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        (DiffRateSettings, {}, "set one of gmacs_ratio"),
        (DiffRateSettings, {"gmacs_ratio": 0.5, "gmacs": 1.0}, "set one of gmacs_ratio"),
        (DiffRateSettings, {"gmacs_ratio": 1.0}, "less than 1"),
        (DiffRateSettings, {"gmacs_ratio": 0.5, "schedule": "cosine"}, "set final_learning_rate to null"),
        (DiffRateSettings, {"gmacs_ratio": 0.5, "learning_rate": 1e-4}, "final_learning_rate 0.001 is above"),
        (DiffRateSettings, {"gmacs_ratio": 0.5, "ema_decay": 0.9}, "ema_decay: without effect here, since weights rest"),
        (
            DiffRateSettings,
            {"gmacs_ratio": 0.5, "max_gradient_norm": None, "weight_decay": 0.1},
            "max_gradient_norm, weight_decay: without effect here",
        ),
        (DiffRateSettings, {"gmacs_ratio": 0.5, "free_epochs": 3}, "the budget would never count"),
        (ToMeSettings, {}, "set one of merged"),
        (ToMeSettings, {"merged": -1}, "expected 0 or more"),
        (EViTSettings, {}, "set one of keep_rate"),
        (UniformSettings, {"keep_rate": 0.5, "gmacs_ratio": 0.5}, "set one of keep_rate"),
        (ScheduleSettings, {"published": "deit"}, "known: deit_small_2.9, deit_base_11.5"),
        (ScheduleSettings, {"prune": (3, 3)}, "prune and merge come together"),
    ],
)
def test_settings_that_contradict_are_refused(settings, arguments, message):
    with pytest.raises(ValueError, match=message):
        settings(data="digits", **arguments)


def test_a_coarse_grid_and_a_missed_budget_are_warned_of(dense, tmp_path):
    settings = DiffRateSettings(data="digits", gmacs_ratio=0.9, granularity=4, epochs=1)
    with pytest.warns(UserWarning, match="granularity 4 leaves 4 candidates of 16") as caught:
        run("diffrate", tmp_path, settings, model=dense)
    messages = " ".join(str(one.message) for one in caught)
    assert "of the budget. Train longer" in messages


def test_a_budget_above_the_model_is_refused_before_training(dense, tmp_path):
    settings = DiffRateSettings(data="digits", gmacs=1.0)
    with pytest.raises(ValueError, match="is out of reach; expected 0"):
        run("diffrate", tmp_path, settings, model=dense)
