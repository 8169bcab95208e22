"""The stage `export.onnx_int8`: an ONNX file whose layers onnxruntime runs on integers, checked where it is made.

onnxruntime's own quantizer does the work. What is added: a plan per kind of operator (`quantized_onnx`), bytes that repeat,
zeros of masked layers checked on the stored integers, the operators that really run counted, and agreement with the model.
Whether the file is faster than the float one is a matter of the machine: connect it to `evaluate.classifier` with a baseline.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.contract import StageContext, StageResult
from stages.data.base import Dataset, first_images, load_stage_data
from stages.export.checks import ONNX_FILE, describe_onnx, logit_differences, logits_of, write_description
from stages.export.quantized_onnx import (
    INTEGER_OPERATORS,
    count_operators,
    plan_quantization,
    stored_integers,
    write_quantized,
)
from stages.export.settings import INT8Settings
from stages.models.bundle import ModelBundle, fold_bundle
from stages.models.nm_mask import masked_layers
from stages.ops.onnx_file import find_weight, open_session, rows_scaled_away, run_session, stored_arrays, write_onnx
from stages.training.model_artifact import receive_model

CALIBRATION_BATCH = 64


def run(context: StageContext) -> StageResult:
    """Write `model.onnx` and `export.json`; the file on disk is what gets checked.

    Raises:
        RuntimeError: the file classifies too few test images as the model does, no operator that runs multiplies integers, or
            a weight outside of a mask is not 0 in the file.
        ValueError: model and data do not fit, or nothing in the model can be quantized as asked.
    """
    settings = context.settings
    assert isinstance(settings, INT8Settings)
    torch.set_num_threads(context.num_threads)
    data = load_stage_data(context)
    bundle = receive_model(context, data)
    plain, spec = fold_bundle(bundle), bundle.architecture.input_spec
    source, path = context.scratch / "float.onnx", context.output / ONNX_FILE
    write_onnx(plain, image_shape=spec.shape, path=source, opset=settings.opset, dynamic_batch=settings.dynamic_batch)
    plan = plan_quantization(source, mode=settings.mode, weight_bits=settings.weight_bits)
    size = CALIBRATION_BATCH if settings.dynamic_batch else 1
    batches = _calibration(data, count=settings.calibration_samples, batch_size=size)
    write_quantized(source, path, plan=plan, calibration=batches, scratch=context.scratch)
    operators = count_operators(path, scratch=context.scratch)
    num_integer = sum(count for name, count in operators.items() if name in INTEGER_OPERATORS)
    if not num_integer:
        raise RuntimeError(f"export.onnx_int8: no operator of the file multiplies integers; it has {dict(operators)}")
    images = first_images(data.test, settings.verify_samples, batch_size=512)
    session = open_session(path, num_threads=context.num_threads)
    expected = logits_of(plain, images, batch_size=size)
    found = logits_of(lambda part: run_session(session, part), images, batch_size=size)
    agreement = float((found.argmax(dim=1) == expected.argmax(dim=1)).double().mean())
    if not agreement >= settings.min_agreement:
        raise RuntimeError(
            f"export.onnx_int8: the file classifies {agreement:.1%} of {len(images)} test images as the model does; at least "
            f"{settings.min_agreement:.1%} is asked for. Try another mode, weight_bits 8, or more calibration_samples"
        )
    integers = stored_integers(path)
    layers = _check_zeros(bundle, stored_arrays(source), integers)
    metrics: dict[str, Any] = {
        "size_bytes": path.stat().st_size,
        "float_size_bytes": source.stat().st_size,
        "size_ratio": path.stat().st_size / source.stat().st_size,
        "top1_agreement": agreement,
        **logit_differences(found, expected),
        "num_integer_operators": num_integer,
        "num_integer_weights": len(integers),
        "num_masked_layers_in_integers": len(layers),
        "convolutions": plan.convolutions,
        "products": plan.products,
    }
    description = describe_onnx(bundle, opset=settings.opset, dynamic_batch=settings.dynamic_batch)
    quantization = {
        "mode": settings.mode,
        "weight_bits": settings.weight_bits,
        "convolutions": plan.convolutions,
        "products": plan.products,
        "calibration_samples": settings.calibration_samples,
        "operators": dict(sorted(operators.items())),
    }
    write_description(
        context,
        {**description, "quantization": quantization, "masked_layers": layers, "size_bytes": metrics["size_bytes"]},
    )
    return StageResult(metrics=metrics)


def _calibration(data: Dataset, *, count: int, batch_size: int) -> Iterator[Tensor]:
    """The first images of the training split, in the order in which they are stored."""
    left = count
    for batch in data.train.batches(batch_size=batch_size):
        if left <= 0:
            return
        # A file of one image at a time takes no shorter batch, and a longer one only whole.
        yield batch.images[:left]
        left -= len(batch.images)


def _check_zeros(
    bundle: ModelBundle, floats: dict[str, np.ndarray[Any, Any]], integers: dict[str, np.ndarray[Any, Any]]
) -> list[str]:
    """Names of masked layers that are stored as integers, all of whose zeros are zeros there.

    Raises:
        RuntimeError: a weight that is 0 in the float file is not in the quantized one.
    """
    checked: list[str] = []
    scaled_away = rows_scaled_away(fold_bundle(bundle), image_shape=bundle.architecture.input_spec.shape)
    for name in masked_layers(bundle.model):
        weight = bundle.model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        stored = find_weight(weight, floats, scaled_away=scaled_away.get(name))
        if stored is None or stored.name not in integers:
            continue
        broken = int(((floats[stored.name] == 0) & (integers[stored.name] != 0)).sum())
        if broken:
            raise RuntimeError(f"export.onnx_int8: {broken} weights of {name} outside of its mask are not 0 in the file")
        checked.append(name)
    return checked
