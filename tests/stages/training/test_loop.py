"""The training loop: deterministic, stoppable, honest about divergence, and open to methods through hooks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from stages.contract import Cancelled, TrainingDiverged, local_context
from stages.data.base import load_dataset
from stages.data.settings import SyntheticData
from stages.ops.seeding import prepare_process
from stages.training.averaging import WeightAverage
from stages.training.evaluation import evaluate_top1
from stages.training.hooks import ParameterGroup, TrainingHook
from stages.training.loop import train
from stages.training.optimizer import NamedOptimizer
from stages.training.schedules import Rates
from stages.training.settings import TrainingSettings

SOURCE = SyntheticData(num_train=48, num_test=20, num_classes=4, noise=0.3)


def small_settings(**changes):
    return TrainingSettings(**{"data": SOURCE, "epochs": 3, "batch_size": 8, "learning_rate": 0.01, **changes})


def small_model():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.1), nn.Flatten())
    return nn.Sequential(body, nn.Linear(216, 4))


def run(folder, *, model=None, hooks=(), seed=0, loss=None, check_cancelled=None, report=None, **changes):
    settings = small_settings(**changes)
    context = replace(local_context(settings, folder=folder, seed=seed), num_threads=1)
    if check_cancelled:
        context = replace(context, check_cancelled=check_cancelled)
    if report:
        context = replace(context, report=report)
    prepare_process(context)
    model = model or small_model()
    return model, train(model, data=load_dataset(SOURCE), settings=settings, context=context, hooks=hooks, loss=loss)


def same_weights(first, second):
    return all(
        torch.equal(one, other) for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_training_learns_and_reports_what_it_measured(tmp_path):
    model, report = run(tmp_path, epochs=6)
    assert report.score.value >= 0.9
    assert report.num_steps == 36
    assert [line["epoch"] for line in report.history] == [1, 2, 3, 4, 5, 6]
    assert report.final_loss == report.history[-1]["loss"] < report.history[0]["loss"]
    assert evaluate_top1(model, load_dataset(SOURCE).test).correct == report.score.total
    assert not model.training


def test_the_same_seed_gives_the_same_bits_whatever_ran_before(tmp_path):
    """Stage hosts are reused: what an earlier stage left in the process must not reach the next artifact."""
    first, report = run(tmp_path / "a", seed=1)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    try:
        second, again = run(tmp_path / "b", seed=1)
    finally:
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
    assert report.history == again.history
    assert same_weights(first, second)
    assert not same_weights(first, run(tmp_path / "c", seed=2)[0])


def test_operational_settings_and_reports_change_no_bit(tmp_path):
    """They stay out of the key, so they must stay out of the weights."""
    plain, _ = run(tmp_path / "a")
    saving, _ = run(tmp_path / "b", checkpoint_every_steps=1, report=lambda **_: None)
    assert same_weights(plain, saving)
    fields = TrainingSettings.model_fields
    operational = {name for name, field in fields.items() if (field.json_schema_extra or {}).get("operational")}
    assert operational == {"checkpoint_every_steps", "checkpoint_every_minutes"}


def test_a_cancelled_run_saves_its_state_and_goes_on_to_the_same_bits(tmp_path):
    calls = []

    def cancel_at_eighth():
        calls.append(None)
        if len(calls) == 8:
            raise Cancelled

    undisturbed, _ = run(tmp_path / "a", ema_decay=0.9)
    with pytest.raises(Cancelled):
        run(tmp_path / "b", ema_decay=0.9, check_cancelled=cancel_at_eighth)
    continued, report = run(tmp_path / "b", ema_decay=0.9)
    assert report.resumed_from_step == 7
    assert same_weights(undisturbed, continued)


def test_progress_is_reported_with_loss_rate_and_accuracy(tmp_path):
    reports = []
    run(tmp_path, report=lambda *, step, total, metrics, epoch=None: reports.append((step, total, dict(metrics))))
    assert reports[-1][:2] == (18, 18)
    assert reports[-1][2].keys() >= {"loss", "learning_rate", "top1_accuracy"}
    assert all(math.isfinite(value) for _, _, metrics in reports for value in metrics.values())


def test_the_end_of_each_epoch_is_reported_once_with_what_was_measured_then(tmp_path):
    """Early stopping judges epochs: one that is missing, or carries the accuracy of another, stops the wrong trial."""
    reports = []

    def note(*, step, total, metrics, epoch=None):
        if epoch is not None:
            reports.append((epoch, step, dict(metrics)))

    _, report = run(tmp_path, report=note, epochs=5, evaluate_every_epochs=2)
    assert [(epoch, step) for epoch, step, _ in reports] == [(number, 6 * number) for number in range(1, 6)]
    assert [{"epoch": epoch, **metrics} for epoch, _, metrics in reports] == list(report.history)
    assert ["top1_accuracy" in metrics for _, _, metrics in reports] == [False, True, False, True, True]


def test_a_continued_run_reports_the_epochs_behind_it_first(tmp_path):
    """A trial that is paused and taken up again, in another run perhaps, has its whole history for who judges it."""
    calls, reports = [], []

    def cancel_in_the_third_epoch():
        calls.append(None)
        if len(calls) == 15:
            raise Cancelled

    _, undisturbed = run(tmp_path / "a", epochs=5)
    with pytest.raises(Cancelled):
        run(tmp_path / "b", epochs=5, check_cancelled=cancel_in_the_third_epoch)

    def note(*, step, total, metrics, epoch=None):
        if epoch is not None:
            reports.append((step, {"epoch": epoch, **metrics}))

    run(tmp_path / "b", epochs=5, report=note)
    assert [line for _, line in reports] == list(undisturbed.history)
    assert [step for step, _ in reports] == [14, 14, 18, 24, 30]


def test_divergence_names_step_loss_rate_and_remedy(tmp_path):
    """The user has to learn what to change, and no state of lost weights may be kept to go on from."""
    with pytest.raises(
        TrainingDiverged, match=r"step \d+ of 18 \(epoch \d\.\d\d\): .*(nan|inf|NaN).*learning rate .*lower learning_rate"
    ):
        run(
            tmp_path,
            optimizer="sgd",
            learning_rate=100.0,
            weight_decay=10.0,
            schedule="constant",
            warmup=0,
            max_gradient_norm=None,
        )


def test_divergence_is_found_at_the_very_step(tmp_path):
    class Poison(TrainingHook):
        def parameter_groups(self, model):
            self.model = model
            return ()

        def after_step(self, step):
            if step == 3:
                self.model[1].weight.data[0, 0] = float("inf")

    with pytest.raises(TrainingDiverged, match="at step 4 of 18"):
        run(tmp_path, hooks=[Poison()], checkpoint_every_steps=5)
    assert not (tmp_path / "checkpoints").exists()


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match="batch_size 64 is larger than the training split of 48 images"):
        run(tmp_path, batch_size=64)


class Recorder(TrainingHook):
    """Claims the last layer's bias; freezes it after `freeze_at` steps."""

    def __init__(self, freeze_at=None):
        self.calls, self.values, self.freeze_at = [], [], freeze_at

    def parameter_groups(self, model):
        self.bias = model[1].bias
        return [ParameterGroup(name="bias", parameters={"1.bias": self.bias}, learning_rate_multiplier=0.5, weight_decay=0.3)]

    def before_step(self, step, epoch):
        self.calls.append((step, epoch))
        self.values.append(self.bias.detach().clone())
        if step == self.freeze_at:
            self.bias.requires_grad_(False)

    def metrics(self):
        return {"num_calls": len(self.calls)}


def test_hooks_are_called_before_every_step_with_step_and_epoch(tmp_path):
    hook = Recorder()
    _, report = run(tmp_path, hooks=[hook])
    assert [step for step, _ in hook.calls] == list(range(18))
    assert [int(epoch) for _, epoch in hook.calls] == [0] * 6 + [1] * 6 + [2] * 6
    assert hook.calls[9][1] == 1.5
    assert [line["num_calls"] for line in report.history] == [6, 12, 18]


def test_a_frozen_hook_parameter_stays_put_with_momentum_and_decay_left_behind(tmp_path):
    """LBC freezes its scores when the mask is final; momentum that went on would change the mask."""
    for optimizer in ("adamw", "sgd"):
        hook = Recorder(freeze_at=7)
        model, _ = run(tmp_path / optimizer, hooks=[hook], optimizer=optimizer, weight_decay=0.1)
        assert not torch.equal(hook.values[6], hook.values[7])
        assert all(torch.equal(value, hook.values[7]) for value in hook.values[7:])
        assert torch.equal(model[1].bias, hook.values[7])


def test_hook_parameters_follow_their_own_rate_and_decay():
    """Checked against a plain SGD step: p - multiplier * lr * (gradient + decay * p)."""
    model, hook = small_model(), Recorder()
    settings = small_settings(
        optimizer="sgd", momentum=0.0, max_gradient_norm=None, schedule="constant", warmup=0, learning_rate=0.1
    )
    optimizer = NamedOptimizer(model, hooks=[hook], settings=settings)
    optimizer.set_rates(Rates(learning_rate=0.1, momentum=0.0))
    bias, weight = model[1].bias.detach().clone(), model[1].weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.update()
    torch.testing.assert_close(model[1].bias.detach(), bias - 0.05 * (1 + 0.3 * bias))
    torch.testing.assert_close(model[1].weight.detach(), weight - 0.1 * (1 + 0.05 * weight))


def test_two_hooks_cannot_claim_one_parameter():
    with pytest.raises(ValueError, match=r"'1\.bias' is claimed by two hooks"):
        NamedOptimizer(small_model(), hooks=[Recorder(), Recorder()], settings=small_settings())


def test_the_average_follows_its_formula_and_leaves_hook_parameters_alone(tmp_path):
    model = nn.Linear(2, 1)
    average = WeightAverage(model, decay=0.5, copied={"bias"})
    expected = model.weight.detach().clone()
    for step in range(5):
        model.weight.data += 1.0
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = expected + (1 - decay) * (model.weight.detach() - expected)
    own = model.weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight.detach(), own)
    assert average.names == ["weight"]

    trained, _ = run(tmp_path / "a", ema_decay=0.99, hooks=[Recorder(freeze_at=7)])
    plain, _ = run(tmp_path / "b", hooks=[Recorder(freeze_at=7)])
    assert torch.equal(trained[1].bias, plain[1].bias)
    assert not torch.equal(trained[1].weight, plain[1].weight)


def test_clipping_leaves_gradients_of_hooks_out():
    model, hook = small_model(), Recorder()
    optimizer = NamedOptimizer(model, hooks=[hook], settings=small_settings(optimizer="sgd", max_gradient_norm=1e-6))
    optimizer.set_rates(Rates(learning_rate=0.1, momentum=0.0))
    before = model[1].weight.detach().clone(), hook.bias.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    optimizer.update()
    assert float((model[1].bias.detach() - before[1]).abs().max()) > 1
    assert float((model[1].weight.detach() - before[0]).abs().max()) < 0.01


def test_bfloat16_trains_with_float32_weights(tmp_path):
    model, report = run(tmp_path, precision="bfloat16", epochs=4)
    assert report.score.value > 0.5
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
