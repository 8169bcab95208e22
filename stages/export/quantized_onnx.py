"""Float ONNX files turned into integer ones by onnxruntime's quantizer, and what such a file really holds.

Which operator is treated how follows from measurements (onnxruntime 1.31 on an x86 CPU, one thread, batch 1 / 64; float = 1,
above is faster). A CNN: static 1.14 / 2.09, dynamic 0.17 / 0.06. Vision transformers of 17 and 65 tokens: static 0.86 / 0.90
and 0.90 / 0.95, with attention's products quantized too 0.69 / 0.87; dynamic 1.01 / 1.06 and 0.85 / 0.83. Convolutions want
scales fixed by calibration, matrix products scales computed at run time: apart, as `auto` treats them, the three models run
at 1.19 / 2.11, 1.08 / 1.21 and 1.02 / 1.12. A plan is made from the graph and from no clock, so that the same model gives the
same file on every machine; what it buys on this one is for `evaluate` to measure.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from torch import Tensor

from stages.ops.onnx_file import remove_notes

Treatment = Literal["static", "dynamic", "int4", "float"]
Mode = Literal["auto", "static", "dynamic"]

PRODUCTS = ("MatMul", "Gemm")
BETWEEN_CONVOLUTIONS = ("Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Relu", "Clip")
"""What passes integers on between convolutions; in a network with few matrix products these are quantized with them."""
INTEGER_OPERATORS = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
    }
)
"""Operators of an optimized graph that multiply integers."""
SMALL_SHARE = 0.05
"""Kinds of layers with less than this share of the weights stay float under `auto`: nothing to save, and each costs time."""
INT4_BLOCK = 32
"""Weights that share one scale where weights have 4 bits."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How convolutions and matrix products with weights are treated; `weights` counts the elements of each kind."""

    convolutions: Treatment
    products: Treatment
    weights: Mapping[str, int]


def plan_quantization(path: Path, *, mode: Mode, weight_bits: int) -> Plan:
    """Decide from the graph alone.

    Args:
        path: float ONNX file.
        mode: `static` or `dynamic` for all; `auto`: convolutions static, matrix products dynamic, kinds with less than 5 % of
            the weights float.
        weight_bits: 8, or 4 for matrix products, under `auto` only.

    Raises:
        ValueError: nothing can be quantized, or 4 bits are asked for where onnxruntime has no 4-bit operator.
    """
    graph = onnx.load(str(path), load_external_data=False).graph
    counts = {"convolutions": _weights_of(graph, ("Conv",)), "products": _weights_of(graph, PRODUCTS)}
    total = sum(counts.values())
    if not total:
        raise ValueError("export.onnx_int8: the model has no convolution and no matrix product with constant weights")
    if weight_bits == 4 and counts["convolutions"] >= (1 - SMALL_SHARE) * total:
        raise ValueError(
            "export.onnx_int8: weight_bits 4: the model's weights are those of convolutions, for which onnxruntime has no "
            "4-bit operator (MatMulNBits takes linear layers only); use weight_bits 8, or export.packed to store 4 bits"
        )
    if mode != "auto":
        return Plan(convolutions=mode, products=mode, weights=counts)
    large = {kind: count >= SMALL_SHARE * total for kind, count in counts.items()}
    products: Treatment = "int4" if weight_bits == 4 else "dynamic"
    return Plan(
        convolutions="static" if large["convolutions"] else "float",
        products=products if large["products"] else "float",
        weights=counts,
    )


def write_quantized(
    source: Path,
    target: Path,
    *,
    plan: Plan,
    calibration: Iterable[Sequence[Tensor]],
    scratch: Path,
    gives_images: bool = False,
) -> None:
    """Write the quantized file; the same float file, plan and batches give the same bytes.

    Weights: int8, symmetric, one scale per output channel (so a zero stays exactly zero). Activations: uint8, one scale per
    tensor, from the smallest and largest value in the calibration batches (static) or in each batch (dynamic).

    Args:
        source: float ONNX file.
        target: the file to write.
        plan: from `plan_quantization`.
        calibration: batches of all that the file takes, in its order; read only where something is static.
        scratch: an empty folder for files in between.
        gives_images: leave the first convolution and the last in floats, with what comes before and after. What a denoiser
            is to tell at early timesteps is less than a 255th of its input's range: of a U-Net trained on digits the error
            fell from 9 % to 4.4 %, and the file was as fast.
    """
    graph = onnx.load(str(source), load_external_data=False).graph
    left_in_floats = _products_without_weights(graph) + (_ends(graph) if gives_images else [])
    current = source
    dynamic = _operators(plan, "dynamic")
    with _quiet():
        if plan.products == "int4":
            current = _write_int4(current, scratch / "int4.onnx")
        if dynamic:
            current, before = scratch / "dynamic.onnx", current
            quantize_dynamic(
                str(before),
                str(current),
                op_types_to_quantize=dynamic,
                nodes_to_exclude=left_in_floats,
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
        static = _operators(plan, "static")
        if static:
            current, before = scratch / "static.onnx", current
            quantize_static(
                str(before),
                str(current),
                _Batches(calibration, names=[value.name for value in graph.input]),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=static,
                nodes_to_exclude=left_in_floats,
                per_channel=True,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QUInt8,
            )
    proto = onnx.load(str(current))
    remove_notes(proto)
    onnx.checker.check_model(proto)
    target.write_bytes(proto.SerializeToString(deterministic=True))


def count_operators(path: Path, *, scratch: Path) -> Counter[str]:
    """Operators that onnxruntime runs for this file, after the optimizations that do not depend on the processor."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(scratch / "optimized.onnx")
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def stored_integers(path: Path, *, source: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Integer weights in a quantized file, by the name that the weight has in the float file `source`, in its layout there.

    4-bit weights are unpacked and turned back to rows of inputs, as MatMul takes them.
    """
    graph = onnx.load(str(path), load_external_data=False).graph
    turned = _turned_weights(onnx.load(str(source), load_external_data=False).graph, graph)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    found: dict[str, np.ndarray[Any, Any]] = {}
    for name, tensor in tensors.items():
        original = name.removesuffix("_quantized")
        if original != name and tensor.data_type == onnx.TensorProto.INT8:
            found[original] = numpy_helper.to_array(tensor).T if original in turned else numpy_helper.to_array(tensor)
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            attributes = {attribute.name: attribute.i for attribute in node.attribute}
            octets = numpy_helper.to_array(tensors[node.input[1]]).reshape(attributes["N"], -1)
            pairs = np.stack([octets & 15, octets >> 4], axis=-1).reshape(attributes["N"], -1).astype(np.int8) - 8
            name = node.input[1].partition("_Q4")[0]
            found[name] = pairs[:, : attributes["K"]].T
    return found


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    """Batches of the file's inputs as onnxruntime's calibration asks for them."""

    def __init__(self, batches: Iterable[Sequence[Tensor]], *, names: Sequence[str]) -> None:
        self.batches, self.names = iter(batches), names

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.batches, None)
        if batch is None:
            return None
        return {name: value.numpy() for name, value in zip(self.names, batch, strict=True)}


def _write_int4(source: Path, target: Path) -> Path:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    # accuracy_level 4: activations are rounded to int8 and products are those of integers.
    quantizer = MatMulNBitsQuantizer(onnx.load(str(source)), block_size=INT4_BLOCK, is_symmetric=True, accuracy_level=4)
    quantizer.process()
    target.write_bytes(quantizer.model.model.SerializeToString(deterministic=True))
    return target


def _operators(plan: Plan, treatment: Treatment) -> list[str]:
    chosen = ["Conv"] if plan.convolutions == treatment else []
    if plan.products == treatment:
        chosen += PRODUCTS
    few_products = plan.weights["products"] < SMALL_SHARE * sum(plan.weights.values())
    if treatment == "static" and plan.convolutions == "static" and few_products:
        chosen += BETWEEN_CONVOLUTIONS
    return chosen


def _weights_of(graph: Any, operators: Iterable[str]) -> int:
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    return sum(sizes.get(node.input[1], 0) for node in graph.node if node.op_type in set(operators))


def _products_without_weights(graph: Any) -> list[str]:
    """Products of two activations (attention): rounding both costs accuracy and, at these sizes, time."""
    constant = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type in PRODUCTS and not constant & set(node.input[:2])]


def _turned_weights(source: Any, quantized: Any) -> set[str]:
    """Weights that a Gemm of the float graph turns as it runs, and that the quantizer has turned once for all."""
    left = {node.name for node in quantized.node if node.op_type == "Gemm"}
    return {
        node.input[1]
        for node in source.node
        if node.op_type == "Gemm"
        and node.name not in left
        and any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    }


def _ends(graph: Any) -> list[str]:
    """Nodes up to the first convolution and from the last one on, of those that calibration could make integer."""
    places = [place for place, node in enumerate(graph.node) if node.op_type == "Conv"]
    if len(places) < 3:
        return []
    ends = [*graph.node[: places[0] + 1], *graph.node[places[-1] :]]
    return [node.name for node in ends if node.op_type in ("Conv", *BETWEEN_CONVOLUTIONS)]


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer advises its caller through the root logger."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
