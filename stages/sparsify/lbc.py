"""LBC: learn which N of every M weights to keep, in one training run, without dense gradients for what is gone.

Every block of M weights may keep one of C = binom(M, N) combinations. All start alive with equal scores; weights and scores
are trained together, and the lowest-scored combinations are removed along a schedule until one per block is left, at epoch
t_f = removal_end * epochs. From there on the mask is fixed and the remaining epochs train the weights that are left.

Source: Zhang et al. 2022, arXiv 2206.06662, and the authors' code, replayed step for step in the tests. We depart from it where
it errs: `removed` is a boolean (see `ScoredCombinations`), the curve is clamped before t_i (there the code fails), scores rest
after the last removal in every model (in the code for DeiT they go on, without effect on the mask), and the moving average of
weights leaves scores alone. The mask of layers follows the paper: all but the first layer and the classifier.

Recipes of the authors, to be set (the defaults adamw, onecycle and clipping to norm 1 are a recipe of ours for small models,
not theirs; p, the scores' rate and their weight decay default to those for ResNet, t_f to that of the instructions):

    ResNet: optimizer sgd, momentum 0.9, schedule cosine, epochs 120, warmup 0.042 (5 epochs), batch_size 256,
        learning_rate 0.1, weight_decay 1e-4, score_weight_decay 1e-4, removal_power 3, removal_end 0.5 (instructions) or
        0.67 (default of the code), max_gradient_norm none, label_smoothing 0.1
    DeiT: optimizer adamw, schedule cosine, epochs 300, warmup 0.017 (5 epochs), batch_size 1024, learning_rate 1e-3,
        weight_decay 0.05, score_weight_decay 0.05, removal_power 4, removal_end 0.67, max_gradient_norm none

Their augmentation (colours, mixup, erasing and so on) and the floor of 1e-5 under DeiT's learning rate have no setting here.
"""

from __future__ import annotations

from stages.contract import StageContext, StageResult
from stages.models.nm_mask import apply_masks
from stages.sparsify.combinations import RemovalHook, add_scores, drop_scores
from stages.sparsify.layers import mask_metrics, receive_dense_model
from stages.sparsify.settings import LBCSettings
from stages.training.loop import train
from stages.training.model_artifact import deliver_model


def run(context: StageContext) -> StageResult:
    """Train the input model to N:M sparsity; the output carries fixed masks and no scores.

    Raises:
        ValueError: a layer cannot take the pattern, the model carries transforms already, or a setting does not fit the data.
        TrainingDiverged: the loss or a weight stopped being finite.
    """
    settings = context.settings
    assert isinstance(settings, LBCSettings)
    dense = receive_dense_model(context, stage="sparsify.lbc")
    model = dense.bundle.model
    layers = add_scores(model, dense.names, pattern=dense.pattern)
    hook = RemovalHook(
        layers,
        start=settings.first_removal_epoch,
        end=settings.last_removal_epoch,
        power=settings.removal_power,
        learning_rate_multiplier=settings.score_learning_rate_multiplier,
        weight_decay=settings.score_weight_decay,
    )
    report = train(model, data=dense.data, settings=settings, context=context, hooks=(hook,), task=dense.task)
    model.cpu()
    bundle = apply_masks(dense.bundle, drop_scores(model, layers), pattern=dense.pattern)
    metrics = {**dense.initial_metrics, **mask_metrics(bundle)}
    return deliver_model(bundle, context=context, report=report, metrics=metrics)
