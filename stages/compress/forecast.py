"""What is known of a model before its joint training: what is known of the parts, one after the other."""

from __future__ import annotations

from collections.abc import Mapping

from stages.compress.settings import JointSettings
from stages.compress_tokens.forecast import diffrate
from stages.contract import Forecast
from stages.quantize.forecast import quantized
from stages.sparsify.forecast import sparse


def joint(settings: JointSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """Counts of the input model with the transforms of all parts; tokens as in DiffRate's forecast."""
    lbc, lts, rates = settings.lbc_settings(), settings.lts_settings(), settings.diffrate_settings()
    known, metrics = inputs["model"], dict[str, float]()
    if lbc is not None:
        known = sparse(lbc, {"model": known})
        metrics |= known.metrics
    if lts is not None:
        known = quantized(lts, {"model": known})
        metrics |= known.metrics
    if rates is not None:
        known = diffrate(rates, {"model": known})
        metrics |= known.metrics
    return Forecast(metrics=metrics, model=known.model)
