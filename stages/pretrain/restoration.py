"""The stage `pretrain.restoration`: build a network that restores images, train it, hand it out."""

from __future__ import annotations

from stages.contract import StageContext, StageResult
from stages.data.base import load_stage_data
from stages.models.bundle import build_bundle
from stages.models.restorers import find_restorer
from stages.ops.seeds import derive_seed
from stages.pretrain.restoration_settings import RestorationSettings
from stages.training.loop import train
from stages.training.model_artifact import deliver_model
from stages.training.seeding import prepare_process
from stages.training.tasks.base import task_of


def pretrain_restoration(context: StageContext) -> StageResult:
    """Train a restorer from its initial weights.

    Raises:
        ValueError: the model is unknown, does not fit the images, or a setting does not fit the data.
        TrainingDiverged: the loss or a weight stopped being finite.
    """
    prepare_process(context)
    settings = context.settings
    assert isinstance(settings, RestorationSettings)
    data = load_stage_data(context)
    architecture = find_restorer(settings.model, settings.model_args, input_spec=data.input_spec, scale=settings.scale)
    bundle = build_bundle(architecture, seed=derive_seed(context.seed, "weights"))
    report = train(bundle.model, data=data, settings=settings, context=context, compiles=settings.compile, task=task_of(bundle))
    return deliver_model(bundle, context=context, report=report)
