"""What every `compress_tokens` stage says of the model it made, and how those that do not train hand it out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from stages.contract import StageContext, StageResult
from stages.data.base import Dataset, load_stage_data
from stages.models.bundle import ModelBundle, fold_bundle
from stages.models.token_reduction import BipartiteReduction, kept_tokens, refuse_model, vit_shape
from stages.models.token_trace import save_trace
from stages.ops.counting import count_compute
from stages.ops.token_budget import ViTShape
from stages.training.model_artifact import deliver_measured, receive_model
from stages.training.tasks.classification import TASK as CLASSIFICATION

NUM_PICTURES = 4


def deliver_fixed(context: StageContext, *, stage: str, reduce: Callable[[ModelBundle, ViTShape], ModelBundle]) -> StageResult:
    """Receive a model, let `reduce` give it fewer tokens, measure it on the test images and hand it out.

    Raises:
        ValueError: the model is no plain Vision Transformer, or what `reduce` refuses.
    """
    torch.set_num_threads(context.num_threads)
    data = load_stage_data(context)
    bundle = receive_model(context, data)
    refuse_model(bundle.model, who=stage)
    dense = count_macs(bundle)
    before = CLASSIFICATION.evaluate(bundle.model, data.test)
    bundle = reduce(bundle, shape_of(bundle))
    result = deliver_measured(
        bundle,
        context=context,
        score=CLASSIFICATION.evaluate(bundle.model, data.test),
        metrics={"initial_top1_accuracy": before.value, **token_metrics(bundle, dense_macs=dense)},
    )
    save_pictures(bundle, data, folder=context.output)
    return result


def shape_of(bundle: ModelBundle) -> ViTShape:
    """Sizes of a bundle's model; raises ValueError for other models than Vision Transformers."""
    return vit_shape(bundle.model, image_shape=bundle.architecture.input_spec.shape)


def count_macs(bundle: ModelBundle) -> int:
    """Multiply-accumulates of one image, from the tokens that really enter each layer."""
    return count_compute(fold_bundle(bundle).cpu(), torch.zeros(1, *bundle.architecture.input_spec.shape)).macs


def save_pictures(bundle: ModelBundle, data: Dataset, *, folder: Path) -> None:
    """Write where the patches of a few test images end up, the first image of each of the first classes that come."""
    batch = next(iter(data.test.batches(batch_size=min(64, data.test.num_samples))))
    labels = batch.labels.tolist()
    chosen = [index for index, label in enumerate(labels) if label not in labels[:index]][:NUM_PICTURES]
    save_trace(
        bundle.model.eval(),
        batch.images[chosen],
        [labels[index] for index in chosen],
        input_spec=data.input_spec,
        class_names=data.class_names,
        folder=folder,
    )


def token_metrics(bundle: ModelBundle, *, dense_macs: int) -> dict[str, Any]:
    """What every stage of this kind reports of the reduced model.

    Returns:
        gmacs_ratio: multiply-accumulates over those with all tokens.
        gmacs_matching: those of ranking and matching, which `gmacs` leaves out, / 1e9.
        kept_tokens: after each block, class token counted.
        num_pruned: tokens dropped in each block.
        num_merged: tokens merged into others in each block.
    """
    count = count_compute(fold_bundle(bundle).cpu(), torch.zeros(1, *bundle.architecture.input_spec.shape))
    model: Any = bundle.model
    kept = kept_tokens(model)
    pairs = list(pairwise((int(model.patch_embed.num_patches) + 1, *kept)))
    reductions = [block.reduction for block in model.blocks]
    pruned = [
        0 if isinstance(reduction, BipartiteReduction) else before - min(before, reduction.prune_to)
        for reduction, (before, _) in zip(reductions, pairs, strict=True)
    ]
    return {
        "gmacs_ratio": count.macs / dense_macs,
        "gmacs_matching": count.macs_apart / 1e9,
        "kept_tokens": list(kept),
        "num_pruned": pruned,
        "num_merged": [before - after - dropped for (before, after), dropped in zip(pairs, pruned, strict=True)],
    }
