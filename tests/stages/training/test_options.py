"""What a training stage may be told about how it computes: precision, layout, parts of a batch, compiler, learning rate."""

import os
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from stages.contract import Cancelled, local_context
from stages.data.base import load_dataset
from stages.data.settings import SyntheticData
from stages.ops.seeding import prepare_process
from stages.training import step as step_module
from stages.training.hooks import TrainingHook
from stages.training.loop import train
from stages.training.schedules import rates_at
from stages.training.settings import CompiledTrainingSettings, TrainingSettings

SOURCE = SyntheticData(num_train=48, num_test=20, num_classes=4, noise=0.3)
SGD = {"optimizer": "sgd", "schedule": "cosine"}
"""AdamW turns the last digits of a gradient near 0 into a whole step."""


class Network(nn.Module):
    """Convolutions without batch norm, so that parts of a batch see what the whole sees."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 4)
        self.seen = []

    def forward(self, images):
        self.seen.append((len(images), images.is_contiguous(memory_format=torch.channels_last)))
        return self.head(self.second(self.first(images).relu()).relu().mean((2, 3)))


def run(folder, *, hooks=(), compiles=False, check_cancelled=None, model=None, loss=None, **changes):
    settings = TrainingSettings(**{"data": SOURCE, "epochs": 3, "batch_size": 8, "learning_rate": 0.05, **changes})
    context = replace(local_context(settings, folder=folder), num_threads=1)
    if check_cancelled:
        context = replace(context, check_cancelled=check_cancelled)
    prepare_process(context)
    torch.manual_seed(0)
    model = model or Network()
    report = train(
        model, data=load_dataset(SOURCE), settings=settings, context=context, hooks=hooks, loss=loss, compiles=compiles
    )
    return model, report


def largest_difference(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return max(float((one - other).abs().max()) for one, other in pairs)


class Counting(TrainingHook):
    def __init__(self):
        self.calls = []

    def before_step(self, step, epoch):
        self.calls.append("step")

    def before_forward(self):
        self.calls.append("forward")

    def after_step(self, step):
        self.calls.append("update")


def test_parts_of_a_batch_train_as_the_whole_does(tmp_path):
    """The sum of a batch's gradients in another order: the last digits of float32, and nothing else."""
    whole, report = run(tmp_path / "a", **SGD)
    counting = Counting()
    parts, again = run(tmp_path / "b", accumulate_steps=4, hooks=[counting], **SGD)
    assert largest_difference(whole, parts) < 1e-6
    assert again.num_steps == report.num_steps
    assert {size for size, _ in parts.seen[:24]} == {2}
    assert counting.calls[:7] == ["step", *["forward"] * 4, "update", "step"]


def test_parts_that_are_not_equal_are_refused():
    with pytest.raises(ValidationError, match="accumulate_steps 3 does not divide batch_size 8"):
        TrainingSettings(data=SOURCE, batch_size=8, accumulate_steps=3)


def test_channels_last_changes_the_layout_and_not_the_result(tmp_path):
    plain, _ = run(tmp_path / "a", **SGD)
    other, _ = run(tmp_path / "b", channels_last=True, **SGD)
    assert {laid for size, laid in other.seen if size == 8} == {True}
    assert largest_difference(plain, other) < 1e-6
    assert all(weight.is_contiguous() for weight in other.state_dict().values()), "files and stages after it know one layout"


def test_a_stopped_run_goes_on_in_its_layout_to_the_same_bits(tmp_path):
    calls = []

    def cancel_at_seventh():
        calls.append(None)
        if len(calls) == 7:
            raise Cancelled

    options = {"channels_last": True, "accumulate_steps": 2, "ema_decay": 0.9}
    undisturbed, _ = run(tmp_path / "a", **options)
    with pytest.raises(Cancelled):
        run(tmp_path / "b", check_cancelled=cancel_at_seventh, **options)
    continued, report = run(tmp_path / "b", **options)
    assert report.resumed_from_step == 6
    assert largest_difference(undisturbed, continued) == 0


def test_bfloat16_computes_in_16_bits_and_keeps_weights_in_32(tmp_path):
    kinds = []
    torch.manual_seed(0)
    model = Network()
    model.second.register_forward_hook(lambda _layer, _inputs, output: kinds.append(output.dtype) if model.training else None)
    model, report = run(tmp_path, model=model, precision="bfloat16", epochs=6)
    assert set(kinds) == {torch.bfloat16}
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    assert report.score.value > 0.5


def test_float16_on_a_cpu_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"precision float16 needs a GPU .* use bfloat16"):
        run(tmp_path, precision="float16")


def test_a_step_whose_gradients_overflow_moves_nothing_and_lowers_the_scale(tmp_path, monkeypatch):
    """The rules of float16, in float32: so they can be seen without a GPU."""

    class Scaling(step_module.OptimizerStep):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=100)

    def large(_images, logits, labels):
        return 4 * functional.cross_entropy(logits, labels)

    monkeypatch.setattr("stages.training.loop.OptimizerStep", Scaling)
    counting = Counting()
    scaled, _ = run(tmp_path / "a", hooks=[counting], loss=large, **SGD)
    assert 0 < counting.calls.count("update") < counting.calls.count("step") == 18
    monkeypatch.undo()
    plain, _ = run(tmp_path / "b", loss=large, **SGD)
    assert 0 < largest_difference(plain, scaled) < 0.1
    assert all(bool(weight.isfinite().all()) for weight in scaled.parameters())


def test_the_learning_rate_grows_with_the_batch_only_where_it_is_told_to():
    """Goyal et al. 2017: twice the images, twice the rate."""
    for base, batch, expected in ((None, 64, 0.1), (64, 64, 0.1), (32, 64, 0.2), (128, 64, 0.05)):
        settings = TrainingSettings(
            data=SOURCE, learning_rate=0.1, batch_size=batch, learning_rate_batch_size=base, schedule="constant", warmup=0
        )
        assert settings.peak_learning_rate == pytest.approx(expected)
        assert rates_at(0, total_steps=10, settings=settings).learning_rate == pytest.approx(expected)


@pytest.mark.slow
def test_a_compiled_model_trains_as_the_plain_one(tmp_path):
    plain, _ = run(tmp_path / "a", epochs=1, model=plain_network(), **SGD)
    compiled, report = run(tmp_path / "b", epochs=1, model=plain_network(), compiles=True, **SGD)
    assert largest_difference(plain, compiled) < 1e-5
    assert report.num_steps == 6
    assert all(not name.startswith("_orig_mod") for name in compiled.state_dict())


def test_a_missing_compiler_is_told_in_a_sentence(tmp_path, monkeypatch):
    def fail(*_arguments, **_options):
        raise torch._inductor.exc.InvalidCxxCompiler

    monkeypatch.setattr(torch, "compile", lambda _model: fail)
    with pytest.raises(RuntimeError, match=r"compile: torch\.compile cannot compile .* C\+\+ compiler .* or leave compile out"):
        run(tmp_path, compiles=True)


def test_only_stages_whose_computation_stays_the_same_can_be_compiled():
    assert "compile" in CompiledTrainingSettings.model_fields
    assert "compile" not in TrainingSettings.model_fields


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 4)

    def forward(self, images):
        return self.head(functional.relu(images.flatten(1)))


def plain_network():
    torch.manual_seed(0)
    return Plain()


os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of compiling processes for one small function
