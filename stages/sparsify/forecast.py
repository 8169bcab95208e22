"""What is known of a masked model before its masks are: they keep N of every M, wherever they lie."""

from __future__ import annotations

from collections.abc import Mapping

from stages.contract import Forecast
from stages.models.nm_mask import apply_masks
from stages.models.skeleton import build_input, first_of_every_block, forecast_model
from stages.ops.pattern import parse_pattern
from stages.sparsify.layers import mask_metrics, refuse_transforms, select_layers
from stages.sparsify.settings import FORECAST_METRICS, NMSettings


def sparse(settings: NMSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """Counts of the input model with masks on the layers that the stage would choose; raises ValueError as the stage does."""
    bundle, pattern = build_input(inputs), parse_pattern(settings.n_m)
    refuse_transforms(bundle, stage="sparsify")
    names = select_layers(
        bundle.model, pattern=pattern, dense_layers=settings.dense_layers, on_indivisible=settings.on_indivisible
    )
    masks = {name: first_of_every_block(bundle.model.get_submodule(name).weight, pattern=pattern) for name in names}  # type: ignore[arg-type]
    bundle = apply_masks(bundle, masks, pattern=pattern)
    found = mask_metrics(bundle)
    return forecast_model(bundle, metrics={name: found[name] for name in FORECAST_METRICS if name in found})
