"""The stage `finetune.diffusion`: train a given denoiser further."""

from __future__ import annotations

from stages.contract import StageContext, StageResult
from stages.data.base import load_stage_data
from stages.finetune.settings import DiffusionFinetuneSettings
from stages.training.loop import train
from stages.training.model_artifact import deliver_model, receive_model
from stages.training.seeding import prepare_process
from stages.training.tasks.base import find_task


def finetune_diffusion(context: StageContext) -> StageResult:
    """Train a given denoiser further by its own noise schedule; its transforms stay attached, so a mask stays what it is.

    Source: Ho, Jain, Abbeel 2020, arXiv 2006.11239.
    """
    prepare_process(context)
    settings = context.settings
    assert isinstance(settings, DiffusionFinetuneSettings)
    data = load_stage_data(context)
    bundle = receive_model(context, data, takes="denoising")
    report = train(
        bundle.model, data=data, settings=settings, context=context, compiles=settings.compile, task=find_task("denoising")
    )
    return deliver_model(bundle, context=context, report=report)
