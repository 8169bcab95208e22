"""The `sparsify` stages as a user runs them: what is refused, what comes out, and that fine-tuning cannot break it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from stages.contract import Cancelled
from stages.data.base import load_dataset
from stages.data.settings import DigitsData
from stages.models.bundle import ModelBundle, build_bundle, fold_bundle, load_bundle
from stages.models.nm_mask import masked_layers
from stages.models.zoo import find_architecture
from stages.ops.nm import violating_blocks
from stages.ops.pattern import NMPattern
from stages.sparsify import layers, lbc, magnitude, sr_ste
from stages.sparsify.layers import mask_metrics, select_layers
from stages.sparsify.settings import STAGES, LBCSettings, MagnitudeSettings, SRSTESettings
from stages.training.loop import train
from stages.training.optimizer import NamedOptimizer
from stages.training.schedules import Rates
from stages.training.settings import TrainingSettings
from tests.stages.stage_calls import artifact_of, context_in, saved

PATTERN = NMPattern(2, 4)


def digits_bundle(name: str, arguments=None) -> ModelBundle:
    data = load_dataset(DigitsData())
    architecture = find_architecture(name, arguments or {}, input_spec=data.input_spec, class_names=data.class_names)
    return build_bundle(architecture, seed=0)


@pytest.fixture(scope="module")
def dense_cnn(tmp_path_factory):
    """A micro CNN trained for three epochs."""
    folder = tmp_path_factory.mktemp("dense")
    bundle = digits_bundle("cnn_micro")
    settings = TrainingSettings(data="digits", epochs=3)
    train(
        bundle.model,
        data=load_dataset(settings.data),
        settings=settings,
        context=context_in(folder / "run", settings),
    )
    return saved(bundle, folder / "model")


@pytest.fixture(scope="module")
def lbc_run(dense_cnn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lbc")
    settings = LBCSettings(data="digits", epochs=6)
    return lbc.run(context_in(folder, settings, model=dense_cnn)), folder / "output"


def test_lbc_gives_exactly_n_of_every_m_weights_and_keeps_accuracy(lbc_run):
    result, folder = lbc_run
    assert result.metrics["nm_valid"] is True
    assert result.metrics["num_violating_blocks"] == 0
    assert result.metrics["num_nm_blocks"] == (32 * 48 + 48 * 32) * 9 // 4
    assert result.metrics["top1_accuracy"] > 0.9
    bundle = load_bundle(folder)
    for fixed in masked_layers(bundle.model).values():
        assert int(fixed.mask.sum()) == fixed.mask.numel() // 2


def test_no_score_is_left_in_what_lbc_saves(lbc_run):
    _, folder = lbc_run
    assert not [name for name in load_bundle(folder).model.state_dict() if "score" in name or "removed" in name]


def test_the_plain_model_computes_what_the_masked_one_does(lbc_run):
    _, folder = lbc_run
    bundle, images = load_bundle(folder), torch.randn(7, 1, 8, 8)
    torch.testing.assert_close(fold_bundle(bundle)(images), bundle.model(images), rtol=0, atol=1e-6)


def test_the_history_shows_combinations_falling_to_one(lbc_run):
    _, folder = lbc_run
    epochs = json.loads((folder / "history.json").read_text())
    kept = [line["kept_combinations"] for line in epochs]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] == 6
    assert kept[3:] == [1, 1, 1]
    assert epochs[-1]["mask_density"] == 0.5


def test_every_declared_metric_is_reported(lbc_run, dense_cnn, tmp_path):
    settings = MagnitudeSettings(data="digits")
    other = magnitude.run(context_in(tmp_path, settings, model=dense_cnn))
    specs = {spec.name: spec for spec in STAGES}
    for name, result in (("sparsify.lbc", lbc_run[0]), ("sparsify.magnitude", other)):
        assert set(specs[name].metrics) <= set(result.metrics)


def test_a_stored_weight_outside_of_its_mask_counts_as_a_violation(lbc_run):
    """What a layer computes with is mask * weight, where no such weight could ever show."""
    bundle = load_bundle(lbc_run[1])
    name, fixed = next(iter(masked_layers(bundle.model).items()))
    stored = bundle.model.get_submodule(name).parametrizations.weight.original
    assert mask_metrics(bundle)["nm_valid"] is True
    with torch.no_grad():
        stored[tuple((~fixed.mask).nonzero()[0])] = 1e-9
    metrics = mask_metrics(bundle)
    assert metrics["nm_valid"] is False
    assert metrics["num_violating_blocks"] == 1


def test_later_fine_tuning_keeps_the_mask_of_lbc_exactly(lbc_run, tmp_path):
    _, folder = lbc_run
    bundle = load_bundle(folder)
    masks = {name: fixed.mask.clone() for name, fixed in masked_layers(bundle.model).items()}
    settings = TrainingSettings(data="digits", epochs=1, ema_decay=0.9)
    train(bundle.model, data=load_dataset(settings.data), settings=settings, context=context_in(tmp_path, settings))
    plain = fold_bundle(bundle)
    for name, mask in masks.items():
        assert not bool(plain.get_submodule(name).weight[~mask].any())


def test_scores_move_by_the_rate_and_the_decay_of_the_settings(dense_cnn, tmp_path, monkeypatch):
    """What the stage hands to the loop, through the loop's own optimizer: one step of plain SGD on gradients of 1."""

    class Stop(Exception):
        pass

    handed = []

    def stop(model, *, hooks, **_):
        handed.append((model, hooks))
        raise Stop

    monkeypatch.setattr(lbc, "train", stop)
    settings = LBCSettings(
        data="digits",
        epochs=10,
        optimizer="sgd",
        schedule="constant",
        momentum=0.0,
        weight_decay=0.7,
        max_gradient_norm=None,
        removal_start=0.1,
        removal_end=0.8,
        removal_power=2.5,
        score_learning_rate_multiplier=0.3,
        score_weight_decay=0.2,
    )
    with pytest.raises(Stop):
        lbc.run(context_in(tmp_path, settings, model=dense_cnn))
    ((model, hooks),) = handed
    assert hooks[0].schedule == {"start": 1, "end": 8, "power": 2.5}
    optimizer = NamedOptimizer(model, hooks=hooks, settings=settings)
    optimizer.set_rates(Rates(learning_rate=0.1, momentum=0.0))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.update()
    assert sum(name.endswith(".scores") for name in before) == 2
    for name, parameter in model.named_parameters():
        if name.endswith(".scores"):
            torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * 0.3 * (1 + 0.2 * before[name]))
        elif name.endswith(".original"):
            torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * (1 + 0.7 * before[name]))


@pytest.fixture(scope="module")
def undisturbed(lbc_run, dense_cnn, tmp_path_factory):
    """Metrics and weights of a run without a stop, by the decay of its average."""
    folder, settings = tmp_path_factory.mktemp("average"), LBCSettings(data="digits", epochs=6, ema_decay=0.9)
    return {None: lbc_run, 0.9: (lbc.run(context_in(folder, settings, model=dense_cnn)), folder / "output")}


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("epoch", [2.4, 3.6])
def test_lbc_resumed_after_a_stop_ends_on_the_same_bits(undisturbed, dense_cnn, tmp_path, epoch, ema_decay):
    """A stop between removals, and one after the scores were laid to rest at epoch 3: buffers, scores and rests come back."""
    steps_per_epoch = load_dataset(DigitsData()).train.num_samples // 64
    calls = iter(range(10_000))

    def stop():
        if next(calls) == int(epoch * steps_per_epoch):
            raise Cancelled

    settings = LBCSettings(data="digits", epochs=6, ema_decay=ema_decay)
    context = replace(context_in(tmp_path, settings, model=dense_cnn), check_cancelled=stop)
    with pytest.raises(Cancelled):
        lbc.run(context)
    step, folder = context.checkpoints.latest()
    assert step == int(epoch * steps_per_epoch)
    assert len(json.loads((folder / "state.json").read_text())["optimizer"]["frozen"]) == (2 if epoch > 3 else 0)
    result, (expected, output) = lbc.run(context), undisturbed[ema_decay]
    assert result.metrics == expected.metrics
    assert (tmp_path / "output" / "weights.safetensors").read_bytes() == (output / "weights.safetensors").read_bytes()


def test_averaged_weights_keep_the_pattern_too(dense_cnn, tmp_path):
    """A moving average of scores would hold no zeros: the authors' form gives a dense mask there."""
    settings = LBCSettings(data="digits", epochs=4, ema_decay=0.99, n_m="1:4")
    result = lbc.run(context_in(tmp_path, settings, model=dense_cnn))
    assert result.metrics["nm_valid"] is True


def test_magnitude_masks_are_valid_at_once(dense_cnn, tmp_path):
    settings = MagnitudeSettings(data="digits", n_m="1:4")
    result = magnitude.run(context_in(tmp_path, settings, model=dense_cnn))
    assert result.metrics["nm_valid"] is True
    assert result.metrics["initial_top1_accuracy"] >= result.metrics["top1_accuracy"]
    for layer in masked_layers(load_bundle(tmp_path / "output").model).values():
        assert int(layer.mask.sum()) == layer.mask.numel() // 4


@pytest.mark.parametrize(
    ("stage", "settings"), [(lbc, LBCSettings), (sr_ste, SRSTESettings), (magnitude, MagnitudeSettings)], ids=lambda part: ""
)
def test_the_process_is_prepared_and_the_given_model_measured_on_the_device(stage, settings, dense_cnn, tmp_path, monkeypatch):
    """`meta` stands for a device that is not the CPU. What an earlier stage left in the process must not stay."""

    class Measured(Exception):
        pass

    found = {}

    def measure(model, split, *, device="cpu", **_):
        found.update(asked=str(device), model=next(model.parameters()).device.type, dtype=torch.get_default_dtype())
        raise Measured

    monkeypatch.setattr(
        type(layers.task_of(load_bundle(dense_cnn))), "evaluate", lambda _, *given, **options: measure(*given, **options)
    )
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(Measured):
            stage.run(replace(context_in(tmp_path, settings(data="digits"), model=dense_cnn), device="meta"))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == {"asked": "meta", "model": "meta", "dtype": torch.float32}


def test_a_model_that_is_masked_already_is_refused(lbc_run, tmp_path):
    settings = LBCSettings(data="digits", epochs=4)
    with pytest.raises(ValueError, match=r"sparsify\.lbc: the model carries nm_mask"):
        lbc.run(context_in(tmp_path, settings, model=artifact_of(lbc_run[1])))


def test_a_layer_that_m_does_not_divide_is_refused_by_name(tmp_path):
    artifact = saved(digits_bundle("cnn_micro", {"widths": [30, 48, 32]}), tmp_path / "model")
    settings = LBCSettings(data="digits", epochs=4)
    with pytest.raises(ValueError, match=r"blocks\.1\.0 has I = 30 inputs, not a multiple of M = 4"):
        lbc.run(context_in(tmp_path, settings, model=artifact))


class TestSelectLayers:
    def test_first_layer_and_classifier_stay_dense(self):
        assert select_layers(digits_bundle("cnn_micro").model, pattern=PATTERN) == ("blocks.1.0", "blocks.2.0")
        vit = select_layers(digits_bundle("vit_micro").model, pattern=PATTERN)
        assert len(vit) == 16
        assert {name.split(".", 2)[2] for name in vit} == {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}

    def test_a_residual_network_is_sparse_everywhere_but_at_its_ends(self):
        """As in the paper: downsampling convolutions too."""
        names = select_layers(digits_bundle("resnet18").model, pattern=PATTERN)
        assert len(names) == 19
        assert "layer2.0.downsample.0" in names
        assert not {"conv1", "fc"} & set(names)

    def test_both_heads_of_a_distilled_model_stay_dense(self):
        class Distilled(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem, self.body = nn.Linear(8, 8), nn.Linear(8, 8)
                self.head, self.head_dist = nn.Linear(8, 10), nn.Linear(8, 10)

            def get_classifier(self):
                return self.head, self.head_dist

        assert select_layers(Distilled(), pattern=PATTERN) == ("body",)

    def test_a_depthwise_convolution_is_refused_by_name_or_left_dense(self):
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1), nn.Linear(8, 2))
        with pytest.raises(ValueError, match="1 has I = 1 inputs in each of its 8 groups"):
            select_layers(model, pattern=PATTERN)
        assert select_layers(model, pattern=PATTERN, on_indivisible="dense") == ("2",)

    def test_a_grouped_convolution_is_cut_along_the_inputs_of_a_group(self):
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.Linear(8, 2))
        assert select_layers(model, pattern=PATTERN) == ("1",)
        assert violating_blocks(model[1].weight, pattern=PATTERN) == 8 * 9

    def test_named_layers_stay_dense_and_a_name_without_a_layer_is_refused(self):
        model = digits_bundle("vit_micro").model
        assert len(select_layers(model, pattern=PATTERN, dense_layers=("blocks.0.*", "*.proj"))) == 9
        with pytest.raises(ValueError, match=r"'block\.0' matches no layer; layers: patch_embed\.proj"):
            select_layers(model, pattern=PATTERN, dense_layers=("block.0",))

    def test_attention_whose_weights_are_no_layer_is_refused_until_it_is_left_dense_by_name(self):
        """torch.nn.MultiheadAttention multiplies by `in_proj_weight` itself: it would stay dense without a word."""
        model = nn.Sequential(nn.Linear(8, 8), nn.TransformerEncoderLayer(8, 2, 16), nn.Linear(8, 8), nn.Linear(8, 2))
        with pytest.raises(ValueError, match=r"1\.self_attn is a MultiheadAttention.*name it in dense_layers"):
            select_layers(model, pattern=PATTERN)
        names = select_layers(model, pattern=PATTERN, dense_layers=("1.self_attn*",))
        assert names == ("1.linear1", "1.linear2", "2")

    def test_a_model_with_nothing_between_its_ends_is_refused(self):
        with pytest.raises(ValueError, match="no layer is left"):
            select_layers(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)), pattern=PATTERN)

    def test_a_layer_that_changes_its_weight_before_use_is_refused(self):
        class Standardised(nn.Conv2d):
            def forward(self, images):
                return self._conv_forward(images, self.weight - self.weight.mean(), self.bias)

        with pytest.raises(ValueError, match="1 is a Standardised"):
            select_layers(nn.Sequential(nn.Conv2d(1, 8, 3), Standardised(8, 8, 3), nn.Linear(8, 2)), pattern=PATTERN)


class TestSettings:
    def test_the_recipes_of_the_authors_that_the_docstring_spells_are_settings(self):
        recipes = re.findall(r"^    (ResNet|DeiT): ((?:.+\n)+?)(?=\n|    DeiT)", lbc.__doc__, flags=re.MULTILINE)
        assert [name for name, _ in recipes] == ["ResNet", "DeiT"]
        chosen = {}
        for name, text in recipes:
            pairs = (part.split()[:2] for part in text.split(","))
            values = {key: None if value == "none" else value for key, value in pairs}
            chosen[name] = LBCSettings(data="digits", **values)
        assert (chosen["ResNet"].optimizer, chosen["ResNet"].momentum, chosen["ResNet"].last_removal_epoch) == ("sgd", 0.9, 60)
        assert (chosen["DeiT"].optimizer, chosen["DeiT"].removal_power, chosen["DeiT"].last_removal_epoch) == ("adamw", 4, 201)
        for settings in chosen.values():
            assert settings.score_weight_decay == settings.weight_decay
            assert settings.max_gradient_norm is None

    def test_a_pattern_with_many_combinations_needs_a_yes(self):
        with pytest.raises(ValueError, match=r"4:16 has 1820 combinations, 113\.75 scores per weight"):
            LBCSettings(data="digits", n_m="4:16")
        assert LBCSettings(data="digits", n_m="4:16", allow_large_score_memory=True).n_m == "4:16"
        assert LBCSettings(data="digits", n_m="4:8").n_m == "4:8"

    def test_the_yes_is_no_part_of_what_a_result_is(self):
        extra = LBCSettings.model_fields["allow_large_score_memory"].json_schema_extra
        assert extra == {"operational": True}

    @pytest.mark.parametrize("end", [0.0, 1.0, 1.5])
    def test_removal_that_never_ends_inside_the_training_is_refused(self, end):
        with pytest.raises(ValueError, match="removal_end"):
            LBCSettings(data="digits", removal_end=end)

    def test_removal_that_leaves_no_epoch_of_exact_n_m_is_refused_before_training(self):
        with pytest.raises(ValueError, match="none of exact 2:4 is left"):
            LBCSettings(data="digits", epochs=4, removal_end=0.8)
        assert LBCSettings(data="digits", epochs=4, removal_end=0.75).last_removal_epoch == 3

    def test_removal_that_ends_before_it_starts_is_refused(self):
        with pytest.raises(ValueError, match="expected start < end"):
            LBCSettings(data="digits", removal_start=0.5, removal_end=0.4)

    def test_shares_of_epochs_are_not_off_by_rounding(self):
        """0.1 * 30 is a little above 3 in binary, which would move t_f by an epoch."""
        assert LBCSettings(data="digits", epochs=30, removal_end=0.1).last_removal_epoch == 3

    @pytest.mark.parametrize("text", ["4:2", "2-4", "half"])
    def test_a_wrong_pattern_is_refused(self, text):
        with pytest.raises(ValueError, match="pattern"):
            MagnitudeSettings(data="digits", n_m=text)
