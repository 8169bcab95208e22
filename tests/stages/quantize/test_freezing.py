"""LTS step by step: against a slow implementation of its equations, and every property that must hold whatever the data."""

from __future__ import annotations

import doctest
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from stages.contract import TrainingDiverged
from stages.models.fake_quant import float_weight, quantized_layers, weight_quantizer
from stages.ops import freezing as freezing_rule
from stages.ops import quantizers as quantizers_of_numbers
from stages.ops.quantizers import level_step
from stages.quantize import lts
from stages.quantize.lts import Freezing, fold, quantize_model
from tests.stages.quantize.slow_lts import SlowLayer

STEPS, WARMUP = 60, 10


def network() -> nn.Sequential:
    """Two layers before a batch norm, one that is not; (B, 1, 6, 6) -> (B, 3)."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(),
        nn.Flatten(), nn.Linear(20, 3),
    )  # fmt: skip


def batch(step: int, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step % 7)
    labels = torch.arange(24) % 3
    images = torch.randn(24, 1, 6, 6, generator=generator, dtype=torch.float64) + labels.reshape(-1, 1, 1, 1)
    return images.to(dtype), labels


def prepared(dtype=torch.float32, **choices) -> nn.Sequential:
    torch.manual_seed(3)
    model = network().to(dtype)
    quantize_model(model, batch(0, dtype)[0], **{"weight_bits": 2, "activation_bits": 3, **choices})
    return model.train()


def quantizers(model):
    return {name: weight_quantizer(layer) for name, layer in quantized_layers(model).items()}


def split_parameters(model):
    bounds = [p for name, p in model.named_parameters() if name.endswith((".lower", ".upper"))]
    rest = [p for name, p in model.named_parameters() if not name.endswith((".lower", ".upper"))]
    return rest, bounds


def optimizers(weights, bounds):
    return torch.optim.SGD(weights, lr=0.05, momentum=0.9, weight_decay=1e-4), torch.optim.Adam(bounds, lr=2e-3)


def train(model, freezing, *, steps=STEPS, first=0, both=None, dtype=torch.float32):
    both = both or optimizers(*split_parameters(model))
    for step in range(first, steps):
        freezing.before_step(step)
        images, labels = batch(step, dtype)
        functional.cross_entropy(model(images), labels).backward()
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad()
        yield step


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("mode", ["linear_growth", "sine_growth", "fixing"])
@pytest.mark.parametrize("form", ["auto", "normalized"])
def test_the_trajectory_is_that_of_the_equations(dtype, mode, form):
    """Sixty steps: frozen sets and steps of freezing equal, distances, effective weights, bounds and losses to rounding."""
    rule = {"mode": mode, "fixed_rate": 0.2, "momentum": 0.8}
    model = prepared(dtype, form=form)
    norms = [m for m in model if isinstance(m, nn.BatchNorm2d)]
    slow = {}
    for name, layer in quantized_layers(model).items():
        quantizer, inputs = weight_quantizer(layer), layer.input_quantizer
        slow[name] = SlowLayer(
            float_weight(layer), (quantizer.lower, quantizer.upper, inputs.lower, inputs.upper), bits=(2, 3),
            weight_form=quantizer.form, warmup=WARMUP, total=STEPS, **rule,
        )  # fmt: skip
    bias = model[7].bias.detach().clone().requires_grad_()
    scales = [p.detach().clone().requires_grad_() for norm in norms for p in (norm.weight, norm.bias)]

    def slow_forward(images):
        value = images
        for index, name in enumerate(("0", "3")):
            value = functional.conv2d(slow[name].input(value), slow[name].weight())
            value = functional.batch_norm(value, None, None, *scales[2 * index : 2 * index + 2], training=True).relu()
        return functional.linear(slow["7"].input(value.flatten(1)), slow["7"].weight(), bias)

    slow_both = optimizers(
        [*(layer.w for layer in slow.values()), bias, *scales], [b for layer in slow.values() for b in layer.bounds()]
    )
    freezing = Freezing(model, total_steps=STEPS, warmup_steps=WARMUP, skip_frozen="none", **rule)
    both = optimizers(*split_parameters(model))
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-11}
    for step in range(STEPS):
        images, labels = batch(step, dtype)
        freezing.before_step(step)
        effective = {name: weight_quantizer(layer).effective(float_weight(layer)) for name, layer in freezing.layers.items()}
        losses = [functional.cross_entropy(net(images), labels) for net in (model, slow_forward)]
        torch.testing.assert_close(losses[0], losses[1], **close)
        for name, reference in slow.items():
            assert freezing.frozen_at[name].flatten().tolist() == reference.F.tolist()
            torch.testing.assert_close(freezing.distances[name].flatten(), torch.from_numpy(reference.D), **close)
            torch.testing.assert_close(freezing.previous[name].flatten(), torch.from_numpy(reference.P), **close)
            torch.testing.assert_close(effective[name].detach(), reference.S, **close)
        for loss, updates in zip(losses, (both, slow_both), strict=True):
            loss.backward()
            for optimizer in updates:
                optimizer.step()
                optimizer.zero_grad()
        for layer, reference in zip(freezing.layers.values(), slow.values(), strict=True):
            quantizer = weight_quantizer(layer)
            torch.testing.assert_close(quantizer.upper, reference.uW, **close)
            torch.testing.assert_close(quantizer.lower, reference.lW, **close)
            torch.testing.assert_close(layer.input_quantizer.upper, reference.uA, **close)
    if mode != "fixing":
        assert freezing.frozen_fraction > 0.5
        # The slow one's frozen parameters drift on, as published: so it is effective values that agree.
        assert any(bool((layer.w != layer.S)[layer.frozen()].any()) for layer in slow.values())


@pytest.mark.parametrize("skip_frozen", ["none", "layers", "rows"])
def test_what_is_frozen_stays_frozen_at_the_same_bits_whatever_the_optimizer_does(skip_frozen):
    model = prepared()
    freezing = Freezing(model, total_steps=STEPS, warmup_steps=WARMUP, momentum=0.8, skip_frozen=skip_frozen)
    before = {name: torch.zeros_like(q.frozen) for name, q in quantizers(model).items()}
    values = {name: torch.zeros_like(q.held) for name, q in quantizers(model).items()}
    for step in train(model, freezing):
        for name, quantizer in quantizers(model).items():
            assert not (before[name] & ~quantizer.frozen).any()
            assert torch.equal(quantizer.held[before[name]], values[name][before[name]])
            before[name], values[name] = quantizer.frozen.clone(), quantizer.held.clone()
        if step <= WARMUP:
            assert freezing.num_frozen == 0
    assert freezing.frozen_fraction > 0.4
    model.eval()
    for name, layer in freezing.layers.items():
        used = weight_quantizer(layer).effective(float_weight(layer))
        assert torch.equal(used[before[name]], values[name][before[name]])


@pytest.mark.parametrize(("mode", "share"), [("linear_growth", 0.25), ("sine_growth", 2 / math.pi * math.asin(0.25))])
def test_still_weights_freeze_when_the_threshold_reaches_their_distance(mode, share):
    """On their level: at the first step after the warm-up. A quarter of a step off: as x reaches 0.25 (sine 0.161)."""
    model = prepared(torch.float64)
    freezing = Freezing(model, total_steps=100, warmup_steps=20, mode=mode, momentum=0.9)
    layer, quantizer = next((layer, weight_quantizer(layer)) for layer in freezing.layers.values())
    with torch.no_grad():
        quantizer.lower.fill_(-1)
        quantizer.upper.fill_(1)
        levels = torch.arange(layer.weight.numel()) % 2 + 1
        offset = (levels == 2).double() * (0.25 - 1e-9) * level_step(2)  # rounding may exceed a quarter by one bit
        float_weight(layer).copy_((2 * (levels.double() / 3 + offset) - 1).reshape(layer.weight.shape))
    name = next(iter(freezing.layers))
    for step in range(60):
        freezing.before_step(step)
    at = freezing.frozen_at[name].flatten()
    assert set(at[levels == 1].tolist()) == {21}
    assert set(at[levels == 2].tolist()) == {20 + math.ceil(round(share * 80, 9))}


def test_a_weight_that_toggles_between_two_levels_never_freezes():
    model = prepared()
    freezing = Freezing(model, total_steps=50, warmup_steps=5, momentum=0.5)
    layer = next(iter(freezing.layers.values()))
    for step in range(50):
        with torch.no_grad():
            float_weight(layer).fill_(0.01 if step % 2 else -0.01)
        freezing.before_step(step)
    assert not weight_quantizer(layer).frozen.any()


def test_one_factor_on_weights_and_bounds_changes_no_mask_and_no_level():
    masks = []
    for factor in (1.0, 4.0):
        model = prepared(torch.float64)
        freezing = Freezing(model, total_steps=30, warmup_steps=3, momentum=0.5)
        layer = next(iter(freezing.layers.values()))
        quantizer, name = weight_quantizer(layer), next(iter(freezing.layers))
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            quantizer.lower.fill_(-1.5 * factor)
            quantizer.upper.fill_(1.5 * factor)
        history = []
        for step in range(30):
            drift = 0.02 * torch.randn(start.shape, generator=generator, dtype=torch.float64)
            with torch.no_grad():
                start += drift
                float_weight(layer).copy_(start * factor)
            freezing.before_step(step)
            history.append((freezing.frozen_at[name].clone(), freezing.previous[name].clone()))
        masks.append(history)
    for first, second in zip(*masks, strict=True):
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
    assert masks[0][-1][0].any()


def test_frozen_weights_get_no_gradient_and_still_move_the_bounds():
    model = prepared(torch.float64)
    freezing = Freezing(model, total_steps=STEPS, warmup_steps=WARMUP, momentum=0.8, skip_frozen="none")
    for _ in train(model, freezing, steps=30, dtype=torch.float64):
        pass
    freezing.before_step(30)
    images, labels = batch(30, torch.float64)
    functional.cross_entropy(model(images), labels).backward()
    for layer in freezing.layers.values():
        quantizer = weight_quantizer(layer)
        gradient = layer.parametrizations.weight.original.grad
        assert quantizer.acting.any()
        assert not gradient[quantizer.acting].any()
    layer, quantizer = next((layer, weight_quantizer(layer)) for layer in freezing.layers.values())
    with torch.no_grad():
        quantizer.frozen.fill_(True)
        quantizer.held.copy_(float_weight(layer))
        quantizer.refresh()
    model.zero_grad()
    functional.cross_entropy(model(images), labels).backward()
    assert not layer.parametrizations.weight.original.grad.any()
    assert quantizer.upper.grad.abs() > 0


def freeze_all_but(model, live: dict[str, list[int]]) -> None:
    """Freeze everything but the given output rows."""
    for name, layer in quantized_layers(model).items():
        quantizer = weight_quantizer(layer)
        with torch.no_grad():
            quantizer.held.copy_(float_weight(layer))
            quantizer.frozen.fill_(True)
            quantizer.frozen[live.get(name, [])] = False
            quantizer.refresh()


def test_a_layer_frozen_whole_has_no_weight_gradient_at_all_and_the_same_outputs():
    """None and not zeros: no product was computed, and optimizers pass the parameter by."""
    model = prepared(torch.float64)
    freeze_all_but(model, {"3": [1, 2]})
    images, labels = batch(0, torch.float64)
    found = {}
    for skips in ("none", "layers", "rows"):
        for quantizer in quantizers(model).values():
            quantizer.skips = skips
        model.zero_grad()
        for norm in (model[1], model[4]):
            norm.reset_running_stats()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        grads = {name: p.grad for name, p in model.named_parameters()}
        found[skips] = loss.item(), {k: None if g is None else g.clone() for k, g in grads.items()}
        assert [round(q.skipped_fraction, 9) for q in quantizers(model).values()] == {
            "none": [0, 0, 0], "layers": [1, 0, 1], "rows": [1, 0.6, 1]
        }[skips]  # fmt: skip
    reference = found["none"][1]
    for skips in ("layers", "rows"):
        loss, grads = found[skips]
        assert loss == found["none"][0]
        for name in ("0", "7"):
            assert grads[f"{name}.parametrizations.weight.original"] is None
            assert grads[f"{name}.parametrizations.weight.0.upper"] is None
        kept = [k for k, g in grads.items() if g is not None and "parametrizations.weight.0" not in k]
        for name in kept:
            torch.testing.assert_close(grads[name], reference[name], msg=name)
    torch.testing.assert_close(
        found["layers"][1]["3.parametrizations.weight.0.upper"], reference["3.parametrizations.weight.0.upper"]
    )


def test_a_run_stopped_at_step_k_and_taken_up_again_ends_on_the_same_bits():
    """Counter, warm-up, distances and frozen values: the published code loses the first two on resume."""

    def finish(model, freezing, both, first):
        for _ in train(model, freezing, first=first, both=both):
            pass
        return {k: v.clone() for k, v in model.state_dict().items()}, freezing.state_dict()

    def fresh():
        model = prepared()
        freezing = Freezing(model, total_steps=STEPS, warmup_steps=WARMUP, momentum=0.8)
        return model, freezing, optimizers(*split_parameters(model))

    expected = finish(*fresh(), 0)
    model, freezing, both = fresh()
    for _ in train(model, freezing, steps=25, both=both):
        pass
    saved = [model.state_dict(), dict(freezing.state_dict()), *(optimizer.state_dict() for optimizer in both)]
    assert freezing.num_frozen > 0
    model, freezing, both = fresh()
    for target, state in zip((model, freezing, *both), saved, strict=True):
        target.load_state_dict(state)
    assert freezing.next_step == 25
    weights, state = finish(model, freezing, both, 25)
    assert all(torch.equal(weights[name], value) for name, value in expected[0].items())
    assert state["sum_frozen"] == expected[1]["sum_frozen"]
    for key in ("distances", "previous", "frozen_at"):
        assert all(torch.equal(state[key][name], value) for name, value in expected[1][key].items())


def test_the_frozen_share_counts_all_trainable_parameters():
    """Norms, biases and bounds are in the denominator, so it stays below 1 with every weight frozen."""
    model = prepared()
    freezing = Freezing(model, total_steps=STEPS, warmup_steps=WARMUP)
    freeze_all_but(model, {})
    freezing.frozen_at = {name: torch.ones(q.frozen.shape, dtype=torch.int32) for name, q in quantizers(model).items()}
    freezing.num_frozen = sum(f.numel() for f in freezing.frozen_at.values())
    freezing.before_step(0)
    weights, others = 36 + 180 + 60, 4 * 2 + 5 * 2 + 3 + 3 * 4
    assert freezing.frozen_fraction == pytest.approx(weights / (weights + others))
    assert freezing.metrics()["backward_cost_saved_accounted"] == pytest.approx(freezing.frozen_fraction / 2)
    assert freezing.metrics()["backward_cost_skipped"] == 0.5
    assert freezing.metrics()["frozen_weights_fraction"] == 1


def test_folding_gives_plain_weights_on_the_grid_and_the_same_outputs():
    model = prepared()
    freezing = Freezing(model, total_steps=STEPS, warmup_steps=WARMUP, momentum=0.8)
    for _ in train(model, freezing):
        pass
    images = batch(0)[0]
    plain = fold(model)
    assert torch.equal(plain(images), model.eval()(images))
    assert not quantized_layers(plain)
    assert type(plain[0]) is nn.Conv2d
    assert "forward" not in vars(plain[0])
    assert {round(3 * value) for value in plain[0].weight.unique().tolist()} <= {-3, -1, 1, 3}
    assert len(plain[0].weight.unique()) <= 4
    assert len(plain[7].weight.unique()) <= 4
    assert quantized_layers(model)


def test_weights_that_came_frozen_stay_frozen_under_a_new_rule():
    model = prepared()
    freeze_all_but(model, {"0": [0, 1, 2, 3], "3": [2]})
    before = {name: (q.frozen.clone(), q.held.clone()) for name, q in quantizers(model).items()}
    freezing = Freezing(model, total_steps=20, warmup_steps=10, skip_frozen="none")
    assert freezing.num_frozen == 4 * 36 + 60
    for _ in train(model, freezing, steps=20):
        pass
    for name, quantizer in quantizers(model).items():
        frozen, held = before[name]
        assert not (frozen & ~quantizer.frozen).any()
        assert torch.equal(quantizer.held[frozen], held[frozen])


@pytest.mark.parametrize("module", [lts, freezing_rule, quantizers_of_numbers], ids=["lts", "freezing", "quantizers"])
def test_the_examples_in_the_documentation_are_true(module):
    """Also how LTS is used in a training loop of one's own, without the engine."""
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_bounds_that_crossed_are_reported_by_name_before_they_do_harm():
    """Bounds trained like weights run away: levels would change places and the model learn nothing, without an error."""
    model = prepared()
    freezing = Freezing(model, total_steps=20, warmup_steps=10)
    with torch.no_grad():
        model[3].input_quantizer.upper.fill_(-5)
    with pytest.raises(TrainingDiverged, match=r"the bounds of 3 have crossed: lower 0, upper -5; .* lower learning rate"):
        freezing.before_step(0)


def test_a_model_without_room_for_frozen_weights_and_a_warm_up_that_never_ends_are_refused():
    with pytest.raises(ValueError, match="attach some with quantize_model"):
        Freezing(network(), total_steps=10, warmup_steps=1)
    with pytest.raises(ValueError, match="expected 0 <= warmup < total"):
        Freezing(prepared(), total_steps=10, warmup_steps=10)
