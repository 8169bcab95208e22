"""A constant keep rate with DiffRate's operators: what learned rates have to beat, everything else being equal.

Source: operators of Chen et al. 2023, arXiv 2305.17997. As there, the first block keeps all tokens, and so does the last of
models that average their patch tokens.
"""

from __future__ import annotations

from stages.compress_tokens.delivery import deliver_fixed
from stages.compress_tokens.settings import UniformSettings
from stages.contract import StageContext, StageResult
from stages.models.bundle import ModelBundle
from stages.models.token_reduction import apply_schedule
from stages.ops.token_budget import TokenSchedule, ViTShape, rate_or_budget


def run(context: StageContext) -> StageResult:
    """Give the input model the same keep rate everywhere and measure it.

    Raises:
        ValueError: the model is no plain Vision Transformer, or the budget is out of reach.
    """
    settings = context.settings
    assert isinstance(settings, UniformSettings)

    def reduce(bundle: ModelBundle, shape: ViTShape) -> ModelBundle:
        return apply_schedule(bundle, choose_schedule(settings, shape=shape))

    return deliver_fixed(context, stage="compress_tokens.uniform", reduce=reduce)


def choose_schedule(settings: UniformSettings, *, shape: ViTShape) -> TokenSchedule:
    """Counts of every block."""
    depth, tokens = shape.depth, shape.num_tokens
    blocks = tuple(range(1, depth - 1 if shape.mean_pooled else depth))
    kept = rate_or_budget(settings.keep_rate, settings.gmacs_ratio, shape=shape, blocks=blocks, who="compress_tokens.uniform")
    if settings.operations == "prune":
        return TokenSchedule(prune=kept, merge=(tokens,) * depth)
    if settings.operations == "merge":
        return TokenSchedule(prune=(tokens,) * depth, merge=kept)
    before = (tokens, *kept)
    return TokenSchedule(prune=tuple((n + k + 1) // 2 for n, k in zip(before, kept, strict=False)), merge=kept)
