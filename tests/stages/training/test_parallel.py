"""Data-parallel training: two processes train as one does on the whole batch, stop together, and go on to the same bits."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from stages.catalog import all_stages
from stages.contract import local_context
from stages.ops.tensor_file import read_tensors
from stages.pretrain.diffusion_settings import TINY_DENOISER
from stages.training.parallel import ParallelGroup, running_statistics
from stages.training.settings import TrainingSettings

PLAIN = {"epochs": 2, "batch_size": 24, "optimizer": "sgd", "schedule": "cosine", "learning_rate": 0.05}
"""With AdamW the last digits of a gradient near 0 decide its sign, and with it a whole step."""
QUANTIZED = {**PLAIN, "batch_size": 96, "weight_bits": 8, "activation_bits": 8, "bound_learning_rate": 1e-9}
"""Few steps and bounds that stand still: a value on the edge between two levels may be rounded either way."""
RATES = {"gmacs_ratio": 0.9, "granularity": 1}
STAGES = {
    "pretrain.classifier": {**PLAIN, "model": "vit_micro", "model_args": {"depth": 2, "embed_dim": 16}},
    "finetune.classifier": PLAIN,
    "finetune.distill": PLAIN,
    "sparsify.lbc": {**PLAIN, "n_m": "2:4"},
    "sparsify.sr_ste": {**PLAIN, "n_m": "2:4"},
    "quantize.qat": QUANTIZED,
    "quantize.lts": QUANTIZED,
    "compress_tokens.diffrate": {**PLAIN, "schedule": "constant", **RATES},
    "pretrain.restoration": {**PLAIN, "model": "vdsr_micro", "model_args": {"width": 8, "depth": 3}},
    "finetune.restoration": PLAIN,
    "compress.joint": {**PLAIN, "epochs": 3, "lbc": {"n_m": "2:4"}, "diffrate": RATES},
}
TINY_UNET = {**TINY_DENOISER["model_args"], "block_out_channels": [4, 4], "norm_num_groups": 2, "attention_head_dim": 2}
DRAWN = {
    "pretrain.diffusion": {"model": "unet_micro", "model_args": TINY_UNET, "epochs": 1, "batch_size": 24},
    "finetune.diffusion": {"epochs": 1, "batch_size": 24},
}
"""Noise is drawn in each process, so that two of them train on other noise than one."""
CNN = {"model": "cnn_micro", "epochs": 4, "batch_size": 24, "ema_decay": 0.9, "checkpoint_every_minutes": None}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Every stage in one process and in two; and one that is stopped at its seventh step, and run again."""
    place = tmp_path_factory.mktemp("parallel")
    runs = [{"stage": name, "folder": name, "params": params} for name, params in STAGES.items()]
    drawn = [{"stage": name, "folder": name, "params": params} for name, params in DRAWN.items()]
    cnn = {"stage": "pretrain.classifier", "params": CNN}
    stopped = [{**cnn, "folder": "stopped", "stop_at": 7}, {**cnn, "folder": "stopped"}, {**cnn, "folder": "undisturbed"}]
    groups = [(str(place / "one"), runs, 1), (str(place / "two"), [*runs, *drawn, *stopped], 2)]
    for folder, _, _ in groups:
        Path(folder).mkdir()
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.stages.training.parallel_script", json.dumps(groups)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == [[0], [0, 0]], ended.stderr
    return place


def weights(folder: Path, rank: int = 0) -> dict[str, torch.Tensor]:
    return read_tensors(folder / f"rank-{rank}" / "output" / "weights.safetensors")


def test_every_data_parallel_stage_is_examined_here():
    assert {name for name, spec in all_stages().items() if spec.data_parallel} == {*STAGES, *DRAWN}


@pytest.mark.parametrize("name", STAGES)
def test_two_processes_train_as_one_does_on_the_whole_batch(name, place):
    """Sums of floats in another order differ in their last digits; anything more is another batch or another method."""
    one, two = weights(place / "one" / name), weights(place / "two" / name)
    assert one.keys() == two.keys()
    for tensor in one:
        torch.testing.assert_close(two[tensor], one[tensor], atol=2e-6, rtol=0, msg=lambda text: f"{name}: {text}")
    first, second = (json.loads((place / g / name / "rank-0" / "result.json").read_text())["metrics"] for g in ("one", "two"))
    exact = first.keys() - {"final_loss", "psnr_db"}  # sums of floats
    assert {key: first[key] for key in exact} == {key: second[key] for key in exact}


@pytest.mark.parametrize("name", [*STAGES, *DRAWN, "undisturbed"])
def test_all_processes_end_with_the_same_bits(name, place):
    """Masks, frozen weights and rates are decided in each process; where weights drift apart, so do these."""
    first, second = (weights(place / "two" / name, rank) for rank in (0, 1))
    assert all(torch.equal(first[tensor], second[tensor]) for tensor in first)


def test_processes_stop_together_and_go_on_to_the_same_bits(place):
    """The first is asked to stop; another that went on would wait for it for ever. Batch norm, average, seeds: all are back."""
    stopped, undisturbed = weights(place / "two" / "stopped"), weights(place / "two" / "undisturbed")
    assert all(torch.equal(stopped[tensor], undisturbed[tensor]) for tensor in undisturbed)
    saved = sorted(path.name for path in (place / "two" / "stopped" / "rank-0" / "checkpoints").iterdir())
    assert saved == ["000000000007"]
    assert not (place / "two" / "stopped" / "rank-1" / "checkpoints").exists()


def test_a_process_that_finds_no_others_says_what_is_missing(tmp_path):
    context = replace(local_context(TrainingSettings(data="digits"), folder=tmp_path), rank=1, world_size=2)
    with pytest.raises(RuntimeError, match=r"process 1 of 2, but torch\.distributed knows none; call"):
        ParallelGroup(context, device=torch.device("cpu"))


def test_a_batch_that_cannot_be_shared_equally_is_refused():
    settings = TrainingSettings(data="digits", batch_size=64, accumulate_steps=2)
    settings.refuse_workers(4)
    with pytest.raises(ValueError, match="batch_size 64 cannot be shared equally by 3 workers in 2 parts each"):
        settings.refuse_workers(3)


def test_statistics_that_rest_are_not_exchanged():
    """A third of three times a number may differ from it in the last digit."""
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2))
    model[1].eval()
    assert [id(found) for found in running_statistics(model)] == [id(model[0].running_mean), id(model[0].running_var)]
