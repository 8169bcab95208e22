"""What is known of an exported file before it is written: the bytes of a packed one, which follow from shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from stages.contract import Forecast
from stages.export.settings import PackedSettings
from stages.models.bundle import fold_bundle
from stages.models.packed import pack
from stages.models.skeleton import Skeleton
from stages.ops.tensor_file import file_size


def packed(settings: PackedSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """Sizes of the file that `export.packed` would write of the input model."""
    del settings
    return Forecast(metrics=_sizes(inputs["model"].model))


@lru_cache(maxsize=4096)
def _sizes(skeleton: Skeleton) -> Mapping[str, float]:
    bundle = skeleton.build()
    found = pack(bundle)
    size, dense_size = file_size(found.tensors), file_size(fold_bundle(bundle).state_dict())
    return {
        "size_bytes": size,
        "dense_size_bytes": dense_size,
        "size_ratio": size / dense_size,
        "num_sparse_tensors": sum("n_m" in entry for entry in found.entries),
        "num_quantized_tensors": sum("grid" in entry for entry in found.entries),
    }
