"""The stage `export.onnx`: one self-contained file, verified where it is made.

What is promised of the file is read off the file: its logits by running it, its sparsity by finding each masked layer's weight
among what it stores. Images go in scaled (value - mean) / std, as the model was trained; `export.json` has the numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.contract import StageContext, StageResult
from stages.data.base import Batch
from stages.export.checks import ONNX_FILE, check_images, describe_onnx, logits_of, write_description
from stages.export.diffusion import describe_sampling
from stages.export.settings import ONNXSettings
from stages.models.bundle import ModelBundle, fold_bundle, load_bundle
from stages.models.nm_mask import masked_layers
from stages.models.zoo import DENOISING
from stages.ops.nm import violating_blocks
from stages.ops.onnx_file import (
    OUTPUT_NAME,
    find_weight,
    open_session,
    rows_scaled_away,
    run_session,
    stored_arrays,
    write_onnx,
)
from stages.training.tasks.base import task_of

BORDER_TRANSFORMS = ("fake_quant", "token_reduction")
"""Transforms that round or rank activations: two runtimes that differ by one rounding error may decide differently."""
BORDER_SHARE = 0.1


def run(context: StageContext) -> StageResult:
    """Write `model.onnx` and `export.json`; the file on disk is what gets checked.

    Raises:
        RuntimeError: the file's logits differ from the model's by more than the tolerance, a masked layer's weight is not in
            the file, or a block in the file has more non-zeros than its pattern allows.
        ValueError: the data have other images than the model takes.
    """
    settings = context.settings
    assert isinstance(settings, ONNXSettings)
    torch.set_num_threads(context.num_threads)
    bundle = load_bundle(context.input("model"))
    spec, path = bundle.architecture.input_spec, context.output / ONNX_FILE
    write_onnx(
        fold_bundle(bundle),
        image_shape=spec.shape,
        path=path,
        opset=settings.opset,
        dynamic_batch=settings.dynamic_batch,
        more_inputs=getattr(bundle.model, "more_inputs", {}),
        output_name=getattr(bundle.model, "output_name", OUTPUT_NAME),
    )
    batch = check_images(bundle, context, data=settings.data, num_samples=settings.verify_samples, stage="export.onnx")
    differences = compare_logits(bundle, path, batch=batch, settings=settings, context=context)
    layers = check_patterns(bundle, path)
    metrics: dict[str, Any] = {
        "size_bytes": path.stat().st_size,
        **differences,
        "num_nm_blocks": sum(layer["num_blocks"] for layer in layers),
        "num_violating_blocks": sum(layer["num_violating_blocks"] for layer in layers),
    }
    description = describe_onnx(bundle, opset=settings.opset, dynamic_batch=settings.dynamic_batch)
    if bundle.architecture.task == DENOISING:
        description = {**description, **describe_sampling(bundle, context.output)}
    write_description(context, {**description, "sparse_layers": layers, "size_bytes": metrics["size_bytes"]})
    return StageResult(metrics=metrics)


def compare_logits(
    bundle: ModelBundle, path: Path, *, batch: Batch, settings: ONNXSettings, context: StageContext
) -> dict[str, float]:
    """Run the same images, and what else the model takes, through the file and the model.

    Returns:
        max_abs_difference: largest difference of a logit.
        max_relative_difference: the same over the model's largest logit.
        share_beyond_tolerance: share of the images with a logit beyond the tolerance.

    Raises:
        RuntimeError: more images than allowed are beyond the tolerance, or the file gives no number.
    """
    session = open_session(path, num_threads=context.num_threads)
    inputs = task_of(bundle).inputs(bundle.model, batch, seed=context.seed)
    size = 64 if settings.dynamic_batch else 1
    expected = logits_of(bundle.model, *inputs, batch_size=size)
    found = logits_of(lambda *part: run_session(session, *part), *inputs, batch_size=size)
    by_image = (found - expected).abs().flatten(1).amax(dim=1)
    relative = by_image / max(float(expected.abs().max()), 1e-12)
    share = float((~(relative <= settings.tolerance)).double().mean())  # a NaN is beyond any tolerance
    allowed = _allowed_share(bundle, settings)
    if share > allowed:
        raise RuntimeError(
            f"export.onnx: the file's logits differ from the model's by up to {float(relative.max()):.3g} of the largest; "
            f"{share:.1%} of {len(found)} images are beyond the tolerance {settings.tolerance:.3g}; {allowed:.1%} may be. "
            "Try another opset; raise tolerance only if you know why"
        )
    return {
        "max_abs_difference": float(by_image.max()),
        "max_relative_difference": float(relative.max()),
        "share_beyond_tolerance": share,
    }


def _allowed_share(bundle: ModelBundle, settings: ONNXSettings) -> float:
    if settings.max_share_beyond is not None:
        return settings.max_share_beyond
    decides = any(transform.name in BORDER_TRANSFORMS for transform in bundle.transforms)
    return BORDER_SHARE if decides else 0.0


def check_patterns(bundle: ModelBundle, path: Path) -> list[dict[str, Any]]:
    """Find every masked layer's weight in the file and count its blocks, and those with more than N non-zeros.

    Raises:
        RuntimeError: a weight is not in the file, or a block breaks its pattern.
    """
    arrays, layers = stored_arrays(path), []
    scaled_away = rows_scaled_away(fold_bundle(bundle), image_shape=bundle.architecture.input_spec.shape)
    for name, mask in masked_layers(bundle.model).items():
        weight = bundle.model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        stored = find_weight(weight, arrays, scaled_away=scaled_away.get(name))
        if stored is None:
            raise RuntimeError(f"export.onnx: the weight of {name} is not among the {len(arrays)} tensors of {path.name}")
        violating = violating_blocks(torch.from_numpy(stored.values.copy()), pattern=mask.pattern)
        blocks = weight.numel() // mask.pattern.m
        if violating:
            raise RuntimeError(f"export.onnx: {violating} of {blocks} blocks of {name} in {path.name} are not {mask.pattern}")
        layers.append(
            {
                "layer": name,
                "tensor": stored.name,
                "n_m": str(mask.pattern),
                "num_blocks": blocks,
                "num_violating_blocks": violating,
            }
        )
    return layers
