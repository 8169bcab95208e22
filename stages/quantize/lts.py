"""LTS: quantization-aware training that freezes a weight for good once it has stayed close to its quantization level.

Most weights reach their final level after a few epochs. Before every forward pass t each weight's distance to its level is
averaged; a change of level wipes the average; when it falls below a growing threshold, the weight is frozen at its float
value from the next forward on. Frozen weights need no gradient. The rule is in `stages.ops.freezing`.

In a training loop of one's own:

    >>> import torch
    >>> from torch import nn
    >>> from stages.quantize.layers import bound_parameters
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    >>> images, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 3
    >>> _ = quantize_model(model, images, weight_bits=2, activation_bits=4)
    >>> freezing = Freezing(model, total_steps=40, warmup_steps=8)
    >>> bounds = list(bound_parameters(model).values())
    >>> weights = [p for p in model.parameters() if all(p is not bound for bound in bounds)]
    >>> optimizers = torch.optim.SGD(weights, lr=0.01, momentum=0.9), torch.optim.Adam(bounds, lr=1e-4)
    >>> for step in range(40):
    ...     freezing.before_step(step)
    ...     nn.functional.cross_entropy(model(images), labels).backward()
    ...     for optimizer in optimizers:
    ...         optimizer.step()
    ...         optimizer.zero_grad()
    >>> freezing.frozen_fraction > 0.9
    True
    >>> model.load_state_dict(model.state_dict())
    <All keys matched successfully>
    >>> plain = fold(model)
    >>> torch.equal(plain.eval()(images), model.eval()(images)), len(plain[0].weight.unique()) <= 4
    (True, True)

Source: Zhong et al. 2022, arXiv 2211.08544, and the authors' code, whose equations the tests replay. We depart from it where it
errs: counters are saved, so a resumed run goes on where it was; a frozen weight's parameter is put back to its frozen value
instead of drifting on with momentum and decay; work is really left out, and what is accounted is kept apart from what is
skipped and what is measured. With `skip_frozen` "none" every bound has the reference's gradient; otherwise the weight bounds of
a layer frozen whole stand still, because their gradient costs as much as the weight gradient that is left out.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.contract import StageContext, StageResult
from stages.data.base import Dataset
from stages.models.bundle import ModelBundle, fold_bundle
from stages.models.fake_quant import (
    TRANSFORM,
    QuantizedWeight,
    float_weight,
    quantized_layers,
    restore_frozen,
    weight_quantizer,
)
from stages.ops.counting import count_compute
from stages.ops.freezing import ThresholdMode, backward_saving, freeze, threshold_rate, update_distance
from stages.ops.quantizers import level_step, normalise, round_to_levels
from stages.quantize.layers import BoundsInit, choose_layers, initialise_bounds, refuse_crossed_bounds
from stages.quantize.settings import LTSSettings
from stages.quantize.training import first_batch, run_quantization
from stages.training.hooks import TrainingHook
from stages.training.tasks.base import task_of

TIMED_PASSES = 7


class Freezing(TrainingHook):
    """Watches the weights of a model with quantizers and freezes them; one call before each forward pass in training.

    Args:
        model: with quantizers that have room for frozen weights.
        total_steps: T, forward passes in training.
        warmup_steps: W_up, forward passes before anything freezes.
        mode: how the threshold grows from W_up to T.
        fixed_rate: threshold of mode "fixing", in distances of two levels.
        momentum: m of the averaged distance.
        skip_frozen: gradients to leave out, as in `LTSSettings`.
        macs: multiply-accumulates of each layer and, under "", of the whole model, for `backward_cost_skipped`; numbers of
            weights stand in where it is None.
    """

    name = "lts"

    def __init__(
        self,
        model: nn.Module,
        *,
        total_steps: int,
        warmup_steps: int,
        mode: ThresholdMode = "linear_growth",
        fixed_rate: float = 0.1,
        momentum: float = 0.99,
        skip_frozen: Literal["none", "layers", "rows"] = "layers",
        macs: Mapping[str, int] | None = None,
    ) -> None:
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(f"warmup_steps is {warmup_steps} and total_steps {total_steps}; expected 0 <= warmup < total")
        self.model = model
        self.layers = {name: layer for name, layer in quantized_layers(model).items() if _quantizer(layer).frozen is not None}
        if not self.layers:
            raise ValueError("the model has no quantizers whose weights may freeze; attach some with quantize_model first")
        self.schedule = {"warmup_steps": warmup_steps, "total_steps": total_steps, "fixed_rate": fixed_rate}
        self.mode: ThresholdMode = mode
        self.momentum = momentum
        self.distances: dict[str, Tensor] = {}
        self.previous: dict[str, Tensor] = {}
        self.frozen_at: dict[str, Tensor] = {}
        sizes = {name: layer.weight.numel() for name, layer in self.layers.items()}
        self.macs = dict(macs) if macs is not None else {**sizes, "": sum(sizes.values())}
        self.num_frozen = sum(_num_set(_quantizer(layer).frozen) for layer in self.layers.values())
        self.next_step = 0
        self._sum_frozen = 0.0
        self._sum_skipped = 0.0
        for layer in self.layers.values():
            _quantizer(layer).skips = skip_frozen

    @torch.no_grad()
    def before_step(self, step: int | None = None, epoch: float = 0.0) -> None:
        """Update distances and freeze, for the forward pass t = `step` that follows; what freezes now acts after it.

        Args:
            step: t, from 0, one more at each call; None: one more than at the last call, also after `load_state_dict`.
            epoch: not used.

        Raises:
            TrainingDiverged: the bounds of a layer have crossed.
        """
        del epoch
        step = self.next_step if step is None else step
        refuse_crossed_bounds(self.model)
        rate = threshold_rate(step, mode=self.mode, **self.schedule)  # type: ignore[arg-type]
        acting, skipped = 0, 0.0
        for name, layer in self.layers.items():
            quantizer = _quantizer(layer)
            if self.num_frozen:
                restore_frozen(layer)
                quantizer.refresh()
                assert quantizer.acting is not None
                acting += int(quantizer.acting.sum())
                skipped += self.macs[name] * quantizer.skipped_fraction
            if not (quantizer.is_all_frozen and quantizer.skips != "none"):
                self._watch(name, layer, step=step, rate=rate)
        self.num_frozen = sum(int((frozen_at != 0).sum()) for frozen_at in self.frozen_at.values())
        self._sum_frozen += acting / self.num_trainable
        self._sum_skipped += skipped / (2 * self.macs[""])
        self.next_step = step + 1

    def after_step(self, step: int) -> None:
        """Put frozen parameters back, where the update has moved them."""
        del step
        if self.num_frozen:
            for layer in self.layers.values():
                restore_frozen(layer)

    @property
    def num_kept(self) -> int:
        """Weights of quantized layers that no mask removes; a mask may still be shrinking."""
        masks = {name: _quantizer(layer).mask for name, layer in self.layers.items()}
        return sum(_num_set(mask) if mask is not None else self.layers[name].weight.numel() for name, mask in masks.items())

    @property
    def num_trainable(self) -> int:
        """All trainable parameters, without weights that a mask removes."""
        masked = sum(layer.weight.numel() for layer in self.layers.values()) - self.num_kept
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad) - masked

    @property
    def frozen_fraction(self) -> float:
        """f: frozen weights / all trainable parameters, norms, biases and bounds included, masked weights not."""
        return self.num_frozen / self.num_trainable

    @property
    def mean_frozen_fraction(self) -> float:
        """Mean of f over the forward passes so far, each with what was frozen in it."""
        return self._sum_frozen / max(self.next_step, 1)

    def metrics(self) -> Mapping[str, float]:
        """Frozen shares and what they save by the published formula and by count."""
        return {
            "frozen_fraction": self.frozen_fraction,
            "mean_frozen_fraction": self.mean_frozen_fraction,
            "frozen_weights_fraction": self.num_frozen / self.num_kept,
            "backward_cost_saved_accounted": backward_saving(self.mean_frozen_fraction),
            "backward_cost_skipped": self._sum_skipped / max(self.next_step, 1),
        }

    def state_dict(self) -> Mapping[str, Any]:
        """Distances, levels, freezing steps and counters; frozen weights themselves are in the model's state dict."""
        return {
            "next_step": self.next_step,
            "num_frozen": self.num_frozen,
            "sum_frozen": self._sum_frozen,
            "sum_skipped": self._sum_skipped,
            "distances": self.distances,
            "previous": self.previous,
            "frozen_at": self.frozen_at,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave; the model's own state dict must have been loaded before."""
        self.next_step, self.num_frozen = int(state["next_step"]), int(state["num_frozen"])
        self._sum_frozen, self._sum_skipped = float(state["sum_frozen"]), float(state["sum_skipped"])
        for key in ("distances", "previous", "frozen_at"):
            buffers = {name: value.to(self.layers[name].weight.device, copy=True) for name, value in state[key].items()}
            setattr(self, key, buffers)

    def _watch(self, name: str, layer: nn.Module, *, step: int, rate: float) -> None:
        quantizer, weight = _quantizer(layer), float_weight(layer).detach()
        assert quantizer.frozen is not None
        assert quantizer.held is not None
        if name not in self.distances:
            self.distances[name], self.previous[name] = torch.zeros_like(weight), torch.zeros_like(weight)
            # What came frozen with the model stays so, marked by a step before the first.
            self.frozen_at[name] = -quantizer.frozen.to(torch.int32)
        effective = torch.where(quantizer.frozen, quantizer.held, weight)
        position = normalise(effective, quantizer.bounds)
        update_distance(
            self.distances[name],
            self.previous[name],
            position=position,
            level=round_to_levels(position, bits=quantizer.bits),
            step=step,
            momentum=self.momentum,
            level_step=level_step(quantizer.bits),
        )
        frozen_at, warmup_steps = self.frozen_at[name], int(self.schedule["warmup_steps"])
        threshold = rate * level_step(quantizer.bits)
        freeze(frozen_at, self.distances[name], step=step, threshold=threshold, warmup_steps=warmup_steps)
        if quantizer.mask is not None:
            frozen_at.masked_fill_(~quantizer.mask, 0)
        quantizer.held.copy_(effective)
        quantizer.frozen.copy_(frozen_at != 0)


def quantize_model(
    model: nn.Module,
    images: Tensor,
    *,
    weight_bits: int,
    activation_bits: int,
    freezes: bool = True,
    bounds_init: BoundsInit = "reference",
    **choices: Any,
) -> dict[str, dict[str, Any]]:
    """Attach quantizers to any model, in place, with bounds from one batch.

    Args:
        model: plain, or with masks.
        images: a batch of training images.
        weight_bits: 2, 3, 4 or 8.
        activation_bits: the same.
        freezes: whether weights may freeze.
        bounds_init: "reference", or "least_squares" for those that change weights and inputs least.
        choices: further arguments of `choose_layers`.

    Returns:
        Bits and form of each layer.
    """
    layers = choose_layers(model, images[:2], weight_bits=weight_bits, activation_bits=activation_bits, **choices)
    TRANSFORM.attach(model, {"layers": layers, "freezes": freezes})
    initialise_bounds(model, images, bounds_init=bounds_init)
    return layers


def fold(model: nn.Module) -> nn.Module:
    """A copy with plain weights on their grids; inputs of layers go on being rounded, by plain operators."""
    plain = copy.deepcopy(model).eval()
    TRANSFORM.fold(plain)
    return plain


def run(context: StageContext) -> StageResult:
    """Train the input model with fake quantization and freezing; the output carries quantizers and frozen weights.

    Raises:
        ValueError: a layer cannot be quantized, the model carries quantizers already, or a setting does not fit the data.
        TrainingDiverged: the loss or a weight stopped being finite.
    """
    settings = context.settings
    assert isinstance(settings, LTSSettings)

    def make(bundle: ModelBundle, data: Dataset, total_steps: int) -> Freezing:
        del data
        count = count_compute(fold_bundle(bundle), torch.zeros(1, *bundle.architecture.input_spec.shape))
        return Freezing(
            bundle.model,
            total_steps=total_steps,
            warmup_steps=int(settings.freeze_warmup * total_steps),
            mode=settings.threshold_mode,
            fixed_rate=settings.fixed_rate,
            momentum=settings.distance_momentum,
            skip_frozen=settings.skip_frozen,
            macs={**count.macs_by_layer, "": count.macs},
        )

    def finish(bundle: ModelBundle, hook: TrainingHook, data: Dataset) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        example = task_of(bundle).inputs(bundle.model, first_batch(data, settings, context), seed=context.seed)
        saved = measure_backward_saving(bundle.model, example, skip_frozen=settings.skip_frozen)
        return hook.metrics(), {"backward_cost_saved_measured": saved}

    return run_quantization(context, freezes=True, make_hook=make, finish=finish)


def measure_backward_saving(
    model: nn.Module, example: Tensor | Sequence[Tensor], *, skip_frozen: Literal["none", "layers", "rows"] = "layers"
) -> float:
    """1 - time of the backward pass with frozen gradients left out / time with all of them; the median of pairs.

    It covers what is frozen now and says nothing about earlier steps. Negative values are noise or a loss.

    Args:
        model: with quantizers; left as it is.
        example: a batch of images, or all that the model takes.
        skip_frozen: what to leave out in the timed passes.
    """
    probe, inputs = copy.deepcopy(model).train(), (example,) if isinstance(example, Tensor) else example
    quantizers = [_quantizer(layer) for layer in quantized_layers(probe).values()]
    for quantizer in quantizers:
        quantizer.refresh()

    def backward_s(skips: str) -> float:
        for quantizer in quantizers:
            quantizer.skips = skips
        loss = functional.log_softmax(probe(*inputs).flatten(1), dim=1)[:, 0].mean()
        _wait_for_gpu()
        start = time.perf_counter()
        loss.backward()  # type: ignore[no-untyped-call]
        _wait_for_gpu()
        elapsed = time.perf_counter() - start
        probe.zero_grad(set_to_none=True)
        return elapsed

    backward_s("none")
    return 1 - median(backward_s(skip_frozen) / backward_s("none") for _ in range(TIMED_PASSES))


def _wait_for_gpu() -> None:
    """A GPU works on what it was asked for while the program goes on; a clock would read the asking."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()


def _quantizer(layer: nn.Module) -> QuantizedWeight:
    quantizer = weight_quantizer(layer)
    assert quantizer is not None
    return quantizer


def _num_set(flags: Tensor | None) -> int:
    return 0 if flags is None else int(flags.sum())
