"""The stage `finetune.distill`: train a given model further towards a teacher's outputs."""

from __future__ import annotations

from stages.contract import StageContext, StageResult
from stages.data.base import load_stage_data
from stages.finetune.settings import DistillSettings
from stages.ops.seeding import prepare_process
from stages.training.evaluation import evaluate_top1
from stages.training.loop import train
from stages.training.losses import distillation_loss
from stages.training.model_artifact import deliver_model, receive_model


def finetune_distill(context: StageContext) -> StageResult:
    """Train a given classifier further towards a teacher's outputs; its transforms stay attached.

    Source: Hinton, Vinyals, Dean 2015, arXiv 1503.02531.
    """
    prepare_process(context)
    settings = context.settings
    assert isinstance(settings, DistillSettings)
    data = load_stage_data(context)
    bundle = receive_model(context, data)
    teacher = receive_model(context, data, port="teacher").model.to(context.device)
    loss = distillation_loss(
        teacher, temperature=settings.temperature, alpha=settings.alpha, label_smoothing=settings.label_smoothing
    )
    report = train(bundle.model, data=data, settings=settings, context=context, compiles=settings.compile, loss=loss)
    teacher_top1 = evaluate_top1(teacher, data.test, device=context.device)
    metrics = {"teacher_top1_accuracy": teacher_top1.accuracy}
    return deliver_model(bundle, context=context, report=report, metrics=metrics)
