"""Images per second of the training loop beside a plain PyTorch loop, and of the data pipeline beside torch's and pyarrow's.

    python benchmarks/training.py [--pairs 7] [--device cpu] [--precision bfloat16] [--parts loop,folder,parquet]
                                     [--json FILE]

Each figure is the median over pairs: one after the other in the same process, in alternating order, so that what else the
machine does weighs on both alike. The plain loop is the fastest that one writes by hand: tensors in memory, cut by a random
permutation, no DataLoader, no progress, no saved states; optimizer (fused AdamW), OneCycle, clipping and label smoothing are
the same, and so is one look at the test images at the end. The target is 0.97 of its images per second.

On a CPU the processor's time counts beside the clock's ("cpu"): one thread works, and a busy machine stretches the clock alone.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pyarrow import parquet
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from stages.contract import local_context
from stages.data.base import Dataset, load_dataset
from stages.data.image_settings import FolderData, ParquetData
from stages.data.image_transforms import make_decoder
from stages.data.pack import pack
from stages.data.settings import PackSettings
from stages.models.bundle import build_bundle
from stages.models.zoo import find_architecture
from stages.training.loop import train
from stages.training.settings import TrainingSettings

TARGET = 0.97
SMALL: dict[str, Any] = {"name": "synthetic", "height": 8, "width": 8, "num_train": 1344, "num_test": 448}
CASES: dict[str, tuple[dict[str, Any], int, int]] = {  # model: data, epochs on a CPU (0: not there), on a GPU
    "vit_micro": (SMALL, 3, 30),
    "cnn_micro": (SMALL, 6, 30),
    "resnet20": ({**SMALL, "channels": 3, "height": 32, "width": 32, "num_train": 640, "num_test": 64}, 1, 10),
    "deit_small_patch16_224": ({**SMALL, "channels": 3, "height": 224, "width": 224, "num_train": 640, "num_test": 64}, 0, 5),
}
BATCH_SIZE, LEARNING_RATE = 64, 3e-3
NUM_IMAGES, SIDE = 600, 160
GPU_FILE = "training_gpu.json"
"""Taken for figures of a GPU by `results.py`."""
Action = Callable[[], "Measured"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of both loops")
    parser.add_argument("--parts", default="loop,folder,parquet")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    asked = parser.parse_args()
    if asked.json is not None and asked.json.name == GPU_FILE and asked.device == "cpu":
        parser.error(f"{GPU_FILE} is for figures of a GPU, and there is none here; name another file")
    torch.set_num_threads(1 if asked.device == "cpu" else os.cpu_count() or 1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        if "loop" in asked.parts:
            models = [model for model, (_, epochs_cpu, _) in CASES.items() if epochs_cpu or asked.device != "cpu"]
            rows += [loop_row(model, Path(folder), asked.device, asked.pairs, asked.precision) for model in models]
        if "folder" in asked.parts or "parquet" in asked.parts:
            source = make_folder(Path(folder) / "images")
        if "folder" in asked.parts:
            rows += [folder_row(source, workers, asked.pairs) for workers in (0, 2)]
        if "parquet" in asked.parts:
            rows += parquet_rows(source, Path(folder), asked.pairs)
    load = os.getloadavg()[0]
    print(f"{torch.__version__}, {asked.device}, load {load:.1f} on {os.cpu_count()} cores, {asked.pairs} pairs")
    for row in rows:
        cpu = f"  cpu {row['cpu_ratio']:.3f} {row['cpu_spread']}" if row["cpu_ratio"] else ""
        print(
            f"{row['what']:34} {row['ours']:9.0f} {row['other']:9.0f} images/s  ratio {row['ratio']:.3f} {row['spread']}{cpu}"
        )
    if asked.json is not None:
        device = torch.cuda.get_device_name() if asked.device != "cpu" else "cpu"
        content = {
            "torch": torch.__version__, "device": device, "date": datetime.now(UTC).date().isoformat(), "load": load,
            "cores": os.cpu_count(), "precision": asked.precision, "rows": rows,
        }  # fmt: skip
        asked.json.write_text(json.dumps(content, indent=1) + "\n")
    loops = [row["cpu_ratio"] or row["ratio"] for row in rows if row["what"].startswith("loop")]
    return int(any(ratio < TARGET for ratio in loops))


@dataclass(frozen=True)
class Measured:
    """So many images in so many seconds, of the clock and of this process on the processor."""

    images: int
    clock_s: float
    cpu_s: float


@contextmanager
def measuring(found: list[tuple[float, float]]) -> Iterator[None]:
    """Append the seconds of the clock and of the processor that the block takes."""
    clock_s, cpu_s = time.perf_counter(), time.process_time()
    yield
    found.append((time.perf_counter() - clock_s, time.process_time() - cpu_s))


def paired(what: str, ours: Action, other: Action, pairs: int, *, counts_cpu: bool = False) -> dict[str, Any]:
    """Medians of images per second, and of their ratio pair by pair; the first pair warms up."""
    found: list[tuple[Measured, Measured]] = []
    for number in range(pairs + 1):
        order = (ours, other) if number % 2 else (other, ours)
        measured = {each: each() for each in order}
        found.append((measured[ours], measured[other]))
    found = found[1:]
    ratio, spread = _ratio([(mine.images / mine.clock_s) / (theirs.images / theirs.clock_s) for mine, theirs in found])
    cpu_ratio, cpu_spread = _ratio([(mine.images / mine.cpu_s) / (theirs.images / theirs.cpu_s) for mine, theirs in found])
    return {
        "what": what,
        "ours": statistics.median(mine.images / mine.clock_s for mine, _ in found),
        "other": statistics.median(theirs.images / theirs.clock_s for _, theirs in found),
        "ratio": ratio,
        "spread": spread,
        "cpu_ratio": cpu_ratio if counts_cpu else None,
        "cpu_spread": cpu_spread if counts_cpu else None,
    }


def _ratio(ratios: list[float]) -> tuple[float, str]:
    return statistics.median(ratios), f"({min(ratios):.2f}-{max(ratios):.2f})"


# The loop


def loop_row(model: str, folder: Path, device: str, pairs: int, precision: Any) -> dict[str, Any]:
    """One model trained by both loops from the same weights."""
    source, epochs_cpu, epochs_gpu = CASES[model]
    epochs = epochs_cpu if device == "cpu" else epochs_gpu
    settings = TrainingSettings(
        data=source, epochs=epochs, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE, shift_pixels=0,
        evaluate_every_epochs=epochs, checkpoint_every_minutes=None, precision=precision,
    )  # fmt: skip
    data = load_dataset(settings.data)
    numbers = iter(range(10_000))

    def network() -> nn.Module:
        architecture = find_architecture(model, {}, input_spec=data.input_spec, class_names=data.class_names)
        return build_bundle(architecture, seed=0).model

    num_images = data.train.num_samples // BATCH_SIZE * BATCH_SIZE * epochs

    def ours() -> Measured:
        context = local_context(settings, folder=folder / f"{model}-{next(numbers)}")
        context = replace(context, num_threads=torch.get_num_threads(), device=device)
        taken: list[tuple[float, float]] = []
        bare = network()
        with torch.random.fork_rng(), redirect_stdout(io.StringIO()), measuring(taken):
            train(bare, data=data, settings=settings, context=context)
            _settle(device)
        return Measured(num_images, *taken[0])

    def other() -> Measured:
        return Measured(num_images, *plain_loop(network(), data, settings, device))

    return paired(f"loop, {model}, {precision}", ours, other, pairs, counts_cpu=device == "cpu")


def plain_loop(model: nn.Module, data: Dataset, settings: TrainingSettings, device: str) -> tuple[float, float]:
    """Seconds of the clock and of the processor of a training loop as one writes it by hand."""
    torch.use_deterministic_algorithms(False)
    model = model.to(device)
    images, labels = (part.to(device) for part in next(iter(data.train.batches(batch_size=data.train.num_samples))))
    test = next(iter(data.test.batches(batch_size=data.test.num_samples)))
    test_images, test_labels = (part.to(device) for part in test)
    taken: list[tuple[float, float]] = []
    with measuring(taken):
        decayed = [weight for weight in model.parameters() if weight.ndim >= 2]
        others = [weight for weight in model.parameters() if weight.ndim < 2]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=True)
        steps = len(images) // BATCH_SIZE
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=steps * settings.epochs)
        model.train()
        for _ in range(settings.epochs):
            order = torch.randperm(len(images)).to(device)
            losses: list[Tensor] = []
            for step in range(steps):
                index = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
                with torch.autocast(device, dtype=torch.bfloat16, enabled=settings.precision == "bfloat16"):
                    logits = model(images[index])
                    loss = functional.cross_entropy(logits, labels[index], label_smoothing=settings.label_smoothing)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                schedule.step()
                losses.append(loss.detach())
            torch.stack(losses).mean().item()
        model.eval()
        with torch.no_grad():
            (model(test_images).argmax(dim=1) == test_labels).float().mean().item()
        _settle(device)
    return taken[0]


def _settle(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


# Data


def make_folder(root: Path) -> FolderData:
    """JPEGs of smooth noise in 10 class folders."""
    generator = np.random.default_rng(0)
    for split, count in (("train", NUM_IMAGES), ("test", 20)):
        for number in range(count):
            place = root / split / f"c{number % 10}"
            place.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8))
            coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(place / f"{number}.jpg", quality=90)
    return FolderData(path=str(root), image_size=128, augment={"crop_scale": [0.3, 1.0], "flip": 0.5})


class PlainFolder(TorchDataset[Any]):
    """What torchvision's ImageFolder does: a file, its class, a transform."""

    def __init__(self, root: Path, transform: Callable[[Image.Image], Tensor]) -> None:
        classes = sorted(path.name for path in root.iterdir())
        self.files = [(path, classes.index(name)) for name in classes for path in sorted((root / name).iterdir())]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), label


def folder_row(source: FolderData, workers: int, pairs: int) -> dict[str, Any]:
    """Decoded, augmented batches of a folder, beside torch's DataLoader with timm's same transform."""
    source = source.model_copy(update={"num_workers": workers})
    data = load_dataset(source)
    transform = make_decoder(source, num_classes=10).train_view
    loader = DataLoader(
        PlainFolder(Path(source.path) / "train", transform), batch_size=BATCH_SIZE, shuffle=True, num_workers=workers
    )
    seeds = iter(range(10_000))
    return paired(
        f"folder, {workers} decoding processes",
        lambda: _read(len(batch.images) for batch in data.train.batches(batch_size=BATCH_SIZE, shuffle_seed=next(seeds))),
        lambda: _read(len(images) for images, _ in loader),
        pairs,
        counts_cpu=workers == 0,
    )


def parquet_rows(source: FolderData, folder: Path, pairs: int) -> list[dict[str, Any]]:
    """Encoded images of shards, checked and shuffled, beside pyarrow that reads them as they lie; and decoded ones."""
    settings = PackSettings(data={"name": "folder", "path": source.path}, rows_per_group=64)
    pack(local_context(settings, folder=folder / "packing"))
    packed = folder / "packing" / "output"
    shards = ParquetData(path=str(packed), **source.model_dump(include={"image_size", "augment"}))
    data = load_dataset(shards)
    images: Any = data.train
    transform = make_decoder(source, num_classes=10)
    seeds = iter(range(10_000))

    def encoded() -> Measured:
        return _read(1 for _ in images.images.read(images.images.order(next(seeds))))

    def decoded_by_hand() -> Iterator[int]:
        found: list[Tensor] = []
        for content in raw(packed):
            with Image.open(io.BytesIO(content)) as image:
                found.append(transform.train_view(image.convert("RGB")))
            if len(found) == BATCH_SIZE:
                yield len(torch.stack(found))
                found.clear()
        if found:
            yield len(torch.stack(found))

    return [
        paired("parquet, encoded images", encoded, lambda: _read(1 for _ in raw(packed)), pairs, counts_cpu=True),
        paired(
            "parquet, decoded images",
            lambda: _read(len(batch.images) for batch in data.train.batches(batch_size=BATCH_SIZE, shuffle_seed=next(seeds))),
            lambda: _read(decoded_by_hand()),
            pairs,
            counts_cpu=True,
        ),
    ]


def raw(packed: Path) -> Iterator[bytes]:
    """Images, labels and names of the training shards by pyarrow alone, in stored order and without a check."""
    for path in sorted(packed.glob("train*.parquet")):
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=BATCH_SIZE):
            for image, _label, _name in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield image


def _read(counts: Iterator[int]) -> Measured:
    taken: list[tuple[float, float]] = []
    with measuring(taken):
        images = sum(counts)
    return Measured(images, *taken[0])


if __name__ == "__main__":
    raise SystemExit(main())
