"""The stage `quantize.ptq`: rounding to 2^bits levels with bounds from calibration images, without training.

A denoiser sees other inputs at each timestep: much noise at one end, an image at the other. Its calibration images are
therefore spread evenly over the timesteps of its schedule, with the node's seed, and the bounds of a layer's input can be kept
apart for groups of neighbouring timesteps.

Source: bounds of least squared error, ours; calibration over timesteps: Shang et al. 2022, arXiv 2211.15736 (PTQ4DM), and
Li et al. 2023, arXiv 2302.04304 (Q-Diffusion); bounds by group of timesteps: So et al. 2023, arXiv 2306.02316 (TDQ), there
learned by a network.
"""

from __future__ import annotations

from stages.contract import StageContext, StageResult
from stages.data.base import load_stage_data
from stages.ops.seeding import prepare_process
from stages.ops.seeds import derive_seed
from stages.quantize.layers import attach_quantizers, layers_asked
from stages.quantize.settings import PTQSettings
from stages.quantize.training import grid_metrics
from stages.training.model_artifact import deliver_measured, receive_model
from stages.training.tasks.base import task_of


def run(context: StageContext) -> StageResult:
    """Quantize the input model and measure it; the output carries its quantizers.

    Raises:
        ValueError: a layer cannot be quantized, the model carries quantizers already, or a setting does not fit the model.
    """
    prepare_process(context)
    settings = context.settings
    assert isinstance(settings, PTQSettings)
    data = load_stage_data(context)
    bundle = receive_model(context, data, takes=None)
    task = task_of(bundle)
    size = min(settings.calibration_samples, data.train.num_samples)
    order = derive_seed(context.seed, "calibration")
    batch = next(iter(data.train.batches(batch_size=size, shuffle_seed=order)))
    example = task.inputs(bundle.model, batch, seed=context.seed)
    layers = layers_asked(bundle.model, example, settings)
    before = task.evaluate(bundle.model, data.test)
    bundle = attach_quantizers(
        bundle,
        example,
        layers=layers,
        freezes=False,
        bounds_init="least_squares",
        timestep_groups=settings.timestep_groups,
        trains=False,
    )
    return deliver_measured(
        bundle,
        context=context,
        score=task.evaluate(bundle.model, data.test),
        metrics={f"initial_{before.metric}": before.value, **grid_metrics(bundle)},
    )
