"""The stage `export.packed`: N:M sparse and b-bit weights in the room that they need, read back and compared.

The file is for storing and sending: whoever loads it (`stages.models.packed.load_packed`) gets a plain model with dense
tensors, which runs as fast as any other.
"""

from __future__ import annotations

import gzip
from typing import Any

import torch
from torch import Tensor

from stages.contract import StageContext, StageResult
from stages.export.checks import check_images, logit_differences, logits_of, write_description
from stages.export.settings import PackedSettings
from stages.models.bundle import fold_bundle, load_bundle
from stages.models.packed import load_packed, read_description, unpack_tensors, write_packed
from stages.ops.tensor_file import write_tensors

PACKED_FILE = "packed.safetensors"
GZIP_LEVEL = 6
"""What `gzip FILE` does; level 9 takes four times as long for 2 % less."""


def run(context: StageContext) -> StageResult:
    """Write `packed.safetensors` and `export.json`; every tensor and the logits are compared with the folded bundle's.

    Raises:
        RuntimeError: a tensor or a logit read back from the file is not the bundle's.
        ValueError: the data have other images than the model takes.
    """
    settings = context.settings
    assert isinstance(settings, PackedSettings)
    torch.set_num_threads(context.num_threads)
    bundle = load_bundle(context.input("model"))
    images = check_images(
        bundle, context, data=settings.data, num_samples=settings.verify_samples, stage="export.packed"
    ).images
    path, plain = context.output / PACKED_FILE, fold_bundle(bundle)
    size = write_packed(bundle, path)
    expected = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    _refuse_other_tensors(unpack_tensors(path), expected)
    differences = logit_differences(logits_of(load_packed(path), images), logits_of(plain, images))
    if differences["max_abs_difference"] != 0:
        raise RuntimeError(f"export.packed: logits differ by {differences['max_abs_difference']:.3g} after unpacking")
    dense = context.scratch / "dense.safetensors"
    dense_size = write_tensors(dense, expected)
    gzip_size = len(gzip.compress(dense.read_bytes(), GZIP_LEVEL, mtime=0))
    tensors = read_description(path)["tensors"]
    metrics: dict[str, Any] = {
        "size_bytes": size,
        "dense_size_bytes": dense_size,
        "gzip_size_bytes": gzip_size,
        "size_ratio": size / dense_size,
        "size_ratio_to_gzip": size / gzip_size,
        "num_sparse_tensors": sum("n_m" in entry for entry in tensors),
        "num_quantized_tensors": sum("grid" in entry for entry in tensors),
        "num_tensors": len(tensors),
        "max_abs_difference": differences["max_abs_difference"],
    }
    write_description(
        context,
        {
            "format": 1,
            "file": PACKED_FILE,
            "architecture": bundle.architecture.name,
            "transforms": [transform.name for transform in bundle.transforms],
            "tensors": tensors,
            "size_bytes": size,
        },
    )
    return StageResult(metrics=metrics)


def _refuse_other_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal values, shapes and element types; the sign of a zero does not count, since a removed weight has none."""
    if found.keys() != expected.keys():
        raise RuntimeError(f"export.packed: the file holds other tensors: {sorted(found.keys() ^ expected.keys())[:5]}")
    for name, tensor in expected.items():
        if found[name].dtype != tensor.dtype or not torch.equal(found[name], tensor):
            raise RuntimeError(f"export.packed: {name} is not the model's after unpacking")
