"""Speed of token reduction, paired with the dense model in one process: `python benchmarks/tokens.py [--threads 1]`.

DeiT-S: random weights, batch 16, the published 2.9 G schedule, torch; target: at least 0.85 of the ratio of its MACs.
vit65: 65 tokens of width 32, 0.61 of its MACs, torch and ONNX Runtime; targets at batch 64: 1.3 and 1.15.
Each round times both models once; the median of the rounds' ratios is what is printed, with its quartiles. With one thread the
processor's time is read and not the wall's, which on a shared machine measures the neighbours.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import stages.ops.torchvision_compat  # noqa: F401 - timm does not import without it

# isort: split
import timm
import torch
from torch import Tensor, nn

from stages.models.token_reduction import TRANSFORM, kept_tokens, vit_shape
from stages.models.zoo import build_network, find_architecture
from stages.ops.counting import count_compute
from stages.ops.input_spec import InputSpec
from stages.ops.onnx_file import open_session, run_session, write_onnx
from stages.ops.token_budget import PUBLISHED_SCHEDULES, TokenSchedule

VIT65_SCHEDULES = {
    "as many as tome": TokenSchedule(prune=(57, 42, 27, 15), merge=(50, 35, 20, 11)),
    "found by search": TokenSchedule(prune=(65, 25, 14, 14), merge=(65, 15, 14, 14)),
    "first block whole": TokenSchedule(prune=(65, 44, 18, 7), merge=(65, 26, 12, 4)),
    "pruned only": TokenSchedule(prune=(50, 35, 20, 11), merge=(65, 65, 65, 65)),
}
DIGITS = InputSpec(channels=1, height=8, width=8, mean=(0.0,), std=(1.0,))


def paired(dense: Callable[[], object], reduced: Callable[[], object], *, rounds: int) -> dict[str, float]:
    """Dense time over reduced time, round by round: what a shared machine does to one it does to the other."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    ratios, times = [], []
    for index in range(rounds + 2):
        seconds = []
        for call in (dense, reduced) if index % 2 else (reduced, dense):
            started = clock()
            call()
            seconds.append(clock() - started)
        first, second = seconds if index % 2 else seconds[::-1]
        if index >= 2:
            ratios.append(first / second)
            times.append((first, second))
    low, middle, high = statistics.quantiles(ratios, n=4)
    best = [min(column) for column in zip(*times, strict=True)]
    return {"speed_up": middle, "low": low, "high": high, "dense_ms": best[0] * 1e3, "reduced_ms": best[1] * 1e3}


def reduce(model: nn.Module, schedule: TokenSchedule) -> nn.Module:
    reduced = copy.deepcopy(model)
    TRANSFORM.attach(reduced, {"operator": "ranked", "prune": schedule.prune, "merge": schedule.merge})
    return reduced.eval()


def tome(model: nn.Module, merged: int) -> nn.Module:
    reduced = copy.deepcopy(model)
    TRANSFORM.attach(reduced, {"operator": "bipartite", "merged": [merged] * len(model.blocks)})
    return reduced.eval()


def torch_pair(dense: nn.Module, reduced: nn.Module, images: Tensor, *, rounds: int, repeat: int = 1) -> dict[str, float]:
    def times(model: nn.Module) -> Callable[[], object]:
        return lambda: [model(images) for _ in range(repeat)]

    with torch.inference_mode():
        return paired(times(dense), times(reduced), rounds=rounds)


def onnx_pair(
    dense: nn.Module, reduced: nn.Module, images: Tensor, *, rounds: int, threads: int, repeat: int
) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        sessions = []
        for name, model in (("dense", dense), ("reduced", reduced)):
            path = Path(folder) / f"{name}.onnx"
            write_onnx(model, image_shape=tuple(images.shape[1:]), path=path, opset=18)
            sessions.append(open_session(path, num_threads=threads))

        def times(index: int) -> Callable[[], object]:
            return lambda: [run_session(sessions[index], images) for _ in range(repeat)]

        return paired(times(0), times(1), rounds=rounds)


def show(row: dict[str, object]) -> None:
    print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--only", choices=("deit", "vit65"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.only != "vit65":
        deit = timm.create_model("deit_small_patch16_224").eval()
        schedule = PUBLISHED_SCHEDULES["deit_small_2.9"]
        shape = vit_shape(deit)
        ideal = shape.dense_macs / shape.macs(schedule.kept_tokens(197))
        row = torch_pair(deit, reduce(deit, schedule), torch.randn(16, 3, 224, 224), rounds=max(3, arguments.rounds // 2))
        show(
            {"model": "deit_small", "runtime": "torch", "batch": 16, "ideal": ideal, **row, "of_ideal": row["speed_up"] / ideal}
        )
    if arguments.only != "deit":
        architecture = find_architecture("vit65_micro", {}, input_spec=DIGITS, class_names=tuple("0123456789"))
        dense = build_network(architecture, seed=0).eval()
        macs = count_compute(dense, torch.zeros(1, *DIGITS.shape)).macs
        models = {name: reduce(dense, schedule) for name, schedule in VIT65_SCHEDULES.items()} | {"tome r=15": tome(dense, 15)}
        for name, model in models.items():
            ideal = macs / count_compute(model, torch.zeros(1, *DIGITS.shape)).macs
            for batch in (64, 1):
                images, repeat = torch.randn(batch, *DIGITS.shape), 256 // batch // 8 + 1
                common = {"model": f"vit65 {name}", "kept": list(kept_tokens(model)), "batch": batch, "ideal": ideal}
                row = torch_pair(dense, model, images, rounds=arguments.rounds, repeat=repeat)
                show({**common, "runtime": "torch", **row})
                row = onnx_pair(dense, model, images, rounds=arguments.rounds, threads=arguments.threads, repeat=repeat)
                show({**common, "runtime": "onnxruntime", **row})


if __name__ == "__main__":
    main()
