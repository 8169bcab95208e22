"""What is known of a quantized model before its training: which layers have how many bits, in which form."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from stages.contract import Forecast
from stages.models.bundle import apply_transform
from stages.models.fake_quant import TRANSFORM
from stages.models.skeleton import build_input, forecast_model
from stages.quantize.layers import layers_asked
from stages.quantize.settings import LAYER_METRICS, LTSSettings, PTQSettings, QATSettings
from stages.quantize.training import grid_metrics


def quantized(settings: QATSettings | PTQSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """Counts of the input model with quantizers where the stage would attach them; raises ValueError as the stage does."""
    bundle = build_input(inputs)
    layers = layers_asked(bundle.model, torch.zeros(2, *bundle.architecture.input_spec.shape), settings)
    freezes = isinstance(settings, LTSSettings)
    groups = {"timestep_groups": settings.timestep_groups} if isinstance(settings, PTQSettings) else {}
    bundle = apply_transform(bundle, TRANSFORM.name, {"layers": layers, "freezes": freezes, **groups})
    found = grid_metrics(bundle)
    return forecast_model(bundle, metrics={name: found[name] for name in LAYER_METRICS})
