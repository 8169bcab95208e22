"""Whether more or less of a metric is better, by the names that the house's stages use. Knows names, no values."""

from __future__ import annotations

import re

_MORE = (
    "top1_accuracy",
    "top5_accuracy",
    "accuracy",
    "images_per_s",
    "training_images_per_s",
    "psnr_db",
    "psnr_db_per_image",
    "ssim",
    "agreement",
    "sparsity",
)
_LESS = (
    "latency_ms", "size_bytes", "gmacs", "gmacs_effective", "bops", "num_nonzero_parameters", "num_parameters", "num_tokens",
    "loss", "fid", "seconds", "size_ratio", "gmacs_ratio", "bops_ratio", "size_ratio_to_gzip", "max_abs_difference",
    "num_violating_blocks", "weight_bits", "activation_bits", "frechet_distance", "noise_mse", "seconds_per_image",
)  # fmt: skip
_BATCH = re.compile(r"_b[0-9]+$")
_ENDS = {"accuracy": "maximize", "loss": "minimize", "images_per_s": "maximize", "_bytes": "minimize", "_drop": "minimize"}


def better(metric: str) -> str | None:
    """`maximize` or `minimize` for a metric "name" or "node.name"; None where the name does not say.

    Example:
        >>> better("score.latency_ms_b64"), better("tune.top1_accuracy"), better("score.latency_ratio_b1"), better("value")
        ('minimize', 'maximize', 'maximize', None)
    """
    name = _BATCH.sub("", metric.rpartition(".")[2])
    if name in _MORE or name == "latency_ratio":  # the baseline's latency over its own
        return "maximize"
    if name in _LESS:
        return "minimize"
    return next((direction for end, direction in _ENDS.items() if name.endswith(end)), None)
