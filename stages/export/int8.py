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
from stages.data.base import Batch, Dataset, first_images, load_stage_data
from stages.export.checks import ONNX_FILE, describe_onnx, logit_differences, logits_of, write_description
from stages.export.diffusion import describe_sampling
from stages.export.integer_inputs import leave_rounding_to_operators
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
from stages.models.zoo import CLASSIFICATION, DENOISING
from stages.ops.onnx_file import (
    OUTPUT_NAME,
    find_weight,
    open_session,
    rows_scaled_away,
    run_session,
    stored_arrays,
    write_onnx,
)
from stages.ops.seeds import derive_seed
from stages.training.model_artifact import receive_model
from stages.training.tasks.base import task_of

CALIBRATION_BATCH = 64


def run(context: StageContext) -> StageResult:
    """Write `model.onnx` and `export.json`; the file on disk is what gets checked.

    Raises:
        RuntimeError: the file classifies too few test images as the model does, or gives images too far from the model's; no
            operator that runs multiplies integers; or a weight outside of a mask is not 0 in the file.
        ValueError: model and data do not fit, a setting means nothing to the model's task, or nothing in the model can be
            quantized as asked.
    """
    settings = context.settings
    assert isinstance(settings, INT8Settings)
    torch.set_num_threads(context.num_threads)
    data = load_stage_data(context)
    bundle = receive_model(context, data, takes=None)
    _refuse_other_checks(bundle, settings)
    plain, spec = fold_bundle(bundle), bundle.architecture.input_spec
    source, path = context.scratch / "float.onnx", context.output / ONNX_FILE
    ready = fold_bundle(bundle)
    leave_rounding_to_operators(ready)
    write_onnx(
        ready,
        image_shape=spec.shape,
        path=source,
        opset=settings.opset,
        dynamic_batch=settings.dynamic_batch,
        more_inputs=getattr(bundle.model, "more_inputs", {}),
        output_name=getattr(bundle.model, "output_name", OUTPUT_NAME),
    )
    plan = plan_quantization(source, mode=settings.mode, weight_bits=settings.weight_bits)
    size = CALIBRATION_BATCH if settings.dynamic_batch else 1
    batches = _calibration(bundle, data, count=settings.calibration_samples, batch_size=size, seed=context.seed)
    write_quantized(
        source,
        path,
        plan=plan,
        calibration=batches,
        scratch=context.scratch,
        gives_images=bundle.architecture.task != CLASSIFICATION,
    )
    operators = count_operators(path, scratch=context.scratch)
    num_integer = sum(count for name, count in operators.items() if name in INTEGER_OPERATORS)
    if not num_integer:
        raise RuntimeError(f"export.onnx_int8: no operator of the file multiplies integers; it has {dict(operators)}")
    check = first_images(data.test, settings.verify_samples, batch_size=512)
    session = open_session(path, num_threads=context.num_threads)
    inputs = task_of(bundle).inputs(bundle.model, check, seed=context.seed)
    expected = logits_of(plain, *inputs, batch_size=size)
    found = logits_of(lambda *part: run_session(session, *part), *inputs, batch_size=size)
    agreement = _check_agreement(bundle, found, expected, settings=settings)
    integers = stored_integers(path, source=source)
    layers = _check_zeros(bundle, stored_arrays(source), integers)
    metrics: dict[str, Any] = {
        "size_bytes": path.stat().st_size,
        "float_size_bytes": source.stat().st_size,
        "size_ratio": path.stat().st_size / source.stat().st_size,
        **agreement,
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
    if bundle.architecture.task == DENOISING:
        description = {**description, **describe_sampling(bundle, context.output)}
    write_description(
        context,
        {**description, "quantization": quantization, "masked_layers": layers, "size_bytes": metrics["size_bytes"]},
    )
    return StageResult(metrics=metrics)


def _calibration(bundle: ModelBundle, data: Dataset, *, count: int, batch_size: int, seed: int) -> Iterator[tuple[Tensor, ...]]:
    """What the model is run on for the first images of the training split, in the order in which they are stored."""
    left, task = count, task_of(bundle)
    # A file of one image at a time still gets what belongs to 64 of them, such as timesteps spread over a schedule.
    for number, batch in enumerate(data.train.batches(batch_size=CALIBRATION_BATCH)):
        if left <= 0:
            return
        part = Batch(batch.images[:left], batch.labels[:left])
        inputs = task.inputs(bundle.model, part, seed=derive_seed(seed, "calibration", number))
        yield from zip(*(torch.split(each, batch_size) for each in inputs), strict=True)
        left -= len(batch.images)


def _refuse_other_checks(bundle: ModelBundle, settings: INT8Settings) -> None:
    """Raise ValueError where the tolerance that is given belongs to models for another task."""
    task = bundle.architecture.task
    other, own = ("max_relative_error", "min_agreement") if task == CLASSIFICATION else ("min_agreement", "max_relative_error")
    if other in settings.model_fields_set:
        raise ValueError(f"export.onnx_int8: {other} means nothing to a model for {task}; give {own}")


def _check_agreement(bundle: ModelBundle, found: Tensor, expected: Tensor, *, settings: INT8Settings) -> dict[str, float]:
    """How far the file agrees with the model: in classes, or in values where a model gives images.

    Raises:
        RuntimeError: not as far as is asked for.
    """
    advice = "Try another mode, weight_bits 8, or more calibration_samples"
    if bundle.architecture.task == CLASSIFICATION:
        agreement = float((found.argmax(dim=1) == expected.argmax(dim=1)).double().mean())
        if not agreement >= settings.min_agreement:
            raise RuntimeError(
                f"export.onnx_int8: the file classifies {agreement:.1%} of {len(found)} test images as the model does; at "
                f"least {settings.min_agreement:.1%} is asked for. {advice}"
            )
        return {"top1_agreement": agreement}
    error = float((found - expected).double().norm() / expected.double().norm().clamp(min=1e-12))
    if not error <= settings.max_relative_error:
        raise RuntimeError(
            f"export.onnx_int8: what the file gives for {len(found)} test images is {error:.1%} from what the model gives "
            f"(root mean square); at most {settings.max_relative_error:.1%} is asked for. {advice}"
        )
    return {"relative_error": error}


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
