"""Counting on plain modules: parameters, non-zeros, multiply-accumulates. Counts are nominal and say nothing about speed.

Must not know bundles, stages or methods.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

FLOAT_BITS = 32
"""Bits of a weight or an activation that nobody quantized."""


@dataclass(frozen=True, kw_only=True)
class ComputeCount:
    """Multiply-accumulates of one forward pass.

    Attributes:
        macs: all of them, in convolutions, linear layers and matrix products (attention included), but for `macs_apart`.
        macs_by_layer: those of each convolution and linear layer, by module name.
        macs_nonzero: the same total when every multiplication by a zero weight is left out.
        macs_apart: those of modules that say `counted_apart`: finding similar tokens, which no paper counts as the network's.
    """

    macs: int
    macs_by_layer: dict[str, int]
    macs_nonzero: int
    macs_apart: int = 0


def count_compute(model: nn.Module, example: Tensor) -> ComputeCount:
    """Count what one forward pass of `example` multiplies, by watching it run.

    A linear layer of (O, I) on T rows costs T*O*I; a convolution of (O, I, kh, kw) costs O*I*kh*kw per output pixel; a
    product of (T, D) and (D, T) costs T*T*D. Elementwise work, normalisation and softmax are left out, as is usual where
    papers print "FLOPs" for this number.

    Args:
        model: a plain module (methods folded away), left in the mode that it is in.
        example: an input batch; the count is for the whole batch. Meta tensors do.
    """
    by_layer: dict[str, int] = {}
    apart: list[int] = []
    mode = FlopCounterMode(display=False)
    with torch.no_grad(), _plain_attention(), _watched_layers(model, by_layer), _watched_apart(model, mode, apart), mode:
        model(example)
    macs = (mode.get_total_flops() - sum(apart)) // 2
    zeros = sum(count * _zero_fraction(model.get_submodule(name)) for name, count in by_layer.items())
    return ComputeCount(macs=macs, macs_by_layer=by_layer, macs_nonzero=macs - round(zeros), macs_apart=sum(apart) // 2)


def num_parameters(model: nn.Module) -> int:
    """Number of parameters, each counted once even if shared. Buffers (running means) are not parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def num_nonzero_parameters(model: nn.Module) -> int:
    """Number of parameters that are not exactly 0."""
    return sum(int(parameter.detach().count_nonzero()) for parameter in model.parameters())


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Make attention run as matrix products: fused kernels are single operators whose inside no counter sees."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


@contextmanager
def _watched_layers(model: nn.Module, by_layer: dict[str, int]) -> Iterator[None]:
    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def record(layer: nn.Module, _inputs: object, output: Tensor) -> None:
            weight = layer.weight
            assert isinstance(weight, Tensor)
            by_layer[name] = by_layer.get(name, 0) + output.numel() * (weight.numel() // weight.shape[0])

        return model.get_submodule(name).register_forward_hook(record)

    handles = [watch(name) for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _watched_apart(model: nn.Module, mode: FlopCounterMode, apart: list[int]) -> Iterator[None]:
    """Note the operations of modules that say `counted_apart`: minus what was counted before each, plus what after it."""
    handles = []
    for module in model.modules():
        if getattr(module, "counted_apart", False):
            handles.append(module.register_forward_pre_hook(lambda *_: apart.append(-mode.get_total_flops())))
            handles.append(module.register_forward_hook(lambda *_: apart.append(mode.get_total_flops())))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _zero_fraction(layer: nn.Module) -> float:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if weight.is_meta:
        return 0.0
    return 1.0 - int(weight.detach().count_nonzero()) / weight.numel()
