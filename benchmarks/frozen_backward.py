"""What frozen weights save of a backward pass: accounted and measured, on layers of ResNet-18 and of DeiT-S.

    OMP_NUM_THREADS=1 python benchmarks/frozen_backward.py [--seconds 60]

At 0, 50, 90 and 100 % frozen, lying in two ways: `rows` (whole output rows or channels) and `scattered` (any weights, which
leaves work to skip only at 100 %). Columns, never mixed: `accounted` is the published formula, f / 2; `skipped` the
multiply-accumulates of the backward pass that were left out; `measured` 1 - time / time with nothing left out, the two timed
alternately on one thread, in seconds of the processor, since other work on the machine would blur those of the clock: median,
smallest and largest of the pairs. `rule_over_backward` is the time of the freezing rule, which runs before each forward pass,
over that of a backward pass. Written to benchmarks/out/frozen_backward.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch
from torch import nn

import stages.ops.torchvision_compat  # noqa: F401 - timm does not import without it
from stages.models.fake_quant import float_weight, quantized_layers, weight_quantizer
from stages.ops.freezing import backward_saving
from stages.quantize.lts import Freezing, quantize_model

SHARES = (0.0, 0.5, 0.9, 1.0)
OUT = Path(__file__).parent / "out" / "frozen_backward.json"


def models() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """One body of each kind, small enough in images for one core: ResNet-18 at 112 pixels, four blocks of DeiT-S at 224."""
    import timm

    torch.manual_seed(0)
    resnet = timm.create_model("resnet18", num_classes=100)
    deit = timm.create_model("deit_small_patch16_224", num_classes=100)
    deit.blocks = deit.blocks[:4]
    return {
        "resnet18 (4, 3, 112, 112)": (resnet, torch.randn(4, 3, 112, 112)),
        "deit_small, 4 blocks (4, 3, 224, 224)": (deit, torch.randn(4, 3, 224, 224)),
    }


def freeze(model: nn.Module, share: float, *, by_rows: bool) -> None:
    """Freeze the first rows of every layer, or the same number of weights anywhere."""
    generator = torch.Generator().manual_seed(0)
    for layer in quantized_layers(model).values():
        quantizer = weight_quantizer(layer)
        with torch.no_grad():
            quantizer.held.copy_(float_weight(layer))
            quantizer.frozen.zero_()
            if by_rows:
                quantizer.frozen[: round(share * len(quantizer.frozen))] = True
            else:
                quantizer.frozen.copy_(torch.rand(quantizer.frozen.shape, generator=generator) < share)
            quantizer.refresh()


def backward_s(model: nn.Module, images: torch.Tensor, *, skips: str) -> float:
    for layer in quantized_layers(model).values():
        weight_quantizer(layer).skips = skips
    loss = model(images).square().mean()
    start = time.process_time()
    loss.backward()
    elapsed = time.process_time() - start
    model.zero_grad(set_to_none=True)
    return elapsed


def measure(model: nn.Module, images: torch.Tensor, freezing: Freezing, *, seconds: float) -> dict[str, object]:
    """Pairs of passes with and without work left out, in turn, until the time is up; at least three."""
    backward_s(model, images, skips="none")
    ratios, end = [], time.monotonic() + seconds
    while len(ratios) < 3 or time.monotonic() < end:
        order = ("rows", "none") if len(ratios) % 2 else ("none", "rows")
        found = {skips: backward_s(model, images, skips=skips) for skips in order}
        ratios.append(found["rows"] / found["none"])
    for layer in freezing.layers.values():
        weight_quantizer(layer).skips = "rows"
    skipped = sum(freezing.macs[name] * weight_quantizer(layer).skipped_fraction for name, layer in freezing.layers.items())
    return {
        "skipped": skipped / (2 * freezing.macs[""]),
        "measured": {
            "median": 1 - statistics.median(ratios),
            "min": 1 - max(ratios),
            "max": 1 - min(ratios),
            "pairs": len(ratios),
        },
        "seconds_without": found["none"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="of the clock, for all rows together")
    seconds = parser.parse_args().seconds / (2 * 2 * len(SHARES))
    torch.set_num_threads(1)
    from stages.ops.counting import count_compute

    results = []
    for name, (model, images) in models().items():
        count = count_compute(model.eval(), images[:1])
        quantize_model(model, images, weight_bits=4, activation_bits=4)
        freezing = Freezing(model.train(), total_steps=1000, warmup_steps=10, macs={**count.macs_by_layer, "": count.macs})
        freezing.before_step(0)
        start = time.process_time()
        freezing.before_step(2)
        rule_s = time.process_time() - start
        for by_rows in (True, False):
            for share in SHARES:
                freeze(model, share, by_rows=by_rows)
                row = {"model": name, "lying": "rows" if by_rows else "scattered", "frozen": share}
                row |= {"accounted": backward_saving(share), **measure(model, images, freezing, seconds=seconds)}
                row["rule_over_backward"] = rule_s / row.pop("seconds_without")
                results.append(row)
                measured = row["measured"]
                print(
                    f"{name:42} {row['lying']:9} frozen {share:4.0%}  accounted {row['accounted']:5.1%}  "
                    f"skipped {row['skipped']:5.1%}  "
                    f"measured {measured['median']:6.1%} ({measured['min']:.1%} to {measured['max']:.1%})",
                    flush=True,
                )
    OUT.parent.mkdir(exist_ok=True)
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "threads": 1, "torch": torch.__version__}
    OUT.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
