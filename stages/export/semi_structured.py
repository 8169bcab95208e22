"""The stage `export.semi_structured`: 2:4 sparse layers in the form that NVIDIA's sparse tensor cores multiply.

Needs a CUDA GPU of compute capability 8.0 or more: a file that was never multiplied by such cores is not promised. Weights are
float16: each 2:4 masked linear layer is stored as two values of four and 2-bit positions in the order that the cores want
(torch's cutlass layout), all else as it is. On loading, cuSPARSELt multiplies where torch has it, else torch's own cutlass
kernels. The file is safetensors; no pickle.

Source: Mishra et al. 2021, arXiv 2104.08378; torch.sparse.to_sparse_semi_structured.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from stages.contract import StageContext, StageResult
from stages.export.checks import check_images, logit_differences, logits_of, write_description
from stages.export.settings import SemiStructuredSettings
from stages.models.bundle import ModelBundle, fold_bundle, load_bundle, load_state
from stages.models.nm_mask import masked_layers
from stages.ops.pattern import NMPattern
from stages.ops.tensor_file import read_metadata, read_tensors, write_tensors
from stages.training.tasks.base import refuse_other_tasks

FILE = "semi_structured.safetensors"
PATTERN = NMPattern(2, 4)
ROWS, COLUMNS = 32, 64
"""float16 weights must have multiples of these for both of torch's backends."""
PACKED, META = ".packed", ".meta"


def run(context: StageContext) -> StageResult:
    """Write `semi_structured.safetensors` and `export.json`; the file is loaded again and run beside dense float16.

    Raises:
        RuntimeError: there is no fitting GPU, or logits differ by more than the tolerance.
        ValueError: no layer is a 2:4 masked linear layer of a fitting size.
    """
    settings = context.settings
    assert isinstance(settings, SemiStructuredSettings)
    refuse_without_gpu()
    torch.set_num_threads(context.num_threads)
    bundle = load_bundle(context.input("model"))
    refuse_other_tasks(bundle, stage="export.semi_structured")
    stage = "export.semi_structured"
    images = (
        check_images(bundle, context, data=settings.data, num_samples=settings.verify_samples, stage=stage).images.half().cuda()
    )
    names, left = choose_layers(bundle)
    plain, path = fold_bundle(bundle).half().cuda(), context.output / FILE
    write_semi_structured(plain, names, path)
    sparse = fold_bundle(bundle).half().cuda()
    load_semi_structured(sparse, path)
    found, expected = logits_of(sparse, images).float(), logits_of(plain, images).float()
    differences = logit_differences(found, expected)
    if not differences["max_relative_difference"] <= settings.tolerance:  # also where it is NaN
        raise RuntimeError(
            f"{stage}: logits differ by {differences['max_relative_difference']:.3g} of the largest; the tolerance is "
            f"{settings.tolerance:.3g}"
        )
    dense_size = write_tensors(context.scratch / "dense.safetensors", plain.state_dict())
    size = path.stat().st_size
    metrics: dict[str, Any] = {
        "size_bytes": size,
        "dense_size_bytes": dense_size,
        "size_ratio": size / dense_size,
        "num_sparse_layers": len(names),
        "num_masked_layers_left_dense": len(left),
    }
    write_description(
        context,
        {
            "format": 1,
            "file": FILE,
            "torch": torch.__version__.partition("+")[0],
            "architecture": bundle.architecture.name,
            "transforms": [transform.name for transform in bundle.transforms],
            "sparse_layers": list(names),
            "left_dense": left,
            "size_bytes": size,
        },
    )
    # Sums in float16 depend on the GPU and its libraries, so differences are measurements here.
    return StageResult(metrics=metrics, measurements={**differences, **_latencies(plain, sparse, images)})


def refuse_without_gpu() -> None:
    """Raise RuntimeError where this machine cannot multiply 2:4 sparse matrices."""
    if not torch.cuda.is_available():
        raise RuntimeError(
            "export.semi_structured needs a CUDA GPU (compute capability 8.0 or more): its file has the layout of the GPU's "
            "sparse tensor cores. On this machine there is none; export.packed stores 2:4 layers on any"
        )
    capability = torch.cuda.get_device_capability()
    if capability < (8, 0):
        raise RuntimeError(
            f"export.semi_structured needs compute capability 8.0 or more; {torch.cuda.get_device_name()} has "
            f"{capability[0]}.{capability[1]}"
        )


def choose_layers(bundle: ModelBundle) -> tuple[tuple[str, ...], dict[str, str]]:
    """Names of the layers to store sparse, and why each other masked layer is left dense.

    Raises:
        ValueError: there is none to store sparse.
    """
    names, left = [], dict[str, str]()
    for name, mask in masked_layers(bundle.model).items():
        layer = bundle.model.get_submodule(name)
        if mask.pattern != PATTERN:
            left[name] = f"its pattern is {mask.pattern}"
        elif not isinstance(layer, nn.Linear):
            left[name] = "it is a convolution"
        elif layer.out_features % ROWS or layer.in_features % COLUMNS:
            left[name] = f"{layer.out_features} x {layer.in_features} is not a multiple of {ROWS} x {COLUMNS}"
        else:
            names.append(name)
    if not names:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left.items())[:3]) or "the model has no masks"
        raise ValueError(f"export.semi_structured: no layer is a 2:4 masked linear layer of a fitting size: {reasons}")
    return tuple(names), left


def write_semi_structured(model: nn.Module, names: tuple[str, ...], path: Path) -> None:
    """Write a plain float16 model, the named layers compressed; the header names them. Runs on any device."""
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    keys = [f"{name}.weight" for name in names]
    for key in keys:
        dense = tensors.pop(key).contiguous()
        values, meta = sparse_semi_structured_from_dense_cutlass(dense)  # type: ignore[no-untyped-call]
        tensors |= {key + PACKED: values.contiguous(), key + META: meta.contiguous()}
    write_tensors(path, tensors, metadata={"format": "1", "semi_structured": json.dumps(keys)})


def read_semi_structured(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The file's tensors with compressed ones made dense again, and the names of those. Runs on any device.

    Raises:
        ValueError: the file was not written by `write_semi_structured`.
    """
    metadata = read_metadata(path)
    if metadata.get("format") != "1" or "semi_structured" not in metadata:
        raise ValueError(f"{path} is no semi-structured model of format 1")
    tensors, keys = read_tensors(path), json.loads(metadata["semi_structured"])
    for key in keys:
        values, meta = tensors.pop(key + PACKED), tensors.pop(key + META)
        tensors[key] = sparse_semi_structured_to_dense_cutlass(values, meta)  # type: ignore[no-untyped-call]
    return tensors, keys


def load_semi_structured(model: nn.Module, path: Path) -> None:
    """Fill a plain float16 model on the GPU with the file's tensors, in place; compressed layers multiply compressed.

    Raises:
        ValueError: the file was not written by `write_semi_structured`, or does not fit the model.
    """
    tensors, keys = read_semi_structured(path)
    load_state(model, tensors, where=str(path))
    # cuSPARSELt knows every GPU since 8.0; torch's cutlass kernels know 8.x only.
    has_library = torch.backends.cusparselt.is_available()
    kind = SparseSemiStructuredTensorCUSPARSELT if has_library else SparseSemiStructuredTensorCUTLASS
    for key in keys:
        layer = model.get_submodule(key.removesuffix(".weight"))
        dense = layer.weight
        assert isinstance(dense, Tensor)
        layer.weight = nn.Parameter(kind.from_dense(dense.detach()), requires_grad=False)


def _latencies(plain: nn.Module, sparse: nn.Module, images: Tensor) -> dict[str, Any]:
    """Milliseconds per batch, in turns on one GPU, and how many times faster the sparse model is."""
    samples: dict[str, list[float]] = {"plain": [], "sparse": []}
    models: dict[str, Callable[[Tensor], Tensor]] = {"plain": plain, "sparse": sparse}
    with torch.inference_mode():
        for round_number in range(25):
            for name in list(models)[:: 1 if round_number % 2 else -1]:
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
                begin.record()
                models[name](images)
                end.record()
                torch.cuda.synchronize()
                samples[name].append(begin.elapsed_time(end))
    dense, thin = samples["plain"][5:], samples["sparse"][5:]
    return {
        "device": torch.cuda.get_device_name(),
        "batch_size": len(images),
        "latency_ms": median(thin),
        "dense_latency_ms": median(dense),
        "latency_ratio": median(slow / fast for slow, fast in zip(dense, thin, strict=True)),
    }
