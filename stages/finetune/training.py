"""The stages `finetune.classifier`, `finetune.diffusion` and `finetune.restoration`: train a given model further.

Source: Smith and Topin 2017, arXiv 1708.07120 (OneCycle); Loshchilov and Hutter 2017, arXiv 1711.05101 (AdamW). Denoisers: Ho,
Jain, Abbeel 2020, arXiv 2006.11239.
"""

from __future__ import annotations

from stages.contract import StageContext, StageResult
from stages.data.base import load_stage_data
from stages.ops.seeding import prepare_process
from stages.training.loop import train
from stages.training.model_artifact import deliver_model, receive_model
from stages.training.settings import CompiledTrainingSettings
from stages.training.tasks.base import task_of


def finetune_classifier(context: StageContext) -> StageResult:
    """Train a given classifier further; its transforms stay attached, so a mask stays what it is."""
    return _train_further(context, takes="classification")


def finetune_denoiser(context: StageContext) -> StageResult:
    """Train a given denoiser further by its own noise schedule; its transforms stay attached."""
    return _train_further(context, takes="denoising")


def finetune_restorer(context: StageContext) -> StageResult:
    """Train a given restorer further; its transforms stay attached."""
    return _train_further(context, takes="image_to_image")


def _train_further(context: StageContext, *, takes: str) -> StageResult:
    prepare_process(context)
    settings = context.settings
    assert isinstance(settings, CompiledTrainingSettings)
    data = load_stage_data(context)
    bundle = receive_model(context, data, takes=takes)
    report = train(bundle.model, data=data, settings=settings, context=context, compiles=settings.compile, task=task_of(bundle))
    return deliver_model(bundle, context=context, report=report)
