"""What the stages of this kind share: images to check a file with, differences of logits, and what `export.json` says.

Knows no format's own rules.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from stages.contract import StageContext
from stages.data.base import Batch, load_dataset
from stages.data.source import DataSource
from stages.models.bundle import ModelBundle
from stages.models.measures import model_digest
from stages.ops.onnx_file import INPUT_NAME, OUTPUT_NAME
from stages.ops.seeds import derive_seed

ONNX_FILE, DESCRIPTION_FILE = "model.onnx", "export.json"


def check_images(bundle: ModelBundle, context: StageContext, *, data: DataSource | None, num_samples: int, stage: str) -> Batch:
    """Seeded noise of the scale that the model is used to, and as many test images where there are data.

    Labels of the noise go through all classes in turn.

    Raises:
        ValueError: the data have other images than the model takes.
    """
    spec = bundle.architecture.input_spec
    generator = torch.Generator().manual_seed(derive_seed(context.seed, "export"))
    images = torch.randn(num_samples, *spec.shape, generator=generator)
    labels = torch.arange(num_samples) % max(len(bundle.architecture.class_names), 1)
    if data is None:
        return Batch(images, labels)
    dataset = load_dataset(data, artifact=context.optional_input("data"))
    if dataset.input_spec != spec:
        raise ValueError(f"{stage}: the model takes images {spec}; the data have {dataset.input_spec}")
    held_out = next(iter(dataset.test.batches(batch_size=num_samples)))
    return Batch(torch.cat([images, held_out.images]), torch.cat([labels, held_out.labels]))


def logits_of(model: Callable[..., Tensor], *inputs: Tensor, batch_size: int = 64) -> Tensor:
    """Logits (B, classes), or what else the model gives for each image, computed in parts without gradients."""
    with torch.inference_mode():
        return torch.cat([model(*part) for part in zip(*(torch.split(each, batch_size) for each in inputs), strict=True)])


def logit_differences(found: Tensor, expected: Tensor) -> dict[str, float]:
    """Largest difference of a logit, as it is and over the largest expected logit."""
    difference = float((found - expected).abs().max())
    return {
        "max_abs_difference": difference,
        "max_relative_difference": difference / max(float(expected.abs().max()), 1e-12),
    }


def describe_onnx(bundle: ModelBundle, *, opset: int, dynamic_batch: bool) -> dict[str, Any]:
    """What whoever runs the file must know, and `evaluate.classifier` reads."""
    spec = bundle.architecture.input_spec
    return {
        "format": 1,
        "file": ONNX_FILE,
        "opset": opset,
        "dynamic_batch": dynamic_batch,
        "input": {
            "name": INPUT_NAME,
            "shape": ["batch" if dynamic_batch else 1, *spec.shape],
            "type": "float32",
            "normalization": {"inside": False, "formula": "(value - mean) / std", "pixel_range": [0, 1]}
            | {"mean": list(spec.mean), "std": list(spec.std)}
            | ({"pixel_range": None} if spec.are_latents else {}),
        },
        "output": {"name": OUTPUT_NAME, "classes": list(bundle.architecture.class_names)},
        "architecture": bundle.architecture.name,
        "transforms": [transform.name for transform in bundle.transforms],
    }


def write_description(context: StageContext, description: Mapping[str, Any]) -> None:
    """Write `export.json` with the digest of the exported model; equal models and descriptions give equal bytes."""
    whole = {**description, "source_digest": model_digest(context.input("model"))}
    text = json.dumps(whole, indent=2, sort_keys=True, allow_nan=False) + "\n"
    (context.output / DESCRIPTION_FILE).write_text(text, encoding="utf-8")
