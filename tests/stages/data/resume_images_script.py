"""Trains on packed images, each run in a child process that kills itself where asked to. Used by test_resume_images."""

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
from stages.training.hooks import TrainingHook
from stages.training.loop import train
from stages.training.settings import TrainingSettings
from tests.stages.data.support import PLAIN, numbers_of

NUM_STEPS = 12
KILLED_AFTER = 10
"""The second epoch's fourth step; a state is saved at each fourth, so two steps are made again."""


class Numbers(TrainingHook):
    """Notes which images each step was given, as a later look at what a run has seen."""

    def __init__(self, folder, kill_after):
        self.folder, self.kill_after, self.images = folder, kill_after, []

    def after_step(self, step):
        (self.folder / f"step-{step:03d}.json").write_text(json.dumps(self.images))
        if step + 1 == self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder, packed, augment, num_workers, kill_after):
    settings = TrainingSettings(
        data={**PLAIN, "name": "parquet", "path": packed, "shuffle_window": 12, "augment": augment, "num_workers": num_workers},
        epochs=2, batch_size=4, learning_rate=0.01, shift_pixels=0, checkpoint_every_steps=4, checkpoint_every_minutes=None,
    )  # fmt: skip
    context = replace(local_context(settings, folder=folder, seed=3), num_threads=1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(144, 2))
    hook = Numbers(folder, kill_after)

    def loss(images, logits, labels):
        hook.images = numbers_of(images)
        return nn.functional.cross_entropy(logits, labels)

    report = train(model, data=load_dataset(settings.data), settings=settings, context=context, hooks=[hook], loss=loss)
    assert report.num_steps == NUM_STEPS
    write_tensors(folder / "final.safetensors", model.state_dict())


def fork_each(runs):
    endings = []
    for folder, *arguments in runs:
        Path(folder).mkdir(exist_ok=True)
        child = os.fork()
        if child == 0:
            try:
                main(Path(folder), *arguments)
            except BaseException:  # noqa: BLE001 - a child must not go on in the parent's code
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        endings.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(endings))


if __name__ == "__main__":
    torch.set_num_threads(1)
    fork_each(json.loads(sys.argv[1]))
