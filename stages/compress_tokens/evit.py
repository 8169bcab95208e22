"""EViT, prune only: a few blocks keep the share of patches that the class token looks at most, and drop the others.

The control arm that never merges. Attention is plain, since no token stands for more than itself.

Source: Liang et al. 2022, arXiv 2202.07800, with inattentive tokens dropped and not fused into one, and without the training
that the paper does with them.
"""

from __future__ import annotations

from stages.compress_tokens.delivery import deliver_fixed
from stages.compress_tokens.settings import EViTSettings
from stages.contract import StageContext, StageResult
from stages.models.bundle import ModelBundle
from stages.models.token_reduction import apply_schedule
from stages.ops.token_budget import TokenSchedule, ViTShape, fit_budget, keep_rate_counts


def run(context: StageContext) -> StageResult:
    """Give the input model EViT's pruning and measure it.

    Raises:
        ValueError: the model is no plain Vision Transformer, has no such block, or the budget is out of reach.
    """
    settings = context.settings
    assert isinstance(settings, EViTSettings)

    def reduce(bundle: ModelBundle, shape: ViTShape) -> ModelBundle:
        return apply_schedule(bundle, choose_schedule(settings, shape=shape))

    return deliver_fixed(context, stage="compress_tokens.evit", reduce=reduce)


def choose_schedule(settings: EViTSettings, *, shape: ViTShape) -> TokenSchedule:
    """Counts of every block."""
    depth, tokens = shape.depth, shape.num_tokens
    blocks = settings.blocks or tuple(sorted({depth // 4, depth // 2, 3 * depth // 4}))
    if not 0 <= min(blocks) <= max(blocks) < depth:
        raise ValueError(f"compress_tokens.evit: blocks are {list(blocks)}; the model has blocks 0 to {depth - 1}")
    if settings.keep_rate is not None:
        kept = keep_rate_counts(settings.keep_rate, depth=depth, num_tokens=tokens, blocks=blocks)
    else:
        assert settings.gmacs_ratio is not None
        rates = [index / 1000 for index in range(1, 1000)]
        schedules = [(rate, keep_rate_counts(rate, depth=depth, num_tokens=tokens, blocks=blocks)) for rate in rates]
        kept = fit_budget(settings.gmacs_ratio, shape=shape, schedules=schedules, who="compress_tokens.evit")[1]
    return TokenSchedule(prune=kept, merge=(tokens,) * depth)
