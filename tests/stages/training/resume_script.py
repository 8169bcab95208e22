"""Trains a small model in one child process per run, each killed by its own hand where asked to. Used by test_resume."""

import json
import os
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from stages.contract import local_context
from stages.data.base import load_dataset
from stages.ops.tensor_file import write_tensors
from stages.training.hooks import ParameterGroup, TrainingHook
from stages.training.loop import train
from stages.training.settings import TrainingSettings


class Model(nn.Module):
    """Every kind of state: batch norm, dropout, a linear layer, and scores that a hook owns."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(4, 3)
        self.scores = nn.Parameter(torch.ones(4))

    def forward(self, images):
        features = self.norm(self.convolution(images)).relu().mean((2, 3))
        return self.head(self.dropout(features * self.scores))


class Scores(TrainingHook):
    """Trains the scores by its own rules, freezes them half-way, and keeps a running figure of its own."""

    def __init__(self, freeze_at):
        self.freeze_at = freeze_at
        self.trace = torch.zeros(4)

    def parameter_groups(self, model):
        self.scores = model.scores
        return [
            ParameterGroup(name="scores", parameters={"scores": model.scores}, learning_rate_multiplier=3.0, weight_decay=0.1)
        ]

    def before_step(self, step, epoch):
        if step == self.freeze_at:
            self.scores.requires_grad_(False)

    def after_step(self, step):
        self.trace = 0.9 * self.trace + self.scores.detach()

    def state_dict(self):
        return {"trace": self.trace}

    def load_state_dict(self, state):
        self.trace = state["trace"].clone()

    def metrics(self):
        return {"trace": float(self.trace.sum())}


def main(folder, kill_after, optimizer):
    settings = TrainingSettings(
        data={"name": "synthetic", "num_train": 40, "num_test": 12, "num_classes": 3},
        epochs=4,
        batch_size=8,
        optimizer=optimizer,
        learning_rate=0.02,
        ema_decay=0.9,
        max_gradient_norm=1.0,
        checkpoint_every_steps=3,
        checkpoint_every_minutes=None,
    )

    def report(*, step, total, metrics, epoch=None):
        pass

    def check_cancelled():
        if kill_after is not None and hook.steps == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    class Counting(Scores):
        steps = 0

        def after_step(self, step):
            super().after_step(step)
            self.steps = step + 1

    hook = Counting(freeze_at=11)
    context = local_context(settings, folder=folder, seed=3)
    context = replace(context, num_threads=1, check_cancelled=check_cancelled, report=report)
    torch.manual_seed(0)
    model = Model()
    result = train(model, data=load_dataset(settings.data), settings=settings, context=context, hooks=[hook])
    write_tensors(folder / "final.safetensors", {**model.state_dict(), "trace": hook.trace})
    history = {"history": list(result.history), "resumed": result.resumed_from_step}
    (folder / "history.json").write_text(json.dumps(history))


def fork_each(runs):
    """Run each (folder, kill_after, optimizer) in a child of its own and print how each ended; importing torch once."""
    endings = []
    for folder, kill_after, optimizer in runs:
        Path(folder).mkdir(exist_ok=True)
        child = os.fork()
        if child == 0:
            try:
                main(Path(folder), kill_after, optimizer)
            except BaseException:  # noqa: BLE001 - a child must not go on in the parent's code
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        endings.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(endings))


if __name__ == "__main__":
    fork_each(json.loads(sys.argv[1]))
