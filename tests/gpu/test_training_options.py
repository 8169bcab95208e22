"""Training on a GPU: 16 bits, channels last, parts of a batch and torch.compile, each beside float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.contract import Cancelled, local_context
from stages.data.base import load_dataset
from stages.data.image_settings import FolderData
from stages.models.bundle import build_bundle
from stages.models.zoo import find_architecture
from stages.training.loop import TrainingReport, train
from stages.training.settings import TrainingSettings
from tests.stages.data.support import PLAIN, write_folder

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]


def run(folder: Path, *, compiles: bool = False, stop_at: int | None = None, **changes: Any) -> TrainingReport:
    settings = TrainingSettings(**{"data": "digits", "epochs": 8, **changes})
    data = load_dataset(settings.data)
    architecture = find_architecture("cnn_micro", {}, input_spec=data.input_spec, class_names=data.class_names)
    calls: list[None] = []

    def check_cancelled() -> None:
        calls.append(None)
        if len(calls) == stop_at:
            raise Cancelled

    context = replace(local_context(settings, folder=folder), device="cuda", check_cancelled=check_cancelled)
    model = build_bundle(architecture, seed=0).model
    return train(model, data=data, settings=settings, context=context, compiles=compiles)


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "bfloat16"},
        {"precision": "float16"},
        {"precision": "float16", "channels_last": True, "accumulate_steps": 4, "ema_decay": 0.9},
        {"compiles": True},
    ],
    ids=str,
)
def test_each_option_trains_as_well_as_float32(tmp_path: Path, options: dict[str, Any]) -> None:
    plain, other = run(tmp_path / "a"), run(tmp_path / "b", **options)
    assert plain.score.value > 0.9
    assert other.score.value > plain.score.value - 0.03


def test_the_scale_of_the_loss_survives_a_stop(tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        run(tmp_path, precision="float16", stop_at=50)
    report = run(tmp_path, precision="float16")
    assert report.resumed_from_step == 49
    assert report.score.value > 0.9


def test_images_that_other_processes_decoded_come_in_pinned_memory(tmp_path: Path) -> None:
    torch.cuda.init()
    source = FolderData(path=str(write_folder(tmp_path / "images")), num_workers=2, **PLAIN)
    batch = next(iter(load_dataset(source).train.batches(batch_size=4, shuffle_seed=0)))
    assert batch.images.is_pinned()
    assert batch.labels.is_pinned()
