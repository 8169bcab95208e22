"""One-shot magnitude N:M masks: the control arm for methods that learn their masks.

Source: Mishra et al. 2021, arXiv 2104.08378: keep the N largest magnitudes of every M consecutive inputs. The paper
retrains afterwards; here that is a `finetune` stage of its own, which keeps the masks.
"""

from __future__ import annotations

from stages.contract import StageContext, StageResult
from stages.models.nm_mask import apply_masks
from stages.ops.nm import magnitude_mask
from stages.sparsify.layers import mask_metrics, receive_dense_model
from stages.training.model_artifact import deliver_measured


def run(context: StageContext) -> StageResult:
    """Mask the input model by magnitude and measure it on the test images.

    Raises:
        ValueError: a layer cannot take the pattern, or the model carries transforms already.
    """
    dense = receive_dense_model(context, stage="sparsify.magnitude")
    model = dense.bundle.model.cpu()
    masks = {name: magnitude_mask(model.get_submodule(name).weight, pattern=dense.pattern) for name in dense.names}  # type: ignore[arg-type]
    bundle = apply_masks(dense.bundle, masks, pattern=dense.pattern)
    after = dense.task.evaluate(bundle.model.to(dense.device), dense.data.test, device=dense.device)
    bundle.model.cpu()
    return deliver_measured(bundle, context=context, score=after, metrics={**dense.initial_metrics, **mask_metrics(bundle)})
