"""A schedule that is known already, given to another model: no search, no training.

Source: Chen et al. 2023, arXiv 2305.17997; a user of the authors' code found the ImageNet schedule better on CIFAR-100 than a
short search there, so both are worth a try.
"""

from __future__ import annotations

from stages.compress_tokens.delivery import deliver_fixed
from stages.compress_tokens.settings import ScheduleSettings
from stages.contract import StageContext, StageResult
from stages.models.bundle import ModelBundle, load_bundle
from stages.models.token_reduction import apply_schedule, find_schedule
from stages.ops.token_budget import PUBLISHED_SCHEDULES, TokenSchedule, ViTShape

STAGE = "compress_tokens.schedule"


def run(context: StageContext) -> StageResult:
    """Give the input model the schedule of the settings or of the model on port `schedule`, and measure it.

    Raises:
        ValueError: the model is no plain Vision Transformer, the schedule belongs to another number of blocks or patches, or
            none or two are given.
    """
    settings, other = context.settings, context.optional_input("schedule")
    assert isinstance(settings, ScheduleSettings)

    def reduce(bundle: ModelBundle, shape: ViTShape) -> ModelBundle:
        del shape
        return apply_schedule(bundle, given_schedule(settings, other=None if other is None else load_bundle(other)))

    return deliver_fixed(context, stage=STAGE, reduce=reduce)


def given_schedule(settings: ScheduleSettings, *, other: ModelBundle | None) -> TokenSchedule:
    """The one schedule that there is: written in the settings, or carried by the other model."""
    written = settings.published is not None or settings.prune is not None
    if written == (other is not None):
        raise ValueError(f"{STAGE}: give one schedule: published, prune and merge, or a model on the input `schedule`")
    if other is not None:
        return find_schedule(other, who=STAGE)
    if settings.published is not None:
        return PUBLISHED_SCHEDULES[settings.published]
    assert settings.prune is not None
    assert settings.merge is not None
    return TokenSchedule(prune=settings.prune, merge=settings.merge)
