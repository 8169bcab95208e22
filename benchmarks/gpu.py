"""What compression is worth on a GPU: `python benchmarks/gpu.py [--only sparse,low_bits,tokens,freezing] [--seconds 3]`.

    sparse    2:4 linear layers at ViT-L shapes in float16, in the form that `export.semi_structured` writes, and ViT-L whole
    low_bits  the same layers in int8 (torch._int_mm) and in fp8 (torch._scaled_mm), where torch and the GPU have them
    tokens    ViT-L and ViT-H dense, with DiffRate's operators and with ToMe at the same share of multiply-accumulates
    freezing  the backward pass of ResNet-18 at W4A4 with 0, 50 and 100 % of the weights frozen by rows

Training throughput beside a plain loop: `benchmarks/training.py`. Everything is paired: both sides take turns in one process,
and the median of the rounds' ratios counts. Weights are random: they change no time. Needs torch 2.11 or later and neither
Ray nor a store. Written to benchmarks/out/gpu.json with device and date, and as a Markdown table to stdout.
`--tiny` runs the code on small shapes on any machine, to see that it runs; such figures mean nothing and are not written.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import stages.ops.torchvision_compat  # noqa: F401 - timm does not import without it

# isort: split
import timm
import torch
from frozen_backward import freeze
from torch import Tensor, nn
from torch.nn import functional

from stages.compress_tokens.settings import ToMeSettings, UniformSettings
from stages.compress_tokens.tome import choose_merged
from stages.compress_tokens.uniform import choose_schedule
from stages.evaluate.latency import measure_interleaved, paired_ratio
from stages.export.semi_structured import load_semi_structured, refuse_without_gpu, write_semi_structured
from stages.models.token_reduction import TRANSFORM, kept_tokens, vit_shape
from stages.ops.nm import magnitude_mask
from stages.ops.pattern import NMPattern
from stages.quantize.lts import measure_backward_saving, quantize_model

OUT = Path(__file__).parent / "out" / "gpu.json"
Row = dict[str, Any]

VIT_L = {"qkv": (3072, 1024), "proj": (1024, 1024), "fc1": (4096, 1024), "fc2": (1024, 4096)}
"""Outputs and inputs of the linear layers of a block."""
TOKENS_RATIO = 0.687
"""DiffRate's published budget for ViT-L: 42.290 of 61.556 GMACs."""


class Bench:
    """Where and how long to measure, and at which sizes."""

    def __init__(self, *, seconds: float, tiny: bool) -> None:
        self.seconds = 0.05 if tiny else seconds
        self.tiny = tiny
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = torch.float16 if self.device == "cuda" else torch.float32
        self.rows = 64 if tiny else 64 * 197

    def compare(self, dense: Callable[[], object], subject: Callable[[], object]) -> Row:
        """Milliseconds of both, and how many times faster the second is."""

        def timed(call: Callable[[], object]) -> Callable[[], object]:
            def run() -> None:
                call()
                if self.device == "cuda":
                    torch.cuda.synchronize()

            return run

        with torch.inference_mode():
            found = measure_interleaved({"dense": timed(dense), "subject": timed(subject)}, seconds=self.seconds)
        return {
            "dense_ms": found["dense"].median_ms,
            "ms": found["subject"].median_ms,
            "speed": paired_ratio(found["dense"], found["subject"]),
            "rounds": found["dense"].num_samples,
        }

    def layers(self) -> dict[str, tuple[int, int]]:
        return {name: (sizes[0] // 32, sizes[1] // 16) for name, sizes in VIT_L.items()} if self.tiny else dict(VIT_L)

    def vit(self, name: str) -> nn.Module:
        torch.manual_seed(0)
        arguments = {"depth": 4, "embed_dim": 64, "num_heads": 4} if self.tiny else {}
        model: nn.Module = timm.create_model(name, **arguments)
        return model.eval().to(self.device, self.dtype)


def prune(layer: nn.Linear) -> None:
    """2 of 4 by magnitude: which are kept changes no time."""
    with torch.no_grad():
        layer.weight.mul_(magnitude_mask(layer.weight.float(), pattern=NMPattern(2, 4)).to(layer.weight.dtype))


def sparse(bench: Bench) -> list[Row]:
    """Single layers, then the whole network with every linear layer of its blocks in 2:4."""
    if not bench.tiny:
        refuse_without_gpu()
    rows: list[Row] = []
    for name, (outputs, inputs) in bench.layers().items():
        layer = nn.Sequential(nn.Linear(inputs, outputs)).to(bench.device, bench.dtype)
        prune(layer[0])
        rows.append({"what": f"{name} {outputs}x{inputs}", **compressed(bench, layer, ("0",), torch.randn(bench.rows, inputs))})
    model = bench.vit("vit_large_patch16_224")
    names = tuple(
        f"blocks.{block}.{name}"
        for block in range(len(model.blocks))
        for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    )
    for name in names:
        prune(model.get_submodule(name))
    rows += [
        {"what": f"ViT-L, batch {batch}", **compressed(bench, model, names, torch.randn(batch, 3, 224, 224))}
        for batch in ((1,) if bench.tiny else (1, 64))
    ]
    return rows


def compressed(bench: Bench, model: nn.Module, names: tuple[str, ...], example: Tensor) -> Row:
    """The model beside itself out of the file that the export writes; without a GPU the file is only written and read."""
    example, thin = example.to(bench.device, bench.dtype), copy.deepcopy(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        write_semi_structured(copy.deepcopy(model).half(), names, path)
        if bench.device == "cuda":
            load_semi_structured(thin, path)
    with torch.inference_mode():
        expected, found = model(example).float(), thin(example).float()
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    return {**bench.compare(partial(model, example), partial(thin, example)), "max_relative_difference": difference}


def low_bits(bench: Bench) -> list[Row]:
    """Products alone, with inputs quantized already: what the kernels can give, not what a network does."""
    rows: list[Row] = []
    for name, (outputs, inputs) in bench.layers().items():
        features = torch.randn(bench.rows, inputs, device=bench.device, dtype=bench.dtype)
        weight = torch.randn(outputs, inputs, device=bench.device, dtype=bench.dtype)
        whole = (features.clamp(-2, 2) * 60).to(torch.int8), (weight.clamp(-2, 2) * 60).to(torch.int8).t()
        one = torch.ones((), device=bench.device)
        eight = features.to(torch.float8_e4m3fn), weight.to(torch.float8_e4m3fn).t()
        kinds: dict[str, Callable[[], object]] = {
            "int8": partial(torch._int_mm, *whole),  # noqa: SLF001 - torch has no public name for it
            "fp8": partial(torch._scaled_mm, *eight, scale_a=one, scale_b=one, out_dtype=torch.bfloat16),  # noqa: SLF001
        }
        dense = partial(functional.linear, features, weight)
        for kind, call in kinds.items():
            row: Row = {"what": f"{name} {outputs}x{inputs}, {kind}"}
            try:
                row |= bench.compare(dense, call)
            except (RuntimeError, ValueError, NotImplementedError) as error:
                row["left_out"] = str(error).splitlines()[0][:160]
            rows.append(row)
    return rows


def tokens(bench: Bench) -> list[Row]:
    """Images per second of networks with fewer tokens, beside the share of multiply-accumulates that is left."""
    rows: list[Row] = []
    for name in ("vit_large_patch16_224", "vit_huge_patch14_224"):
        model = bench.vit(name)
        shape = vit_shape(model)
        schedule = choose_schedule(UniformSettings(data="digits", gmacs_ratio=TOKENS_RATIO), shape=shape)
        merged = choose_merged(ToMeSettings(data="digits", gmacs_ratio=TOKENS_RATIO), shape=shape)
        kinds = {
            "DiffRate's operators": {"operator": "ranked", "prune": schedule.prune, "merge": schedule.merge},
            "ToMe": {"operator": "bipartite", "merged": list(merged)},
        }
        for kind, settings in kinds.items():
            reduced = copy.deepcopy(model)
            TRANSFORM.attach(reduced, settings)
            reduced.eval()
            ratio = shape.macs(kept_tokens(reduced)) / shape.dense_macs
            for batch in (1, 64) if not bench.tiny else (2,):
                images = torch.randn(batch, 3, 224, 224, device=bench.device, dtype=bench.dtype)
                row = bench.compare(partial(model, images), partial(reduced, images))
                rows.append(
                    {"what": f"{name}, {kind}, batch {batch}", "gmacs_ratio": ratio, "of_ideal": row["speed"] * ratio, **row}
                )
    return rows


def freezing(bench: Bench) -> list[Row]:
    """1 - time of the backward pass with frozen rows left out / time with all of it, as `quantize.lts` measures it."""
    torch.manual_seed(0)
    side = 32 if bench.tiny else 224
    images = torch.randn(2 if bench.tiny else 64, 3, side, side)
    model = timm.create_model("resnet10t" if bench.tiny else "resnet18", num_classes=100)
    quantize_model(model, images[:2], weight_bits=4, activation_bits=4)
    rows = []
    for share in (0.0, 0.5, 1.0):
        freeze(model.cpu(), share, by_rows=True)
        saved = measure_backward_saving(model.to(bench.device), images.to(bench.device), skip_frozen="rows")
        rows.append({"what": f"{share:.0%} of the weights frozen", "accounted": share / 2, "measured": saved})
    return rows


SECTIONS: dict[str, Callable[[Bench], list[Row]]] = {
    "sparse": sparse,
    "low_bits": low_bits,
    "tokens": tokens,
    "freezing": freezing,
}


def table(title: str, rows: list[Row]) -> str:
    """The rows in Markdown."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        cells = [f"{row[name]:.3g}" if isinstance(row.get(name), float) else str(row.get(name, "")) for name in columns]
        lines.append(f"| {' | '.join(cells)} |")
    return f"### {title}\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas between")
    parser.add_argument("--seconds", type=float, default=3, help="for each pair")
    parser.add_argument("--tiny", action="store_true", help="small shapes on any machine, to see that the code runs")
    arguments = parser.parse_args()
    if not (arguments.tiny or torch.cuda.is_available()):
        parser.error("there is no CUDA GPU here; --tiny only sees that the code runs")
    bench = Bench(seconds=arguments.seconds, tiny=arguments.tiny)
    device = torch.cuda.get_device_name() if bench.device == "cuda" else "cpu"
    found: Row = {"device": device, "torch": torch.__version__, "date": datetime.now(UTC).date().isoformat(), "sections": {}}
    for name in arguments.only.split(","):
        found["sections"][name] = SECTIONS[name](bench)
        print(table(f"{name} ({device}, {found['date']}, torch {torch.__version__})", found["sections"][name]), flush=True)
    if not arguments.tiny:
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
