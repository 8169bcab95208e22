"""Schedules and losses against slow or independent references; nested state; random state."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.ops.seeding import random_state, restore_random_state, seed_generators
from stages.training.losses import cross_entropy_loss, distillation_loss, soft_target_loss
from stages.training.schedules import rates_at
from stages.training.settings import TrainingSettings
from stages.training.state_file import read_state, write_state


@given(st.integers(11, 200), st.sampled_from([0.1, 0.3, 0.5]))
@settings(max_examples=30, deadline=None)
def test_onecycle_agrees_with_torch(total, warmup):
    """Users compare recipes by this name."""
    chosen = TrainingSettings(data="digits", learning_rate=0.01, warmup=warmup)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=total, pct_start=warmup)
    for step in range(total):
        rates = rates_at(step, total_steps=total, settings=chosen)
        group = optimizer.param_groups[0]
        assert rates.learning_rate == pytest.approx(group["lr"], rel=1e-9, abs=1e-12)
        assert rates.momentum == pytest.approx(group["betas"][0], rel=1e-9)
        optimizer.step()
        if step + 1 < total:
            scheduler.step()


@given(st.integers(10, 400), st.sampled_from([[0.3, 0.6, 0.9], [0.25, 0.5, 0.75], [0.55]]))
@settings(max_examples=30, deadline=None)
def test_steps_agree_with_torch_where_the_shares_are_whole_steps(tenths, shares):
    total = tenths * 20
    chosen = TrainingSettings(data="digits", learning_rate=0.1, schedule="steps", warmup=0, decay_at=shares)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    milestones = [round(share * total) for share in shares]
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=milestones, gamma=0.1)
    for step in range(total):
        found = rates_at(step, total_steps=total, settings=chosen).learning_rate
        assert found == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"schedule": "steps"}, "schedule: steps and decay_at belong together"),
        ({"decay_at": [0.5]}, "schedule: steps and decay_at belong together"),
        ({"schedule": "steps", "decay_at": [0.6, 0.3]}, "expected rising shares between 0 and 1"),
        ({"schedule": "steps", "decay_at": [30, 60]}, "expected rising shares between 0 and 1"),
    ],
)
def test_a_schedule_of_steps_that_does_nothing_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        TrainingSettings(data="digits", **given)


def test_momentum_is_refused_where_onecycle_moves_it_and_acts_elsewhere():
    """Otherwise a setting without effect would give another key to the same weights."""
    with pytest.raises(ValueError, match=r"momentum is 0\.5, but schedule onecycle"):
        TrainingSettings(data="digits", momentum=0.5)
    shown = TrainingSettings(data="digits").model_dump()
    assert TrainingSettings(**shown).momentum == shown["momentum"], "settings that name every field must be read"
    for schedule in ("cosine", "linear", "constant"):
        chosen = TrainingSettings(data="digits", schedule=schedule, momentum=0.5)
        assert rates_at(3, total_steps=10, settings=chosen).momentum == 0.5


@given(
    st.integers(1, 500), st.floats(0, 0.99), st.sampled_from(["onecycle", "cosine", "linear", "constant"]), st.floats(1e-6, 10)
)
@settings(max_examples=100, deadline=None)
def test_rates_rise_to_the_peak_and_never_above_it(total, warmup, schedule, peak):
    chosen = TrainingSettings(data="digits", learning_rate=peak, warmup=warmup, schedule=schedule)
    rates = [rates_at(step, total_steps=total, settings=chosen).learning_rate for step in range(total)]
    top = rates.index(max(rates))
    assert all(0 <= rate <= peak * (1 + 1e-9) for rate in rates)
    assert all(earlier <= later * (1 + 1e-9) for earlier, later in pairwise(rates[: top + 1]))
    if schedule != "constant":
        assert all(earlier * (1 + 1e-9) >= later for earlier, later in pairwise(rates[top:]))


def test_distillation_mixes_both_losses_and_sends_no_gradient_to_the_teacher():
    teacher = torch.nn.Linear(5, 3)
    images, logits, labels = torch.randn(4, 5), torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 0])
    mixed = distillation_loss(teacher, temperature=3.0, alpha=0.25, label_smoothing=0.1)(images, logits, labels)
    mixed.backward()
    probability = (teacher(images) / 3).softmax(1)
    soft = 9 * (probability * (probability.log() - (logits / 3).log_softmax(1))).sum(1).mean()
    smooth = torch.nn.functional.one_hot(labels, 3) * 0.9 + 0.1 / 3
    hard = -(smooth * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(mixed, 0.25 * soft + 0.75 * hard)
    torch.testing.assert_close(cross_entropy_loss(label_smoothing=0.1)(images, logits, labels), hard)
    assert teacher.weight.grad is None


def test_soft_targets_are_zero_for_equal_models_and_keep_their_gradient_at_high_temperature():
    """T^2 makes the gradient independent of T where T is large (Hinton et al. 2015, section 2.1)."""
    student, teacher = torch.randn(2, 4, dtype=torch.float64, requires_grad=True), torch.randn(2, 4, dtype=torch.float64)
    assert float(soft_target_loss(student.detach(), student.detach() + 1.0, temperature=2.0)) == pytest.approx(0, abs=1e-6)
    gradients = [torch.autograd.grad(soft_target_loss(student, teacher, temperature=t), student)[0] for t in (50.0, 100.0)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0.05, atol=1e-3)


def test_nested_state_comes_back_and_shared_tensors_are_written_once(tmp_path):
    shared = torch.arange(1000.0)
    state = {"a": [shared, {"b": 1, "c": None}], "again": shared, "loss": 0.1 + 0.2, "flag": True, "text": "x", "empty": {}}
    write_state(tmp_path, state)
    read = read_state(tmp_path)
    assert torch.equal(read["a"][0], shared)
    assert torch.equal(read["again"], shared)
    assert {key: read[key] for key in ("loss", "flag", "text", "empty")} == {
        "loss": 0.1 + 0.2,
        "flag": True,
        "text": "x",
        "empty": {},
    }
    assert (tmp_path / "tensors.safetensors").stat().st_size < 4200


@pytest.mark.parametrize("value", [object(), {1: 2}, {"$tensor": "x"}])
def test_state_that_cannot_be_written_is_refused_with_its_path(tmp_path, value):
    with pytest.raises(TypeError, match="/deep/0"):
        write_state(tmp_path, {"deep": [value]})


def test_random_state_comes_back_through_a_file(tmp_path):
    def draw():
        legacy = np.random.mtrand._rand
        return random.random(), float(legacy.rand()), float(legacy.randn()), float(torch.rand(1))

    seed_generators(3)
    draw()
    write_state(tmp_path, random_state())
    expected = draw()
    seed_generators(4)
    restore_random_state(read_state(tmp_path))
    assert draw() == expected
