"""The stage `pretrain.classifier`: build a model, train it, hand it out."""

from __future__ import annotations

from stages.contract import StageContext, StageResult
from stages.data.base import load_stage_data
from stages.models.bundle import build_bundle
from stages.models.zoo import find_architecture
from stages.ops.seeds import derive_seed
from stages.pretrain.settings import ClassifierSettings
from stages.training.loop import train
from stages.training.model_artifact import deliver_model
from stages.training.seeding import prepare_process


def pretrain_classifier(context: StageContext) -> StageResult:
    """Train an image classifier from its initial weights.

    Source: Smith and Topin 2017, arXiv 1708.07120 (OneCycle); Loshchilov and Hutter 2017, arXiv 1711.05101 (AdamW).
    """
    prepare_process(context)
    settings = context.settings
    assert isinstance(settings, ClassifierSettings)
    data = load_stage_data(context)
    architecture = find_architecture(
        settings.model, settings.model_args, input_spec=data.input_spec, class_names=data.class_names
    )
    bundle = build_bundle(architecture, seed=derive_seed(context.seed, "weights"))
    report = train(bundle.model, data=data, settings=settings, context=context, compiles=settings.compile)
    return deliver_model(bundle, context=context, report=report)
