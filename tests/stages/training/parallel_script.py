"""Runs stages in as many processes as asked for, joined by torch.distributed over gloo. Used by test_parallel."""

import json
import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import torch
from torch import distributed

from stages.catalog import all_stages, load_implementation
from stages.contract import Artifact, Cancelled, local_context
from stages.data.base import load_dataset
from stages.data.settings import SyntheticData
from stages.models.bundle import build_bundle, save_bundle
from stages.models.denoisers import find_denoiser
from stages.models.restorers import find_restorer
from stages.models.zoo import find_architecture
from stages.pretrain.diffusion_settings import TINY_DENOISER

DATA = {"name": "synthetic", "height": 8, "width": 8, "num_classes": 4, "num_train": 96, "num_test": 30, "noise": 0.4}
SMALL_VIT = {"depth": 2, "embed_dim": 16}
SMALL_VDSR = {"width": 8, "depth": 3}


def model_artifact(folder, *, stage):
    """A network without batch norm and dropout: of one with them, a share of a batch has other statistics than the whole."""
    data = load_dataset(SyntheticData(**DATA))
    if "diffusion" in stage:
        arguments = {**TINY_DENOISER["model_args"], "block_out_channels": [4, 4], "norm_num_groups": 2}
        architecture = find_denoiser("unet_micro", arguments, input_spec=data.input_spec, num_timesteps=100, schedule="cosine")
    elif "restoration" in stage:
        architecture = find_restorer("vdsr_micro", SMALL_VDSR, input_spec=data.input_spec, scale=2)
    else:
        architecture = find_architecture("vit_micro", SMALL_VIT, input_spec=data.input_spec, class_names=data.class_names)
    save_bundle(build_bundle(architecture, seed=0), folder)
    return Artifact(kind="model", key="0" * 64, files={path.name: path for path in folder.iterdir()})


def run_stage(name, folder, *, params, stop_at=None, rank=0, workers=1):
    spec = all_stages()[name]
    settings = spec.settings(data=DATA, **params)
    inputs = {port: model_artifact(folder / f"in-{rank}-{port}", stage=name) for port in spec.inputs if port != "data"}
    context = local_context(settings, folder=folder / f"rank-{rank}", inputs=inputs, seed=5)
    calls = []

    def check_cancelled():
        calls.append(None)
        if len(calls) == stop_at and rank == 0:
            raise Cancelled

    context = replace(context, num_threads=1, rank=rank, world_size=workers, check_cancelled=check_cancelled)
    try:
        result = load_implementation(spec)(context)
    except Cancelled:
        return {"cancelled": True}
    return {"metrics": dict(result.metrics)}


def main(place, runs, rank, workers):
    torch.set_num_threads(1)
    if workers > 1:
        distributed.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=workers)
    for run in runs:
        folder = place / run["folder"]
        for kind in run.get("inputs", ("model", "teacher")):
            (folder / f"in-{rank}-{kind}").mkdir(parents=True, exist_ok=True)
        found = run_stage(run["stage"], folder, params=run["params"], stop_at=run.get("stop_at"), rank=rank, workers=workers)
        (folder / f"rank-{rank}" / "result.json").write_text(json.dumps(found))
    if workers > 1:
        distributed.destroy_process_group()


def fork_workers(place, runs, workers):
    children = []
    for rank in range(workers):
        child = os.fork()
        if child == 0:
            try:
                main(place, runs, rank, workers)
            except BaseException:  # noqa: BLE001 - a child must not go on in the parent's code
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


if __name__ == "__main__":
    groups = json.loads(sys.argv[1])
    print(json.dumps([fork_workers(Path(place), runs, workers) for place, runs, workers in groups]))
