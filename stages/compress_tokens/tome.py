"""ToMe: in every block the r strongest edges between alternate tokens are merged, by the similarity of their keys.

The control arm for learned rates: no training, the same number in every block (or a list), attention with log sizes.

Source: Bolya et al. 2022, arXiv 2210.09461. Departs from the authors' code for averaged patch tokens only: the weighted mean is
over the sizes' sum, which is the number of patches.
"""

from __future__ import annotations

from stages.compress_tokens.delivery import deliver_fixed
from stages.compress_tokens.settings import ToMeSettings
from stages.contract import StageContext, StageResult
from stages.models.bundle import ModelBundle
from stages.models.token_reduction import apply_bipartite
from stages.ops.token_budget import ViTShape, fit_budget, tome_kept_tokens


def run(context: StageContext) -> StageResult:
    """Give the input model ToMe's merging and measure it.

    Raises:
        ValueError: the model is no plain Vision Transformer, the list has another length than the model blocks, or the budget
            is out of reach.
    """
    settings = context.settings
    assert isinstance(settings, ToMeSettings)

    def reduce(bundle: ModelBundle, shape: ViTShape) -> ModelBundle:
        return apply_bipartite(bundle, choose_merged(settings, shape=shape))

    return deliver_fixed(context, stage="compress_tokens.tome", reduce=reduce)


def choose_merged(settings: ToMeSettings, *, shape: ViTShape) -> tuple[int, ...]:
    """Tokens to merge in each block."""
    if settings.gmacs_ratio is not None:
        choices = [(merged,) * shape.depth for merged in range(shape.num_patches // 2 + 1)]
        schedules = [(one, tome_kept_tokens(one, num_tokens=shape.num_tokens)) for one in choices]
        chosen: tuple[int, ...] = fit_budget(
            settings.gmacs_ratio, shape=shape, schedules=schedules, who="compress_tokens.tome"
        )[0]
        return chosen
    assert settings.merged is not None
    return (settings.merged,) * shape.depth if isinstance(settings.merged, int) else settings.merged
