"""The transform `fake_quant`: layers compute with weights and inputs that are rounded to 2^bits levels between two bounds.

Rounding happens in the forward pass only; the weights stay floats and are trained straight through it. Some weights may be
frozen: they have no gradient, and the layer uses the value they were frozen at whatever an optimizer does to the parameter.
How bounds and frozen weights come about is the business of a `quantize` method.

Zeros and the grid: an even number of levels between symmetric bounds has none at 0. A weight that an N:M mask removes
therefore stays outside of the grid: what the layer uses for it is exactly 0, and 2^bits levels remain for the others. It
costs no level in a packed file either, which stores kept weights only.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MethodType
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from stages.models.nm_mask import make_weight_plain
from stages.models.timestep_groups import TimestepGroups, timestep_groups
from stages.models.transforms import FAKE_QUANTIZATION
from stages.ops.frozen_rows import WORTHWHILE, can_skip_rows, forward_with_live_rows
from stages.ops.quantizers import (
    Bounds,
    Form,
    initial_activation_bounds,
    least_squares_bounds,
    quantize_activation,
    quantize_weight,
)

BITS = (2, 3, 4, 8)
"""Legal widths of weights and activations."""

Layer = nn.Linear | nn.Conv2d


class QuantizedWeight(nn.Module):
    """Parametrization weight -> the value on the grid; where frozen, of the weight held there.

    Attributes:
        lower, upper: learned bounds, 0-dimensional.
        frozen: bool buffer of the weight's shape; None where the bundle says that nothing ever freezes.
        held: the values of frozen weights. Not stored: a state dict is taken with them written into the parameter.
        acting: the part of `frozen` that the running training step respects; freezing acts from the next forward on.
        skips: what is left out of the backward pass: "none"; "layers": all of a layer whose weights are all frozen, its
            bounds' gradients included; "rows": also output rows that are all frozen, with what they give to the bounds.
    """

    frozen: Tensor | None
    held: Tensor | None
    acting: Tensor | None

    def __init__(self, weight: Tensor, *, bits: int, form: Form, freezes: bool) -> None:
        super().__init__()
        self.bits, self.form = bits, form
        self.lower = nn.Parameter(weight.new_tensor(-1.0))
        self.upper = nn.Parameter(weight.new_tensor(1.0))
        nothing = torch.zeros_like(weight, dtype=torch.bool) if freezes else None
        self.register_buffer("frozen", nothing)
        self.register_buffer("acting", None if nothing is None else nothing.clone(), persistent=False)
        self.register_buffer("held", torch.zeros_like(weight) if freezes else None, persistent=False)
        self.skips = "layers"
        self.live_rows: Tensor | None = None
        self.is_all_frozen = False
        self._mask_owner: tuple[nn.Module, ...] = ()  # in a tuple, since a mask belongs to a transform of its own

    @property
    def bounds(self) -> Bounds:
        """Both bounds, with gradients."""
        return Bounds(self.lower, self.upper)

    @property
    def mask(self) -> Tensor | None:
        """Weights that an earlier transform keeps, or None where it keeps all."""
        return cast("Tensor", self._mask_owner[0].mask) if self._mask_owner else None

    def follow_mask(self, owner: nn.Module | None) -> None:
        """Leave weights outside of `owner.mask` (bool, of the weight's shape) exactly 0."""
        self._mask_owner = () if owner is None else (owner,)

    def effective(self, weight: Tensor) -> Tensor:
        """The float weights before rounding: held values where frozen, given ones elsewhere; gradient 0 where frozen."""
        frozen = self.acting if self.training else self.frozen
        if frozen is None:
            return weight
        assert self.held is not None
        return torch.where(frozen, self.held, weight)

    def forward(self, weight: Tensor) -> Tensor:
        used = quantize_weight(self.effective(weight), self.bounds, bits=self.bits, form=self.form)
        mask = self.mask
        if mask is not None:
            used = used.masked_fill(~mask, 0)
        # Without a graph, autograd leaves out the product that makes the weight's gradient.
        return used.detach() if self.training and self.is_all_frozen and self.skips != "none" else used

    @torch.no_grad()
    def refresh(self) -> None:
        """Let what is frozen now act from here on. To be called after every change of `frozen`, before a forward pass."""
        assert self.frozen is not None
        assert self.acting is not None
        self.acting.copy_(self.frozen)
        mask = self.mask
        live = ~self.frozen if mask is None else mask & ~self.frozen
        live_rows = live.flatten(1).any(1).nonzero()[:, 0]
        self.is_all_frozen = len(live_rows) == 0
        self.live_rows = live_rows if len(live_rows) <= WORTHWHILE * len(live) else None

    @property
    def skipped_fraction(self) -> float:
        """Share of this layer's weight gradient that the next backward pass in training leaves out."""
        if self.skips == "none":
            return 0.0
        if self.is_all_frozen:
            return 1.0
        if self.skips == "layers" or self.live_rows is None:
            return 0.0
        return 1 - len(self.live_rows) / len(self.acting) if self.acting is not None else 0.0


class QuantizedInput(nn.Module):
    """The input of a layer, rounded to its grid, with learned bounds; `observes` sets them from the next batch first.

    With `groups`, there are bounds for each group of neighbouring timesteps of a denoiser: images of a batch are rounded by
    those of their own timestep.
    """

    def __init__(self, weight: Tensor, *, bits: int, form: Form, groups: TimestepGroups | None = None) -> None:
        super().__init__()
        self.bits, self.form, self.groups = bits, form, groups
        shape = () if groups is None else (groups.number,)
        self.lower = nn.Parameter(weight.new_zeros(shape))
        self.upper = nn.Parameter(weight.new_ones(shape))
        self.observes: str | None = None

    def forward(self, value: Tensor) -> Tensor:
        if self.observes is not None:
            with torch.no_grad():
                self._observe(value, how=self.observes)
            self.observes = None
        return quantize_activation(value, bounds_of(self, value), bits=self.bits, form=self.form)

    def _observe(self, value: Tensor, *, how: str) -> None:
        def bounds(part: Tensor) -> Bounds:
            if how == "reference":
                return initial_activation_bounds(part)
            return least_squares_bounds(part, bits=self.bits, symmetric=False)

        if self.groups is None:
            lower, upper = bounds(value)
            self.lower.copy_(lower)
            self.upper.copy_(upper)
            return
        index = self.groups.index(value)
        for number in range(self.groups.number):
            part = value[index == number]
            if not len(part):
                raise ValueError(f"no image of the calibration falls into group {number} of {self.groups.number} of timesteps")
            self.lower[number], self.upper[number] = bounds(part)


class InputGrid(nn.Module):
    """The input of a layer of a folded model, rounded to its grid by plain operators; bounds are constants."""

    lower: Tensor
    upper: Tensor

    def __init__(self, source: QuantizedInput) -> None:
        super().__init__()
        self.bits, self.form, self.groups = source.bits, source.form, source.groups
        self.register_buffer("lower", source.lower.detach().clone())
        self.register_buffer("upper", source.upper.detach().clone())

    def forward(self, value: Tensor) -> Tensor:
        with torch.no_grad():
            return quantize_activation(value, bounds_of(self, value), bits=self.bits, form=self.form)


def bounds_of(part: QuantizedInput | InputGrid, value: Tensor) -> Bounds:
    """The bounds for a layer's input: for each image those of its timestep, where there are groups of these."""
    if part.groups is None:
        return Bounds(part.lower, part.upper)
    index = part.groups.index(value)
    shape = (-1, *(1 for _ in value.shape[1:]))
    return Bounds(part.lower[index].reshape(shape), part.upper[index].reshape(shape))


class FakeQuantTransform:
    """Settings: `layers`, from layer name to {weight_bits, activation_bits, form}; `freezes`, whether weights may freeze.

    `timestep_groups`, where it is there: how many bounds each layer's input has over a denoiser's schedule.
    """

    name = "fake_quant"
    version = 1
    order = FAKE_QUANTIZATION

    def attach(self, model: nn.Module, settings: Mapping[str, Any]) -> None:
        """Give every named layer quantizers with bounds that mean nothing yet; loading the state brings the real ones."""
        modules = dict(model.named_modules())
        groups = timestep_groups(model, int(settings.get("timestep_groups", 1)))
        for name, chosen in settings["layers"].items():
            _attach(name, modules.get(name), chosen, freezes=bool(settings.get("freezes", False)), groups=groups)

    def fold(self, model: nn.Module) -> None:
        """Make the weights what the layers use now; inputs keep being rounded, by operators without learned bounds."""
        for layer in list(model.modules()):
            quantizer = weight_quantizer(layer)
            if quantizer is None:
                continue
            quantizer.eval()
            layer.__dict__.pop("forward", None)
            for hooks in (layer._state_dict_pre_hooks, layer._load_state_dict_post_hooks):  # noqa: SLF001 - torch has no other way
                for number in [number for number, hook in hooks.items() if hook in (_write_held, _read_held)]:
                    del hooks[number]
            make_weight_plain(layer)
            assert isinstance(layer.input_quantizer, QuantizedInput)
            layer.input_quantizer = InputGrid(layer.input_quantizer)


TRANSFORM = FakeQuantTransform()


def weight_quantizer(layer: nn.Module) -> QuantizedWeight | None:
    """The quantizer of a layer's weight, or None."""
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    chain = layer.parametrizations.weight  # type: ignore[union-attr]
    return next((part for part in chain if isinstance(part, QuantizedWeight)), None)  # type: ignore[union-attr]


def quantized_layers(model: nn.Module) -> dict[str, Layer]:
    """The layers with quantizers, by name."""
    return {name: cast("Layer", layer) for name, layer in model.named_modules() if weight_quantizer(layer) is not None}


def layer_bits(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Bits of weights and of activations of every quantized layer, by name."""
    quantizers = {name: weight_quantizer(layer) for name, layer in quantized_layers(model).items()}
    return {
        name: (quantizer.bits, cast("QuantizedInput", model.get_submodule(f"{name}.input_quantizer")).bits)
        for name, quantizer in quantizers.items()
        if quantizer is not None
    }


def float_weight(layer: nn.Module) -> Tensor:
    """A quantized layer's weight after its mask, before freezing and rounding, with gradient."""
    chain = layer.parametrizations.weight  # type: ignore[union-attr]
    weight = cast("Tensor", chain.original)  # type: ignore[union-attr]
    for part in chain:  # type: ignore[union-attr]
        if isinstance(part, QuantizedWeight):
            break
        weight = part(weight)
    return weight


@torch.no_grad()
def restore_frozen(layer: nn.Module) -> None:
    """Write the held values into the parameter, where an optimizer's momentum or weight decay has moved it."""
    quantizer = weight_quantizer(layer)
    if quantizer is not None and quantizer.frozen is not None:
        assert quantizer.held is not None
        original = cast("Tensor", layer.parametrizations.weight.original)  # type: ignore[union-attr]
        original.copy_(torch.where(quantizer.frozen, quantizer.held, original))


def _attach(
    name: str, layer: nn.Module | None, chosen: Mapping[str, Any], *, freezes: bool, groups: TimestepGroups | None
) -> None:
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        found = type(layer).__name__ if layer is not None else "no such layer"
        raise ValueError(f"fake_quant: {name}: found {found}; supported: Linear, Conv2d")  # noqa: TRY004 - the setting is wrong
    for key in ("weight_bits", "activation_bits"):
        if chosen[key] not in BITS:
            raise ValueError(f"fake_quant: {name}: {key} is {chosen[key]}; expected one of {', '.join(map(str, BITS))}")
    if chosen["form"] not in get_args(Form):
        raise ValueError(f"fake_quant: {name}: form is {chosen['form']!r}; expected one of {', '.join(get_args(Form))}")
    earlier = list(layer.parametrizations.weight) if parametrize.is_parametrized(layer, "weight") else []  # type: ignore[union-attr, arg-type]
    quantizer = QuantizedWeight(layer.weight, bits=chosen["weight_bits"], form=chosen["form"], freezes=freezes)
    quantizer.follow_mask(next((part for part in earlier if isinstance(getattr(part, "mask", None), Tensor)), None))
    layer.input_quantizer = QuantizedInput(layer.weight, bits=chosen["activation_bits"], form=chosen["form"], groups=groups)
    quantizer.train(layer.training)
    layer.input_quantizer.train(layer.training)
    takes_rows = can_skip_rows(layer)
    parametrize.register_parametrization(layer, "weight", quantizer)
    layer.register_forward_pre_hook(_round_input)
    if freezes:
        # Plain functions, which a copied layer can share: each is told by torch which layer it is called for.
        layer.register_state_dict_pre_hook(_write_held)  # type: ignore[no-untyped-call]
        layer.register_load_state_dict_post_hook(_read_held)  # type: ignore[no-untyped-call]
        if takes_rows:
            layer.forward = MethodType(_forward, layer)  # type: ignore[method-assign]


def _round_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    assert isinstance(layer.input_quantizer, nn.Module)
    return (layer.input_quantizer(inputs[0]), *inputs[1:])


def _forward(layer: Layer, value: Tensor) -> Tensor:
    """The layer's own forward pass, or one that differentiates only rows with a weight that is not frozen."""
    quantizer = weight_quantizer(layer)
    assert quantizer is not None
    leaves_out = quantizer.skips == "rows" and layer.training and not quantizer.is_all_frozen
    # Mixed precision is left to torch's own operators.
    if leaves_out and quantizer.live_rows is not None and not torch.is_autocast_enabled(value.device.type):
        return forward_with_live_rows(layer, value, quantizer.live_rows)
    plain: Tensor = type(layer).forward(layer, value)  # type: ignore[arg-type]
    return plain


def _write_held(layer: nn.Module, _prefix: str, _keep_vars: bool) -> None:  # noqa: FBT001 - torch's signature
    restore_frozen(layer)


def _read_held(layer: nn.Module, _incompatible_keys: object) -> None:
    quantizer = weight_quantizer(layer)
    if quantizer is not None and quantizer.held is not None:
        with torch.no_grad():
            quantizer.held.copy_(float_weight(layer))
        quantizer.refresh()
