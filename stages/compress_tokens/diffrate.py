"""DiffRate: learn how many tokens each block prunes and merges, under a budget, while the weights rest.

Loss = cross entropy + lambda * (cost - budget)^2, by AdamW on the rates' logits alone. What comes out is a schedule of counts;
the weights are those of the input, bit for bit. Fine-tuning with the schedule in place is a `finetune` stage of its own.

Source: Chen et al. 2023, arXiv 2305.17997, and the authors' code. We depart from it where it errs or where a user is better
served: backbone gradients are off (there they pile up, unused), the accuracy is measured with counts taken from the logits
(there from attributes of the last step), and small models have the budget in relative form. Mixup, CutMix and RandAugment are
the data's business and not done here. On a small data set, compare with a schedule found elsewhere
(`compress_tokens.schedule`): a user of the authors' code found a short search on CIFAR-100 worse than the transferred one.
"""

from __future__ import annotations

import warnings

from torch import Tensor

from stages.compress_tokens.delivery import count_macs, save_pictures, shape_of, token_metrics
from stages.compress_tokens.search import RateSearch
from stages.compress_tokens.settings import DiffRateSettings
from stages.contract import StageContext, StageResult
from stages.data.base import load_stage_data
from stages.models.token_reduction import apply_schedule, refuse_model
from stages.ops.seeding import prepare_process
from stages.ops.token_budget import ViTShape
from stages.training.evaluation import evaluate_top1
from stages.training.loop import train
from stages.training.losses import cross_entropy_loss
from stages.training.model_artifact import deliver_model, receive_model

BUDGET_TOLERANCE = 0.02


def run(context: StageContext) -> StageResult:
    """Search the rates of the input model; the output carries the schedule and the same weights.

    Raises:
        ValueError: the model is no plain Vision Transformer, or the budget is out of reach.
        TrainingDiverged: the loss stopped being finite.
    """
    prepare_process(context)
    settings = context.settings
    assert isinstance(settings, DiffRateSettings)
    data = load_stage_data(context)
    bundle = receive_model(context, data)
    refuse_model(bundle.model, who="compress_tokens.diffrate")
    dense, shape = count_macs(bundle), shape_of(bundle)
    ratio = budget_ratio(settings, shape=shape)
    before = evaluate_top1(bundle.model, data.test)
    search = RateSearch(
        bundle.model.to(context.device),
        gmacs_ratio=ratio,
        granularity=settings.granularity,
        operations=settings.operations,
        first_block=settings.first_block,
        last_blocks_whole=settings.last_blocks_whole,
        min_patches=settings.min_patches,
        budget_form=settings.budget_form,
        budget_weight=settings.budget_weight,
        free_epochs=settings.free_epochs,
        final_rate_factor=settings.final_learning_rate and settings.final_learning_rate / settings.learning_rate,
        epochs=settings.epochs,
        image_shape=bundle.architecture.input_spec.shape,
    )
    classify = cross_entropy_loss(label_smoothing=settings.label_smoothing)

    def loss(images: Tensor, logits_BK: Tensor, labels_B: Tensor) -> Tensor:
        return classify(images, logits_BK, labels_B) + search.budget_loss()

    report = train(bundle.model, data=data, settings=settings, context=context, hooks=(search,), loss=loss)
    schedule = search.finish()
    bundle.model.cpu()
    bundle = apply_schedule(bundle, schedule)
    save_pictures(bundle, data, folder=context.output)
    found = shape.macs(schedule.kept_tokens(shape.num_tokens)) / shape.dense_macs
    warn_of_quirks(settings, num_patches=shape.num_patches, error=found / ratio - 1)
    metrics = {
        "initial_top1_accuracy": before.accuracy,
        "budget_error": found / ratio - 1,
        **token_metrics(bundle, dense_macs=dense),
    }
    return deliver_model(bundle, context=context, report=report, metrics=metrics)


def budget_ratio(settings: DiffRateSettings, *, shape: ViTShape) -> float:
    """The budget as a share of the dense model's multiply-accumulates."""
    if settings.gmacs is not None:
        return settings.gmacs * 1e9 / shape.dense_macs
    assert settings.gmacs_ratio is not None
    return settings.gmacs_ratio


def warn_of_quirks(settings: DiffRateSettings, *, num_patches: int, error: float) -> None:
    """Say what the method does that a user would not expect of these settings."""
    if abs(error) > BUDGET_TOLERANCE:
        warnings.warn(
            f"compress_tokens.diffrate: the schedule costs {error:+.1%} of the budget. Train longer, raise learning_rate "
            "(a logit moves by about that much a step) or budget_weight; on few tokens the steps between counts are coarse",
            stacklevel=2,
        )
    step = settings.granularity
    if step * 8 > num_patches:
        warnings.warn(
            f"compress_tokens.diffrate: granularity {step} leaves {-(-num_patches // step)} candidates of {num_patches} "
            f"patches, the smallest {(num_patches - 1) % step + 1}; with a single one nothing is ever compressed. Try 1",
            stacklevel=2,
        )
