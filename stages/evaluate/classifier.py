"""The stage `evaluate.classifier`: what a model is worth and what it costs, beside a baseline where there is one.

Three kinds of numbers are kept apart. Nominal ones (gmacs, bops, non-zeros) are counted on the model, whatever it was exported
to. Stored ones (size_bytes) are the sizes of files, and where there is an exported file, accuracies are those of its
predictions. Both follow from the inputs and are metrics. What a clock said (latency) is a measurement. A model that is
stored no smaller and runs no faster is marked so, however few multiplications it needs on paper; so is one that gains one of
the two at the price of the other. Nominal numbers have no part in these marks.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.contract import Artifact, StageContext, StageResult
from stages.data.base import Dataset, load_stage_data
from stages.evaluate.latency import Runner, measure_interleaved, paired_ratio
from stages.evaluate.settings import ClassifierSettings
from stages.evaluate.statistics import paired_drop, wilson_interval
from stages.models.bundle import WEIGHTS_FILE, ModelBundle, fold_bundle, save_bundle
from stages.models.measures import measure_model, model_digest
from stages.models.packed import load_packed
from stages.ops.onnx_file import open_session, run_session, write_onnx
from stages.ops.seeding import prepare_process
from stages.training.model_artifact import receive_model

SMALLER_BELOW, LARGER_ABOVE = 0.98, 1.02
SLOWER_BELOW, FASTER_FROM = 0.97, 1.03
"""A file counts as smaller below 0.98 of the baseline's bytes and as larger above 1.02, a run as slower below 0.97 of its speed
and as faster from 1.03: what alternating timings of one and the same model differ by."""


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """A model under measurement: as a bundle, plain, and as an ONNX file where the comparison is between files."""

    bundle: ModelBundle
    plain: nn.Module
    file: Path | None
    size_bytes: int
    one_by_one: bool = False  # the file takes one image at a time


def run(context: StageContext) -> StageResult:
    """Measure the model; write `evaluation.json`, which holds what follows from the inputs and nothing from the clock.

    With an exported file, accuracies, sizes and latencies are those of files in ONNX Runtime, and the baseline is exported
    as floats for the comparison; without one they are those of the plain model, all transforms folded in, in torch. With a
    packed file its bytes count, and it runs in torch: unpacked, it is a plain model.

    Raises:
        ValueError: model, file and data do not fit together.
    """
    settings = context.settings
    assert isinstance(settings, ClassifierSettings)
    prepare_process(context)
    data = load_stage_data(context)
    exported, packed = context.optional_input("exported"), context.optional_input("packed")
    if exported is not None and packed is not None:
        raise ValueError("evaluate.classifier: both `exported` and `packed` are connected; one evaluation is of one file")
    bundle = receive_model(context, data)
    if packed is not None:
        subject = _packed_subject(bundle, packed)
    else:
        subject = _subject(bundle, exported, context.input("model"), scratch=context.scratch / "model")
    baseline = None
    if context.optional_input("baseline") is not None:
        received = receive_model(context, data, port="baseline")
        baseline = _baseline(received, exported, scratch=context.scratch / "baseline")
    metrics = _metrics(subject, baseline, data=data, context=context)
    description = {
        "format": 1,
        "metrics": metrics,
        "data": data.identity or settings.data.identity(),
        "architecture": subject.bundle.architecture.name,
        "transforms": [spec.name for spec in subject.bundle.transforms],
        "size_of": "onnx" if subject.file else "safetensors" if packed is None else "packed",
    }
    text = json.dumps(description, indent=2, sort_keys=True, allow_nan=False) + "\n"
    (context.output / "evaluation.json").write_text(text, encoding="utf-8")
    return StageResult(metrics=metrics, measurements=_measurements(subject, baseline, data=data, context=context))


def _subject(bundle: ModelBundle, exported: Artifact | None, model: Artifact, *, scratch: Path) -> _Subject:
    if exported is None:
        return _plain_subject(bundle, scratch=scratch)
    written, path = _written(exported), exported.file("model.onnx")
    expected, found = list(bundle.architecture.input_spec.shape), written["input"]["shape"][1:]
    classes = list(bundle.architecture.class_names)
    if found != expected or written["output"]["classes"] != classes:
        raise ValueError(
            f"evaluate.classifier: the exported file takes images {found} of {len(written['output']['classes'])} classes, "
            f"the model {expected} of {len(classes)}; connect the export of this model"
        )
    if "source_digest" not in written:
        raise ValueError(
            "evaluate.classifier: export.json does not say which model was exported (no source_digest); export the model again"
        )
    if written["source_digest"] != model_digest(model):
        raise ValueError(
            "evaluate.classifier: the exported file is that of a model with other weights; connect the export of this model"
        )
    return _Subject(
        bundle=bundle,
        plain=fold_bundle(bundle),
        file=path,
        size_bytes=path.stat().st_size,
        one_by_one=not written["dynamic_batch"],
    )


def _packed_subject(bundle: ModelBundle, packed: Artifact) -> _Subject:
    """What a packed file holds, run in torch as any plain model; the file alone is weighed."""
    path = packed.file("packed.safetensors")
    plain, expected = load_packed(path), fold_bundle(bundle).state_dict()
    found = plain.state_dict()
    if found.keys() != expected.keys() or not all(torch.equal(found[name], tensor) for name, tensor in expected.items()):
        raise ValueError(
            "evaluate.classifier: the packed file is that of a model with other weights; connect the packed file of this model"
        )
    return _Subject(bundle=bundle, plain=plain, file=None, size_bytes=path.stat().st_size)


def _plain_subject(bundle: ModelBundle, *, scratch: Path) -> _Subject:
    """The model that is run and timed is also the one that is weighed: masks and frozen weights are in no user's file."""
    plain = fold_bundle(bundle)
    save_bundle(replace(bundle, model=plain, transforms=()), scratch)
    return _Subject(bundle=bundle, plain=plain, file=None, size_bytes=(scratch / WEIGHTS_FILE).stat().st_size)


def _baseline(bundle: ModelBundle, exported: Artifact | None, *, scratch: Path) -> _Subject:
    if exported is None:
        return _plain_subject(bundle, scratch=scratch)
    scratch.mkdir(exist_ok=True)
    written, path = _written(exported), scratch / "model.onnx"
    plain = fold_bundle(bundle)
    shape = bundle.architecture.input_spec.shape
    write_onnx(plain, image_shape=shape, path=path, opset=written["opset"], dynamic_batch=written["dynamic_batch"])
    size = path.stat().st_size
    return _Subject(bundle=bundle, plain=plain, file=path, size_bytes=size, one_by_one=not written["dynamic_batch"])


def _written(exported: Artifact) -> dict[str, Any]:
    description: dict[str, Any] = json.loads(exported.file("export.json").read_text(encoding="utf-8"))
    return description


def _metrics(subject: _Subject, baseline: _Subject | None, *, data: Dataset, context: StageContext) -> dict[str, Any]:
    labels = torch.cat([batch.labels for batch in data.test.batches(batch_size=512)])
    predicted = _predict(subject, data, num_threads=context.num_threads)
    correct, total = predicted == labels, len(labels)
    low, high = wilson_interval(int(correct.sum()), total)
    metrics: dict[str, Any] = {
        "top1_accuracy": int(correct.sum()) / total,
        "top1_accuracy_low": low,
        "top1_accuracy_high": high,
        "num_samples": total,
        **measure_model(subject.bundle),
        "size_bytes": subject.size_bytes,
    }
    if subject.file is not None:
        by_model = _predict_plain(subject.plain, data)
        metrics["model_top1_accuracy"] = int((by_model == labels).sum()) / total
        metrics["exported_agreement"] = int((by_model == predicted).sum()) / total
    if baseline is not None:
        right = _predict(baseline, data, num_threads=context.num_threads) == labels
        drop, drop_low, drop_high = paired_drop(
            both_right=int((right & correct).sum()),
            only_baseline=int((right & ~correct).sum()),
            only_model=int((correct & ~right).sum()),
            total=total,
        )
        metrics |= {
            "baseline_top1_accuracy": int(right.sum()) / total,
            "top1_drop": drop,
            "top1_drop_low": drop_low,
            "top1_drop_high": drop_high,
            "baseline_size_bytes": baseline.size_bytes,
            "size_ratio": subject.size_bytes / baseline.size_bytes,
            "gmacs_ratio": metrics["gmacs"] / measure_model(baseline.bundle)["gmacs"],
        }
    return metrics


def _predict(subject: _Subject, data: Dataset, *, num_threads: int) -> Tensor:
    """Classes that the exported file names, or the model where there is no file."""
    return _predict_file(subject, data, num_threads=num_threads) if subject.file else _predict_plain(subject.plain, data)


def _predict_plain(model: nn.Module, data: Dataset) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(batch.images).argmax(dim=1) for batch in data.test.batches(batch_size=512)])


def _predict_file(subject: _Subject, data: Dataset, *, num_threads: int) -> Tensor:
    assert subject.file is not None
    session, size = open_session(subject.file, num_threads=num_threads), 1 if subject.one_by_one else 512
    return torch.cat([run_session(session, batch.images).argmax(dim=1) for batch in data.test.batches(batch_size=size)])


def _measurements(subject: _Subject, baseline: _Subject | None, *, data: Dataset, context: StageContext) -> dict[str, Any]:
    settings = context.settings
    if settings.latency_seconds == 0:
        return {}
    # Models run elsewhere as torch runs them unasked, so that is what is timed; whoever needs determinism asks for it.
    torch.use_deterministic_algorithms(False)
    rivals = {"model": subject} | ({"baseline": baseline} if baseline else {})
    makers = {name: _RunnerMaker(rival, num_threads=context.num_threads) for name, rival in rivals.items()}
    share_s = settings.latency_seconds / len(settings.batch_sizes)
    measured: dict[str, Any] = {
        "runtime": "onnxruntime" if subject.file else "torch",
        "device": _device_name(),
        "num_threads": context.num_threads,
    }
    ratios: dict[int, float] = {}
    images = next(iter(data.test.batches(batch_size=max(settings.batch_sizes)))).images
    for batch_size in settings.batch_sizes:
        context.check_cancelled()
        # A small test split is repeated: latency depends on how many images there are, not on what they show.
        batch = images.repeat(-(-batch_size // len(images)), 1, 1, 1)[:batch_size].contiguous()
        found = measure_interleaved({name: make(batch) for name, make in makers.items()}, seconds=share_s)
        model, suffix = found["model"], f"_b{batch_size}"
        measured |= {
            "latency_ms" + suffix: model.median_ms,
            "latency_ms_low" + suffix: model.low_ms,
            "latency_ms_high" + suffix: model.high_ms,
            "images_per_s" + suffix: batch_size / model.median_ms * 1000,
            "num_latency_samples" + suffix: model.num_samples,
        }
        if "baseline" in found:
            ratios[batch_size] = paired_ratio(found["baseline"], model)
            measured |= {"baseline_latency_ms" + suffix: found["baseline"].median_ms}
            measured |= {"latency_ratio" + suffix: ratios[batch_size]}
    if baseline is not None:
        size_ratio = subject.size_bytes / baseline.size_bytes
        measured["neither_smaller_nor_faster"] = is_false_saving(size_ratio=size_ratio, latency_ratios=list(ratios.values()))
        trade_off = describe_trade_off(size_ratio=size_ratio, latency_ratios=ratios)
        measured |= {"trade_off": trade_off} if trade_off else {}
    return measured


def is_false_saving(*, size_ratio: float, latency_ratios: list[float]) -> bool:
    """Whether a result is stored no smaller than its baseline and faster at none of the batch sizes."""
    return size_ratio >= SMALLER_BELOW and all(ratio < FASTER_FROM for ratio in latency_ratios)


def describe_trade_off(*, size_ratio: float, latency_ratios: Mapping[int, float]) -> str | None:
    """What a result gains over its baseline and what it loses, where it does both; None where it does not.

    Args:
        size_ratio: stored bytes over the baseline's.
        latency_ratios: batch size -> the baseline's latency over the result's, above 1 where the result is faster.

    Example:
        >>> describe_trade_off(size_ratio=0.3, latency_ratios={1: 0.8, 64: 1.0})
        'smaller, slower (slower at batch size 1)'
        >>> describe_trade_off(size_ratio=1.1, latency_ratios={1: 1.0, 64: 1.5})
        'faster, larger (faster at batch size 64)'
    """
    speeds = {
        "faster": [size for size, ratio in latency_ratios.items() if ratio >= FASTER_FROM],
        "slower": [size for size, ratio in latency_ratios.items() if ratio < SLOWER_BELOW],
    }
    gains = ["smaller"] * (size_ratio < SMALLER_BELOW) + ["faster"] * bool(speeds["faster"])
    losses = ["slower"] * bool(speeds["slower"]) + ["larger"] * (size_ratio > LARGER_ABOVE)
    if not (gains and losses):
        return None
    places = [
        f"{word} at batch size{'s' * (len(sizes) > 1)} {' and '.join(map(str, sizes))}"
        for word, sizes in speeds.items()
        if sizes
    ]
    return f"{', '.join(gains + losses)} ({', '.join(places)})"


class _RunnerMaker:
    """Opens a model once and gives a function that runs one batch through it."""

    def __init__(self, subject: _Subject, *, num_threads: int) -> None:
        self.subject = subject
        self.session = open_session(subject.file, num_threads=num_threads) if subject.file else None

    def __call__(self, batch: Tensor) -> Runner:
        if self.session is None:
            return lambda: _run_plain(self.subject.plain, batch)
        session, parts = self.session, torch.split(batch, 1) if self.subject.one_by_one else (batch,)
        return lambda: [run_session(session, part) for part in parts]


def _run_plain(model: nn.Module, batch: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(batch)
        return logits


def _device_name() -> str:
    """The processor's own name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines: Mapping[str, str] = {}
    if info.exists():
        pairs = (line.partition(":") for line in info.read_text(encoding="utf-8", errors="replace").splitlines())
        lines = {key.strip(): value.strip() for key, _, value in pairs}
    return lines.get("model name") or platform.processor() or platform.machine()
