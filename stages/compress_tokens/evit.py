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
from stages.ops.token_budget import TokenSchedule, ViTShape, rate_or_budget


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
    kept = rate_or_budget(settings.keep_rate, settings.gmacs_ratio, shape=shape, blocks=blocks, who="compress_tokens.evit")
    return TokenSchedule(prune=kept, merge=(tokens,) * depth)
