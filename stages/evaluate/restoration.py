"""The stage `evaluate.restoration`: how near restored images are to what they were, beside images left as they came."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch

from stages.contract import StageContext, StageResult
from stages.data.base import load_stage_data
from stages.evaluate.grid import write_grid
from stages.evaluate.restoration_settings import RestorationSettings
from stages.evaluate.subject import open_subject
from stages.models.measures import measure_model
from stages.ops.image_quality import psnr_of, squared_error, ssim
from stages.ops.seeding import prepare_process
from stages.training.model_artifact import receive_model
from stages.training.tasks.restoration import degraded_by, to_unit

GRID_FILE = "samples.png"


@dataclass(kw_only=True)
class _Quality:
    """Error and similarity of each image so far."""

    errors: list[float] = field(default_factory=list)
    similarities: list[float] = field(default_factory=list)

    def add(self, found: torch.Tensor, wanted: torch.Tensor) -> None:
        self.errors += squared_error(found, wanted).tolist()
        self.similarities += ssim(found, wanted).tolist()

    def metrics(self) -> dict[str, float]:
        errors = torch.tensor(self.errors, dtype=torch.float64)
        return {
            "psnr_db": float(psnr_of(errors.mean())),
            "psnr_db_per_image": float(psnr_of(errors).mean()),
            "ssim": fmean(self.similarities),
        }


def run(context: StageContext) -> StageResult:
    """Restore the test images; write `evaluation.json` and `samples.png` (rows of: as it came, restored, as it was).

    Raises:
        ValueError: model, file and data do not fit together.
    """
    settings = context.settings
    assert isinstance(settings, RestorationSettings)
    device = prepare_process(context)
    data = load_stage_data(context)
    bundle = receive_model(context, data, takes="image_to_image")
    model, degraded = bundle.model, degraded_by(bundle.model)
    restore, size_bytes, size_of = open_subject(bundle, context, device=device, stage="evaluate.restoration")
    quality, seconds = {"": _Quality(), "_input": _Quality()}, 0.0
    shown: list[torch.Tensor] = []
    distance = max(1, data.test.num_samples // settings.num_shown)  # neighbouring squares may all be of one sky
    with torch.no_grad():
        for batch in data.test.batches(batch_size=settings.batch_size):
            context.check_cancelled()
            images = batch.images.to(device)
            before = degraded(images)
            begin_s = _now_s(device)
            after = restore(before).to(device)
            seconds += _now_s(device) - begin_s
            wanted = to_unit(model, images)
            for suffix, found in (("", to_unit(model, after)), ("_input", to_unit(model, before))):
                quality[suffix].add(found, wanted)
            first = len(quality[""].errors) - len(images)
            shown += [
                torch.stack(rows).cpu()
                for number, rows in enumerate(zip(before, after, images, strict=True), start=first)
                if number % distance == 0 and number // distance < settings.num_shown
            ]
    count = len(quality[""].errors)
    metrics: dict[str, Any] = {
        **{f"{name}{suffix}": value for suffix, of in quality.items() for name, value in of.metrics().items()},
        "num_samples": count,
        **measure_model(bundle),
        "size_bytes": size_bytes,
    }
    write_grid(torch.cat(shown), context.output / GRID_FILE, spec=data.input_spec, columns=3)
    description = {
        "format": 1,
        "metrics": metrics,
        "data": data.identity or settings.data.identity(),
        "architecture": bundle.architecture.name,
        "transforms": [spec.name for spec in bundle.transforms],
        "size_of": size_of,
    }
    text = json.dumps(description, indent=2, sort_keys=True, allow_nan=False) + "\n"
    (context.output / "evaluation.json").write_text(text, encoding="utf-8")
    return StageResult(metrics=metrics, measurements={"seconds_per_image": seconds / count})


def _now_s(device: torch.device) -> float:
    """The clock, once a GPU has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()
