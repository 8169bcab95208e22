"""Quantization-aware training with learned bounds, straight through the rounding: LTS without freezing, its control.

Source: the quantizer of arXiv 2211.08544; learned steps for all layers go back to Esser et al. 2019, arXiv 1902.08153 (LSQ).
"""

from __future__ import annotations

from stages.contract import StageContext, StageResult
from stages.quantize.settings import QATSettings
from stages.quantize.training import run_quantization


def run(context: StageContext) -> StageResult:
    """Train the input model with fake quantization; the output carries its quantizers.

    Raises:
        ValueError: a layer cannot be quantized, the model carries quantizers already, or a setting does not fit the data.
        TrainingDiverged: the loss or a weight stopped being finite.
    """
    assert isinstance(context.settings, QATSettings)
    return run_quantization(context, freezes=False)
