"""What every `quantize` stage does around its method: attach, train weights and bounds, deliver, check the grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from stages.contract import StageContext, StageResult
from stages.data.base import Batch, Dataset, load_stage_data
from stages.models.bundle import ModelBundle
from stages.models.fake_quant import float_weight, quantized_layers
from stages.ops.seeding import prepare_process
from stages.ops.seeds import derive_seed
from stages.quantize.layers import attach_quantizers, bound_parameters, layers_asked, quantizers_of, refuse_crossed_bounds
from stages.quantize.settings import QATSettings
from stages.training.hooks import TrainingHook
from stages.training.loop import train
from stages.training.model_artifact import deliver_model, receive_model
from stages.training.schedules import rates_at
from stages.training.tasks.base import task_of


class BoundsHook(TrainingHook):
    """Trains the bounds with an Adam of their own, whatever moves the weights: no decay, no clipping, a rate of their own.

    The rate is `learning_rate` times the share of its largest value that the weights' rate has in the same step. Bounds
    without a gradient, those of layers that are frozen whole, stay where they are.

    Source: arXiv 2211.08544, the authors' code (Adam, 1e-4, without decay, decayed together with the weights).
    """

    name = "bounds"

    def __init__(self, *, learning_rate: float, settings: QATSettings, total_steps: int) -> None:
        self.learning_rate = learning_rate
        self.settings = settings
        self.total_steps = total_steps
        self.parameters: dict[str, nn.Parameter] = {}

    def parameter_groups(self, model: nn.Module) -> Sequence[Any]:
        """None for the loop; here the model lies on its device, so the optimizer is made."""
        self.model, self.parameters = model, bound_parameters(model)
        self.adam = torch.optim.Adam(list(self.parameters.values()), lr=self.learning_rate, fused=True)
        return ()

    def before_update(self, step: int) -> None:
        """Move the bounds and take their gradients away, so that the loop's optimizer and its clipping pass them by."""
        share = (
            rates_at(step, total_steps=self.total_steps, settings=self.settings).learning_rate
            / self.settings.peak_learning_rate
        )
        self.adam.param_groups[0]["lr"] = self.learning_rate * share
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        refuse_crossed_bounds(self.model)

    def state_dict(self) -> Mapping[str, Any]:
        """Moments by parameter name."""
        state = self.adam.state
        return {name: dict(state[parameter]) for name, parameter in self.parameters.items() if parameter in state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        for name, moments in state.items():
            parameter = self.parameters[name]
            self.adam.state[parameter] = {key: value.to(parameter.device, copy=True) for key, value in moments.items()}


def run_quantization(
    context: StageContext,
    *,
    freezes: bool,
    make_hook: Callable[[ModelBundle, Dataset, int], TrainingHook] | None = None,
    finish: Callable[[ModelBundle, TrainingHook, Dataset], tuple[Mapping[str, Any], Mapping[str, Any]]] | None = None,
) -> StageResult:
    """Quantize the input model, train it, and hand it out with its quantizers.

    Args:
        context: its settings are `QATSettings`.
        freezes: whether the bundle has room for frozen weights.
        make_hook: (bundle with quantizers, data, number of steps) -> what the method does in training.
        finish: (bundle, hook, data) -> the method's own metrics and measurements.
    """
    prepare_process(context)
    settings = context.settings
    assert isinstance(settings, QATSettings)
    data = load_stage_data(context)
    bundle = receive_model(context, data, takes=None)
    task = task_of(bundle)
    example = task.inputs(bundle.model, first_batch(data, settings, context), seed=context.seed)
    layers = layers_asked(bundle.model, example, settings)
    before = task.evaluate(bundle.model, data.test)
    bundle = attach_quantizers(bundle, example, layers=layers, freezes=freezes, bounds_init=settings.bounds_init)
    total_steps = data.train.num_samples // settings.batch_size * settings.epochs
    hooks: list[TrainingHook] = [
        BoundsHook(learning_rate=settings.bound_learning_rate, settings=settings, total_steps=total_steps)
    ]
    hook = make_hook(bundle, data, total_steps) if make_hook else None
    hooks += [hook] if hook else []
    report = train(bundle.model, data=data, settings=settings, context=context, hooks=hooks, task=task)
    bundle.model.cpu()
    metrics, measurements = finish(bundle, hook, data) if finish and hook else ({}, {})
    metrics = {f"initial_{before.metric}": before.value, **grid_metrics(bundle), **metrics}
    result = deliver_model(bundle, context=context, report=report, metrics=metrics)
    return StageResult(metrics=result.metrics, measurements={**result.measurements, **measurements})


def first_batch(data: Dataset, settings: QATSettings, context: StageContext) -> Batch:
    """The images of the first training step, not shifted, and their labels: what bounds start from."""
    order = derive_seed(context.seed, "order", 0)
    size = min(settings.batch_size, data.train.num_samples)
    return next(iter(data.train.batches(batch_size=size, shuffle_seed=order)))


@torch.no_grad()
def grid_metrics(bundle: ModelBundle) -> dict[str, Any]:
    """Read off the used weights: which form each layer has, and how many distinct values its kept weights take."""
    forms, levels, is_valid = [], [0], True
    for layer in quantized_layers(bundle.model).values():
        quantizer, _ = quantizers_of(layer)
        used = quantizer.eval()(float_weight(layer))
        found = len(torch.unique(used if quantizer.mask is None else used[quantizer.mask]))
        forms.append(quantizer.form)
        levels.append(found)
        is_valid = is_valid and found <= 2**quantizer.bits
    return {
        "num_quantized_layers": len(forms),
        "num_normalized_layers": forms.count("normalized"),
        "num_dequantized_layers": forms.count("dequantized"),
        "max_levels": max(levels),
        "levels_valid": is_valid and bool(forms),
    }
