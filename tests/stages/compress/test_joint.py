"""`compress.joint`: what its parts do alone is what the methods do; together each keeps its promises."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from stages.compress import joint
from stages.compress.settings import STAGES, DiffRatePart, JointSettings, LBCPart, LTSPart
from stages.compress_tokens.settings import DiffRateSettings
from stages.contract import Cancelled
from stages.data.base import load_dataset
from stages.models.bundle import load_bundle
from stages.models.fake_quant import float_weight, quantized_layers, weight_quantizer
from stages.models.nm_mask import masked_layers
from stages.models.token_reduction import kept_tokens
from stages.ops.pattern import NMPattern
from stages.quantize import lts
from stages.quantize.settings import LTSSettings
from stages.sparsify import lbc
from stages.sparsify.combinations import add_scores
from stages.sparsify.settings import LBCSettings
from stages.training.loop import train
from tests.stages.compress.support import ALL, LTS, RATES, digit_images, new_bundle, weights
from tests.stages.stage_calls import artifact_of, context_in, saved


def history(folder) -> list[dict]:
    return json.loads((folder / "output" / "history.json").read_text())


def settings_of(**changes) -> JointSettings:
    return JointSettings(**{"data": "digits", "epochs": 2, **changes})


def test_settings_of_weights_that_the_rates_alone_refuse_are_taken_where_weights_learn():
    joint = settings_of(diffrate=DiffRatePart(gmacs_ratio=0.6), weight_decay=0.1, ema_decay=0.9, max_gradient_norm=None)
    assert joint.diffrate_settings() is not None


def test_lbc_alone_trains_bit_for_bit_as_its_own_stage(dense, tmp_path):
    part = {"n_m": "1:4", "removal_power": 2.0}
    result = joint.run(context_in(tmp_path / "joint", settings_of(lbc=part), model=dense))
    own = lbc.run(context_in(tmp_path / "own", LBCSettings(data="digits", epochs=2, **part), model=dense))
    assert weights(artifact_of(tmp_path / "joint/output")) == weights(artifact_of(tmp_path / "own/output"))
    assert history(tmp_path / "joint") == history(tmp_path / "own")
    assert result.metrics == own.metrics


def test_lts_alone_trains_bit_for_bit_as_its_own_stage(dense, tmp_path):
    result = joint.run(context_in(tmp_path / "joint", settings_of(lts=LTS), model=dense))
    own = lts.run(context_in(tmp_path / "own", LTSSettings(data="digits", epochs=2, learning_rate=3e-3, **LTS), model=dense))
    assert weights(artifact_of(tmp_path / "joint/output")) == weights(artifact_of(tmp_path / "own/output"))
    assert history(tmp_path / "joint") == history(tmp_path / "own")
    assert result.metrics == own.metrics


def test_all_three_report_what_each_of_them_reports(joint_run):
    result, _ = joint_run
    metrics = result.metrics
    assert set(STAGES[0].metrics) <= set(metrics) | set(result.measurements)
    assert metrics["top1_accuracy"] > 0.5
    assert metrics["nm_valid"] is True
    assert metrics["levels_valid"] is True
    assert metrics["frozen_weights_fraction"] > 0.5
    assert abs(metrics["budget_error"]) < 0.03  # one token of one of the three blocks costs 0.02
    assert metrics["gmacs_effective"] < metrics["gmacs"]


def test_masks_come_first_then_freezing_and_counts_rest_when_told(joint_run):
    _, artifact = joint_run
    lines = json.loads(artifact.file("history.json").read_text())
    final = ALL.first_final_epoch
    assert (final, ALL.last_search_epoch) == (3, 3)
    assert [line["kept_combinations"] for line in lines] == [6.0, 3.0, 2.0, 1.0, 1.0, 1.0]
    densities = [line["mask_density"] for line in lines]
    assert densities == sorted(densities, reverse=True)
    assert densities[final:] == [0.5] * 3
    frozen = [line["frozen_fraction"] for line in lines]
    assert not any(frozen[:final])
    assert 0 < frozen[final] <= frozen[-2] <= frozen[-1]
    rates = [{name: value for name, value in line.items() if "_expected." in name} for line in lines]
    assert rates[0] != rates[1] != rates[2]
    assert rates[2] == rates[3] == rates[-1]


def test_the_parts_lie_in_the_bundle_in_the_order_in_which_they_act(joint_run):
    bundle = load_bundle(joint_run[1])
    assert [spec.name for spec in bundle.transforms] == ["nm_mask", "fake_quant", "token_reduction"]
    assert not [name for name in bundle.model.state_dict() if "scores" in name or "removed" in name or "logits" in name]
    assert list(kept_tokens(bundle.model)) == joint_run[0].metrics["kept_tokens"]


def test_frozen_weights_lie_on_the_mask_and_what_is_masked_is_exactly_zero(joint_run):
    model = load_bundle(joint_run[1]).model
    masks = masked_layers(model)
    assert len(masks) == 12
    for name, fixed in masks.items():
        layer = model.get_submodule(name)
        quantizer = weight_quantizer(layer)
        assert not (quantizer.frozen & ~fixed.mask).any()
        assert quantizer.frozen.any()
        assert not layer.weight[~fixed.mask].any()
        assert not float_weight(layer)[~fixed.mask].any()


def test_settling_changes_no_output(dense, tmp_path):
    """Masks for scores and a schedule for rates: the model that was measured has to be the one that is handed out."""
    settings = settings_of(lbc={}, lts=LTS, diffrate=RATES)
    context, data = context_in(tmp_path, settings, model=dense), load_dataset(settings.data)
    subject = joint.Joint(load_bundle(dense), settings=settings, data=data, context=context)
    subject.attach()
    train(subject.bundle.model, data=data, settings=settings, context=context, hooks=subject.hooks, loss=subject.loss())
    with torch.no_grad():
        before = subject.bundle.model(digit_images())
        after = subject.settle().model(digit_images())
    assert torch.equal(before, after)


def test_weights_and_rates_learn_together_until_rates_rest(dense, tmp_path):
    settings = settings_of(diffrate=RATES)
    result = joint.run(context_in(tmp_path, settings, model=dense))
    first, last = history(tmp_path)
    assert {k: v for k, v in first.items() if "expected" in k} == {k: v for k, v in last.items() if "expected" in k}
    before, after = load_bundle(dense).model.state_dict(), load_bundle(tmp_path / "output").model.state_dict()
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before if "qkv.weight" in name)
    assert "frozen_fraction" not in result.metrics
    assert "nm_valid" not in result.metrics


def test_running_statistics_go_on_when_weights_learn(tmp_path):
    bundle = new_bundle("vit65_micro")
    settings = settings_of(epochs=1, diffrate={**RATES, "search_end": 1.0}, batch_size=256)
    joint.run(context_in(tmp_path, settings, model=saved(bundle, tmp_path / "model")))
    norm = load_bundle(tmp_path / "output").model.patch_embed.layers[1]
    assert int(norm.num_batches_tracked) == 5
    assert norm.running_mean.any()


def test_resumed_after_a_stop_it_ends_on_the_same_bits(joint_run, dense, tmp_path):
    """The stop falls after masks are final, rates rest and weights freeze: all three have to come back."""
    calls = iter(range(10_000))

    def stop():
        if next(calls) in (30, 100):
            raise Cancelled

    context = replace(context_in(tmp_path, ALL, model=dense), check_cancelled=stop)
    for _ in range(2):
        with pytest.raises(Cancelled):
            joint.run(context)
    result = joint.run(context)
    assert result.metrics == joint_run[0].metrics
    assert weights(artifact_of(tmp_path / "output")) == weights(joint_run[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "at least one of lbc, lts and diffrate"),
        ({"lbc": {"removal_end": 0.9}}, "lbc: removal_end 0.9 ends at epoch 1.8"),
        ({"lbc": {"n_m": "4:16"}}, "lbc: 4:16 has 1820 combinations"),
        ({"lbc": {}, "lts": {"freeze_warmup": 0.2}}, "a frozen weight could be removed later"),
        ({"lts": {"freeze_warmup": 0.9}}, "less than one epoch"),
        ({"lts": {"weight_bits": 5}}, "2, 3, 4 or 8"),
        ({"diffrate": {}}, "diffrate: set one of gmacs_ratio"),
        ({"diffrate": {"gmacs_ratio": 0.7, "free_epochs": 1}}, "the budget would never count"),
        ({"diffrate": {"gmacs_ratio": 0.7, "final_learning_rate": 0.1}}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_runs(changes, message):
    with pytest.raises(ValidationError, match=message):
        settings_of(**changes)


def test_freezing_waits_for_the_masks_unless_told_to_wait_longer():
    assert settings_of(epochs=10, lts={}).freeze_warmup_steps(20) == 40
    assert settings_of(epochs=10, lbc={}, lts={}).freeze_warmup_steps(20) == 100
    assert settings_of(epochs=9, lbc={}, lts={}).freeze_warmup_steps(20) == 100
    assert settings_of(epochs=10, lbc={}, lts={"freeze_warmup": 0.8}).freeze_warmup_steps(20) == 160


def test_models_that_a_part_cannot_work_on_are_refused_by_name(joint_run, dense, tmp_path):
    cnn = saved(new_bundle("cnn_micro"), tmp_path / "cnn")
    cases = [
        ({"diffrate": RATES}, cnn, "compress.joint: the model is a ConvNet"),
        ({"diffrate": RATES}, joint_run[1], "reduces its tokens already"),
        ({"lts": LTS}, joint_run[1], "compress.joint: the model carries nm_mask, fake_quant, token_reduction; lts goes on"),
        ({"lbc": {}}, joint_run[1], "compress.joint: the model carries nm_mask, fake_quant, token_reduction; masks act before"),
        ({"diffrate": {**RATES, "gmacs_ratio": 0.01}}, dense, "out of reach"),
    ]
    for number, (changes, model, message) in enumerate(cases):
        with pytest.raises(ValueError, match=message):
            joint.run(context_in(tmp_path / str(number), settings_of(**changes), model=model))


def test_a_part_goes_on_where_an_earlier_stage_has_stopped(dense, tmp_path):
    """Masks from one stage, the two other methods jointly: the masks stay as they came."""
    lbc.run(context_in(tmp_path / "lbc", LBCSettings(data="digits", epochs=2), model=dense))
    masked = artifact_of(tmp_path / "lbc/output")
    joint.run(context_in(tmp_path / "joint", settings_of(lts=LTS, diffrate=RATES), model=masked))
    bundle = load_bundle(tmp_path / "joint/output")
    assert [spec.name for spec in bundle.transforms] == ["nm_mask", "fake_quant", "token_reduction"]
    expected = masked_layers(load_bundle(masked).model)
    for name, fixed in masked_layers(bundle.model).items():
        assert torch.equal(fixed.mask, expected[name].mask)
        assert not bundle.model.get_submodule(name).weight[~fixed.mask].any()
    assert len(quantized_layers(bundle.model)) == 14


@pytest.mark.parametrize(
    ("part", "method", "own"),
    [
        (LBCPart, LBCSettings, set()),
        (LTSPart, LTSSettings, {"freeze_warmup"}),
        (DiffRatePart, DiffRateSettings, {"rate_learning_rate", "search_end"}),
    ],
)
def test_the_fields_of_a_part_are_those_of_its_method(part, method, own):
    training = set(JointSettings.model_fields) | {"final_learning_rate"}
    assert set(part.model_fields) - own == set(method.model_fields) - training - own
    for name in set(part.model_fields) - own:
        mine, theirs = part.model_fields[name], method.model_fields[name]
        assert (mine.annotation, mine.metadata, mine.description) == (theirs.annotation, theirs.metadata, theirs.description)
        assert mine.get_default(call_default_factory=True) == theirs.get_default(call_default_factory=True)


def test_defaults_of_the_parts_are_those_of_this_version():
    """They are in no key: where a method's default changes, the version of `compress.joint` has to rise, too."""
    found = {
        part: {name: field.get_default(call_default_factory=True) for name, field in part.model_fields.items()}
        for part in (LBCPart, LTSPart, DiffRatePart)
    }
    assert STAGES[0].version == 3
    assert list(found[LBCPart].values()) == ["2:4", (), "refuse", 0.0, 0.5, 3.0, 1.0, 1e-4, False]
    assert list(found[LTSPart].values()) == (
        [2, 2, {}, (), "same", "auto", "reference", 1e-4, "linear_growth", 0.1, 0.99, None, "layers"]
    )
    assert list(found[DiffRatePart].values()) == [None, None, 4, "both", 1, None, 1, "auto", None, 0, 0.01, 0.5]


def test_scores_learn_through_the_rounding_of_what_the_mask_leaves():
    """dL/dscore = sum of B w g over weights inside of the bounds, g straight through the rounding: by hand, block by block."""
    torch.manual_seed(0)
    model, pattern = nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3)), NMPattern(2, 4)
    scored = add_scores(model, ["0"], pattern=pattern)["0"]
    lts.quantize_model(model, torch.randn(16, 8), weight_bits=2, activation_bits=8, bounds_init="least_squares")
    with torch.no_grad():
        scored.scores.add_(0.1 * torch.randn_like(scored.scores))
    scored.remove(4)
    layer, pull = model[0].train(), torch.randn(6, 8)
    quantizer = weight_quantizer(layer)
    (layer.weight * pull).sum().backward()
    weight = layer.parametrizations.weight.original
    lower, upper = quantizer.lower.item(), quantizer.upper.item()
    pairs, outside = list(itertools.combinations(range(4), 2)), 0
    for row, block in itertools.product(range(6), range(2)):
        index = row * 2 + block
        alive = [c for c in range(6) if not scored.removed[index, c]]
        kept = {place for c in alive for place in pairs[c]}
        gradient = [0.0] * 4
        for place in range(4):
            value = weight[row, 4 * block + place].item()
            outside += not lower <= value <= upper
            if place in kept and lower <= value <= upper:
                gradient[place] = pull[row, 4 * block + place].item()
        assert weight.grad[row, 4 * block : 4 * block + 4].tolist() == pytest.approx(gradient, abs=1e-6)
        values = weight[row, 4 * block : 4 * block + 4].tolist()
        expected = [sum(values[j] * gradient[j] for j in pairs[c]) if c in alive else 0.0 for c in range(6)]
        assert scored.scores.grad[index].tolist() == pytest.approx(expected, abs=1e-6)
    assert outside > 0
