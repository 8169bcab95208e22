"""One-shot magnitude N:M masks: the control arm for methods that learn their masks.

Source: Mishra et al. 2021, arXiv 2104.08378: keep the N largest magnitudes of every M consecutive inputs. The paper
retrains afterwards; here that is a `finetune` stage of its own, which keeps the masks.
"""

from __future__ import annotations

from stages.contract import StageContext, StageResult
from stages.data.base import load_dataset
from stages.models.bundle import WEIGHTS_FILE, save_bundle
from stages.models.measures import measure_model
from stages.models.nm_mask import apply_masks
from stages.ops.nm import magnitude_mask
from stages.ops.pattern import parse_pattern
from stages.sparsify.layers import mask_metrics, refuse_transforms, select_layers
from stages.sparsify.settings import MagnitudeSettings
from stages.training.evaluation import evaluate_top1
from stages.training.model_artifact import receive_model
from stages.training.seeding import prepare_process


def run(context: StageContext) -> StageResult:
    """Mask the input model by magnitude and measure it on the test images.

    Raises:
        ValueError: a layer cannot take the pattern, or the model carries transforms already.
    """
    device = prepare_process(context)
    settings = context.settings
    assert isinstance(settings, MagnitudeSettings)
    data = load_dataset(settings.data)
    bundle, pattern = receive_model(context, data), parse_pattern(settings.n_m)
    refuse_transforms(bundle, stage="sparsify.magnitude")
    names = select_layers(
        bundle.model, pattern=pattern, dense_layers=settings.dense_layers, on_indivisible=settings.on_indivisible
    )
    before = evaluate_top1(bundle.model.to(device), data.test, device=device)
    bundle.model.cpu()
    masks = {name: magnitude_mask(bundle.model.get_submodule(name).weight, pattern=pattern) for name in names}  # type: ignore[arg-type]
    bundle = apply_masks(bundle, masks, pattern=pattern)
    save_bundle(bundle, context.output)
    after = evaluate_top1(bundle.model, data.test)
    return StageResult(
        metrics={
            "top1_accuracy": after.accuracy,
            "num_correct": after.correct,
            "num_test": after.total,
            **measure_model(bundle),
            "size_bytes": (context.output / WEIGHTS_FILE).stat().st_size,
            "initial_top1_accuracy": before.accuracy,
            **mask_metrics(bundle),
        }
    )
