"""Methods after each other on one bundle: masks, then quantizers, then token reduction, and what later stages make of it."""

from __future__ import annotations

import itertools

import pytest
import torch

from stages.catalog import find_stage, load_implementation
from stages.contract import Artifact
from stages.models.bundle import ModelBundle, apply_transform, fold_bundle, load_bundle
from stages.models.fake_quant import float_weight, quantized_layers, weight_quantizer
from stages.models.nm_mask import masked_layers
from stages.models.token_reduction import kept_tokens
from stages.ops.onnx_file import find_weight, open_session, run_session, stored_arrays
from tests.stages.compress.support import LTS, digit_images, new_bundle, weights
from tests.stages.stage_calls import artifact_of, context_in, saved

SETTINGS = {
    "sparsify.lbc": {"data": "digits", "epochs": 2},
    "sparsify.sr_ste": {"data": "digits", "epochs": 1},
    "sparsify.magnitude": {"data": "digits"},
    "quantize.lts": {"data": "digits", "epochs": 3, **LTS},
    "quantize.qat": {"data": "digits", "epochs": 1},
    "compress_tokens.diffrate": {"data": "digits", "epochs": 1, "gmacs_ratio": 0.7, "granularity": 1, "learning_rate": 0.1},
    "compress_tokens.tome": {"data": "digits", "merged": 2},
    "compress_tokens.evit": {"data": "digits", "keep_rate": 0.7},
    "compress_tokens.uniform": {"data": "digits", "keep_rate": 0.7},
    "compress_tokens.schedule": {"data": "digits", "prune": (17, 15, 9), "merge": (17, 12, 7)},
    "compress.joint": {"data": "digits", "epochs": 2, "lbc": {}},
    "finetune.classifier": {"data": "digits", "epochs": 1},
    "export.onnx": {"data": "digits", "verify_samples": 16, "tolerance": 0.2},
    "export.packed": {"data": "digits", "verify_samples": 16},
    "evaluate.classifier": {"data": "digits", "batch_sizes": (1,), "latency_seconds": 0.0},
}


def run_stage(name: str, folder, **inputs):
    """The stage's result and its artifact; other settings than in the table are not needed here."""
    spec = find_stage(name)
    result = load_implementation(spec)(context_in(folder, spec.settings(**SETTINGS[name]), **inputs))
    return result, artifact_of(folder / "output", kind=spec.output)


@pytest.fixture(scope="session")
def chain(dense, tmp_path_factory) -> dict[str, Artifact]:
    """The dense model, and the model after each of three stages that run one after the other."""
    folder, made = tmp_path_factory.mktemp("chain"), {"dense": dense}
    before = dense
    for name in ("sparsify.lbc", "quantize.lts", "compress_tokens.diffrate"):
        _, before = run_stage(name, folder / name, model=before)
        made[name] = before
    return made


@pytest.fixture(scope="session", params=["one after the other", "joint"])
def complete(request) -> Artifact:
    """A model with all three, by either way."""
    if request.param == "joint":
        return request.getfixturevalue("joint_run")[1]
    return request.getfixturevalue("chain")["compress_tokens.diffrate"]


def same_masks(first: ModelBundle, second: ModelBundle) -> bool:
    masks, others = masked_layers(first.model), masked_layers(second.model)
    return bool(masks) and masks.keys() == others.keys() and all(torch.equal(masks[n].mask, others[n].mask) for n in masks)


def test_quantization_keeps_masks_exactly_and_freezes_on_them_alone(chain):
    masked, quantized = load_bundle(chain["sparsify.lbc"]), load_bundle(chain["quantize.lts"])
    assert same_masks(masked, quantized)
    plain = fold_bundle(quantized)
    for name, fixed in masked_layers(quantized.model).items():
        quantizer = weight_quantizer(quantized.model.get_submodule(name))
        assert quantizer.frozen.any()
        assert not (quantizer.frozen & ~fixed.mask).any()
        for weight in (quantized.model.get_submodule(name).weight, plain.get_submodule(name).weight):
            assert not weight[~fixed.mask].any()
            assert len(weight[fixed.mask].unique()) <= 2**4


def test_the_search_leaves_a_sparse_and_quantized_bundle_bit_identical(chain):
    assert weights(chain["compress_tokens.diffrate"]) == weights(chain["quantize.lts"])


def test_all_three_come_back_from_disk_bit_for_bit_and_fold(complete, tmp_path):
    bundle = load_bundle(complete)
    assert [spec.name for spec in bundle.transforms] == ["nm_mask", "fake_quant", "token_reduction"]
    again = saved(bundle, tmp_path)
    assert weights(again) == weights(complete)
    assert again.file("model.json").read_bytes() == complete.file("model.json").read_bytes()
    images = digit_images()
    plain = fold_bundle(bundle)
    with torch.no_grad():
        expected = bundle.model(images)
        assert torch.equal(load_bundle(again).model(images), expected)
        assert torch.equal(plain(images), expected)
    assert not quantized_layers(plain)
    assert not masked_layers(plain)
    assert list(kept_tokens(plain)) == list(kept_tokens(bundle.model))


def test_all_three_are_exported_checked_and_evaluated(complete, dense, tmp_path):
    result, exported = run_stage("export.onnx", tmp_path / "onnx", model=complete)
    assert result.metrics["num_violating_blocks"] == 0
    assert result.metrics["num_nm_blocks"] > 0
    bundle, path = load_bundle(complete), exported.file("model.onnx")
    with torch.no_grad():
        expected = bundle.model(digit_images())
    difference = (run_session(open_session(path, num_threads=1), digit_images()) - expected).abs().amax(
        1
    ) / expected.abs().max()
    assert (difference < 1e-5).float().mean() > 0.9  # others lie on the middle between two levels and fall to either side
    arrays = stored_arrays(path)
    for name, fixed in masked_layers(bundle.model).items():
        stored = find_weight(bundle.model.get_submodule(name).weight.detach(), arrays)
        assert stored is not None
        assert not torch.from_numpy(stored.values.copy())[~fixed.mask].any()
    packed, _ = run_stage("export.packed", tmp_path / "packed", model=complete)
    assert packed.metrics["max_abs_difference"] == 0
    evaluated, _ = run_stage("evaluate.classifier", tmp_path / "evaluation", model=complete, exported=exported, baseline=dense)
    metrics = evaluated.metrics
    assert metrics["exported_agreement"] > 0.95
    assert metrics["gmacs_effective"] < metrics["gmacs"]
    assert metrics["gmacs_ratio"] < 0.8


def test_fine_tuning_goes_on_with_masks_frozen_weights_and_schedule(complete, tmp_path):
    _, tuned = run_stage("finetune.classifier", tmp_path, model=complete)
    before, after = load_bundle(complete), load_bundle(tuned)
    assert before.transforms == after.transforms
    assert same_masks(before, after)
    assert kept_tokens(before.model) == kept_tokens(after.model)
    moved = 0
    for name, layer in quantized_layers(before.model).items():
        other, frozen = after.model.get_submodule(name), weight_quantizer(layer).frozen
        assert torch.equal(weight_quantizer(other).frozen, frozen)
        assert torch.equal(float_weight(other)[frozen], float_weight(layer)[frozen])
        moved += int((float_weight(other) != float_weight(layer)).sum())
    assert moved > 0
    for name, fixed in masked_layers(after.model).items():
        assert not after.model.get_submodule(name).weight[~fixed.mask].any()


@pytest.mark.parametrize(("later", "earlier"), list(itertools.combinations(["token_reduction", "fake_quant", "nm_mask"], 2)))
def test_transforms_out_of_order_are_refused_with_both_names(later, earlier):
    layer = "blocks.0.mlp.fc1"
    settings = {
        "nm_mask": {"layers": {layer: "2:4"}},
        "fake_quant": {"layers": {layer: {"weight_bits": 4, "activation_bits": 4, "form": "dequantized"}}},
        "token_reduction": {"operator": "ranked", "prune": [17, 15, 9], "merge": [17, 12, 7]},
    }
    bundle = apply_transform(new_bundle(), later, settings[later])
    with pytest.raises(ValueError, match=f"'{earlier}' acts before '{later}'"):
        apply_transform(bundle, earlier, settings[earlier])
    with pytest.raises(ValueError, match=f"already carries transform '{later}'|no plain|reduces its tokens already"):
        apply_transform(bundle, later, settings[later])


MASKED, QUANTIZED, REDUCED = "sparsify.lbc", "quantize.lts", "compress_tokens.diffrate"
REFUSED_BY = {
    **{f"sparsify.{name}": (MASKED, QUANTIZED, REDUCED) for name in ("lbc", "sr_ste", "magnitude")},
    **{f"quantize.{name}": (QUANTIZED, REDUCED) for name in ("lts", "qat")},
    **{f"compress_tokens.{name}": (REDUCED,) for name in ("diffrate", "tome", "evit", "uniform", "schedule")},
    "compress.joint": (MASKED, QUANTIZED, REDUCED),
}
"""What a stage cannot go on from, as the stage that made it; everything else it takes."""


@pytest.mark.parametrize(("name", "made"), [(name, made) for name, refused in REFUSED_BY.items() for made in refused])
def test_a_stage_that_cannot_go_on_from_a_bundle_says_what_is_in_the_way(name, made, chain, tmp_path):
    what = {MASKED: "nm_mask", QUANTIZED: "fake_quant", REDUCED: "token_reduction|reduces its tokens already|fake_quant"}[made]
    with pytest.raises(ValueError, match=what):
        run_stage(name, tmp_path, model=chain[made])


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("quantize.qat", MASKED),
        *((f"compress_tokens.{name}", QUANTIZED) for name in ("tome", "evit", "uniform", "schedule")),
        ("compress_tokens.diffrate", MASKED),
        ("compress_tokens.tome", MASKED),
        ("finetune.classifier", MASKED),
        ("finetune.classifier", QUANTIZED),
        ("export.packed", QUANTIZED),
    ],
)
def test_a_stage_goes_on_from_every_bundle_that_it_can_act_after(name, made, chain, tmp_path):
    result, artifact = run_stage(name, tmp_path, model=chain[made])
    assert result.metrics
    if artifact.kind == "model":
        before, after = load_bundle(chain[made]), load_bundle(artifact)
        assert after.transforms[: len(before.transforms)] == before.transforms
        assert same_masks(before, after)
