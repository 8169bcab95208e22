"""ONNX files of plain modules: write one whose bytes repeat, open it, find a weight in it again.

Must not know bundles, stages or methods. `export.onnx` writes with it; `evaluate.classifier` writes baselines with it, so
that two sizes that are compared come from one exporter.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor, nn

INPUT_NAME, OUTPUT_NAME = "images", "logits"


@dataclass(frozen=True, kw_only=True)
class StoredWeight:
    """Where a layer's weight lies in a file, and its values turned back into the layer's layout."""

    name: str
    values: np.ndarray[Any, Any]


def write_onnx(
    model: nn.Module,
    *,
    image_shape: tuple[int, ...],
    path: Path,
    opset: int,
    dynamic_batch: bool = True,
    more_inputs: Mapping[str, torch.dtype] | None = None,
    output_name: str = OUTPUT_NAME,
) -> None:
    """Write one self-contained file; the same weights give the same bytes on every machine with the same versions.

    Stack traces, module names and everything else that the exporter notes down about the place it ran at are left out.

    Args:
        model: a plain module on the CPU in eval mode, from images (B, *image_shape) to logits (B, classes).
        image_shape: one image, for example (3, 224, 224).
        path: the file to write.
        opset: ONNX operator set.
        dynamic_batch: let the file take any batch size; False fixes it to 1.
        more_inputs: what the model takes beside images, one number for each image: name -> element type.
        output_name: of the file's one output.
    """
    # Two images in the example, because the tracer takes a size of 1 for a constant.
    number, names = 2 if dynamic_batch else 1, [INPUT_NAME, *(more_inputs or {})]
    more = [torch.zeros(number, dtype=kind) for kind in (more_inputs or {}).values()]
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} for _ in names) if dynamic_batch else None
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            model,
            (torch.zeros(number, *image_shape), *more),
            dynamo=True,
            opset_version=opset,
            input_names=names,
            output_names=[output_name],
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    remove_notes(proto)
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def remove_notes(message: Any) -> None:
    """Clear doc strings, metadata and intermediate shapes in an ONNX message and in all that it holds.

    Nothing of it acts when the file runs; stack traces carry paths of the machine that wrote them.
    """
    for name in ("doc_string", "metadata_props"):
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    if isinstance(message, onnx.GraphProto):
        message.ClearField("value_info")
    for descriptor, value in message.ListFields():
        if descriptor.type != descriptor.TYPE_MESSAGE:
            continue
        for part in value if isinstance(value, Iterable) else (value,):
            if not isinstance(part, onnx.TensorProto):
                remove_notes(part)
            else:
                part.ClearField("doc_string")


def open_session(path: Path, *, num_threads: int) -> onnxruntime.InferenceSession:
    """Open a file for the CPU; `num_threads` inside an operator, one operator at a time.

    Idle threads sleep: those of a session that waits for its turn would otherwise spin on the processors that the other
    session is being timed on.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    for pool in ("intra", "inter"):
        options.add_session_config_entry(f"session.{pool}_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_session(session: onnxruntime.InferenceSession, *inputs: Tensor) -> Tensor:
    """The one output for a batch of images, and what else the file takes, in its order; the batch must fit what it declares."""
    named = zip(session.get_inputs(), inputs, strict=True)
    (output,) = session.run(None, {declared.name: value.numpy() for declared, value in named})
    return torch.from_numpy(output)


def stored_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Every float tensor that the file itself holds, initializers and constants, by name."""
    graph = onnx.load(str(path), load_external_data=False).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            (output,) = node.output
            tensors.update((output, attribute.t) for attribute in node.attribute if attribute.name == "value")
    arrays = {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    return {name: array for name, array in arrays.items() if array.dtype.kind == "f"}


def rows_scaled_away(model: nn.Module, *, image_shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Output rows that a batch norm multiplies by zero, or by so little that no normal float32 is left of them.

    Exporters multiply the scale gamma / sqrt(variance + epsilon) into the layer before it, so such rows may be zeros in the
    file. Weight decay makes them, and so does a residual block whose last batch norm starts at zero.

    Args:
        model: plain, in eval mode; it is run once, on zeros.
        image_shape: one image, for example (3, 224, 224).

    Returns:
        (O,) bool for each linear or convolution layer whose output goes into a batch norm, by the layer's name.
    """
    outputs: list[tuple[str, Tensor, Tensor]] = []  # kept, since another tensor may get the identity of one that is gone
    found: dict[str, Tensor] = {}

    def record(name: str) -> Any:
        return lambda layer, _inputs, output: outputs.append((name, layer.weight, output))

    def compare(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
        for name, weight, output in outputs:
            if output is inputs[0] and norm.affine and norm.running_var is not None:
                scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
                largest = weight.double().flatten(1).abs().amax(dim=1)
                found[name] = scale.abs() * largest < torch.finfo(torch.float32).tiny

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            handles.append(module.register_forward_hook(record(name)))
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(compare))
    try:
        with torch.no_grad():
            model(torch.zeros(1, *image_shape))
    finally:
        for handle in handles:
            handle.remove()
    return found


def find_weight(
    weight: Tensor, arrays: Mapping[str, np.ndarray[Any, Any]], *, scaled_away: Tensor | None = None
) -> StoredWeight | None:
    """Find a layer's weight by its values, whatever the exporter called it.

    Exporters rename weights, transpose those of linear layers and multiply a following batch norm's scale into those of
    convolutions. So an array counts as the weight if, turned to the weight's layout, each output row is a multiple of the
    weight's row, to 1e-5 of the largest value. Zero times anything is zero, so a row of zeros counts as a row of zeros only,
    or as one that the file may hold as zeros. Where several arrays do, the closest is taken, and of equally close ones that
    with the most similar number of non-zeros.

    Args:
        weight: (O, I) or (O, I, kh, kw).
        arrays: from `stored_arrays`.
        scaled_away: (O,) bool, rows that may be zeros in the file, from `rows_scaled_away`; none where it is None.
    """
    wanted = weight.detach().double().numpy()
    rows = wanted.reshape(len(wanted), -1)
    energy = (rows**2).sum(axis=1, keepdims=True)
    may_be_zero = np.zeros(len(rows), dtype=bool) if scaled_away is None else scaled_away.numpy()
    needed = rows.any(axis=1) & ~may_be_zero
    best: tuple[tuple[float, int], StoredWeight] | None = None
    for name, array in arrays.items():
        for turned in _orientations(array, wanted.shape):
            other = turned.reshape(rows.shape).astype(np.float64)
            # Below the smallest normal number digits are lost one by one, so such a row is no multiple of anything.
            other[may_be_zero & (np.abs(other).max(axis=1) < np.finfo(np.float32).tiny)] = 0
            if (needed & ~other.any(axis=1)).any():
                continue
            scale = (other * rows).sum(axis=1, keepdims=True) / np.where(energy > 0, energy, 1.0)
            distance = float(np.abs(other - scale * rows).max() / max(float(np.abs(other).max()), 1e-30))
            rank = distance, abs(int(np.count_nonzero(other)) - int(np.count_nonzero(rows)))
            if distance <= 1e-5 and (best is None or rank < best[0]):
                best = rank, StoredWeight(name=name, values=turned)
    return best[1] if best else None


def _orientations(array: np.ndarray[Any, Any], shape: tuple[int, ...]) -> list[np.ndarray[Any, Any]]:
    """The array in the wanted shape: as it is, transposed, and with the 1 x 1 of a pointwise kernel added."""
    squeezed = array.reshape([size for size in array.shape if size != 1] or [1])
    plain = tuple(size for size in shape if size != 1) or (1,)
    found = [squeezed.reshape(shape)] if squeezed.shape == plain else []
    if len(plain) == 2 and squeezed.shape == plain[::-1]:
        found.append(squeezed.T.reshape(shape))
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's advice to its own developers off the user's screen."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
