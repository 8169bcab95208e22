"""The stage `finetune.classifier`: train a given model further."""

from __future__ import annotations

from stages.contract import StageContext, StageResult
from stages.data.base import load_stage_data
from stages.finetune.settings import FinetuneSettings
from stages.training.loop import train
from stages.training.model_artifact import deliver_model, receive_model
from stages.training.seeding import prepare_process


def finetune_classifier(context: StageContext) -> StageResult:
    """Train a given classifier further; its transforms stay attached, so a mask stays what it is.

    Source: Smith and Topin 2017, arXiv 1708.07120 (OneCycle); Loshchilov and Hutter 2017, arXiv 1711.05101 (AdamW).
    """
    prepare_process(context)
    settings = context.settings
    assert isinstance(settings, FinetuneSettings)
    data = load_stage_data(context)
    bundle = receive_model(context, data)
    report = train(bundle.model, data=data, settings=settings, context=context, compiles=settings.compile)
    return deliver_model(bundle, context=context, report=report)
