"""The stage `finetune.restoration`: train a given restorer further."""

from __future__ import annotations

from stages.contract import StageContext, StageResult
from stages.data.base import load_stage_data
from stages.finetune.settings import RestorationFinetuneSettings
from stages.training.loop import train
from stages.training.model_artifact import deliver_model, receive_model
from stages.training.seeding import prepare_process
from stages.training.tasks.base import find_task


def finetune_restoration(context: StageContext) -> StageResult:
    """Train a given restorer further; its transforms stay attached, so a mask stays what it is."""
    prepare_process(context)
    settings = context.settings
    assert isinstance(settings, RestorationFinetuneSettings)
    data = load_stage_data(context)
    bundle = receive_model(context, data, takes="image_to_image")
    task = find_task("image_to_image")
    report = train(bundle.model, data=data, settings=settings, context=context, compiles=settings.compile, task=task)
    return deliver_model(bundle, context=context, report=report)
