"""What is known of a model with fewer tokens before it is made: all counts where a schedule is given or computed.

DiffRate's schedule is learned, towards a budget. It stands for it the dearest schedule within the budget, so a forecast is at
most what was asked for; where training ends is a few percent to either side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from stages.compress_tokens import evit as evit_method
from stages.compress_tokens import tome as tome_method
from stages.compress_tokens import uniform as uniform_method
from stages.compress_tokens.delivery import count_macs, shape_of, token_metrics
from stages.compress_tokens.diffrate import budget_ratio
from stages.compress_tokens.schedule import given_schedule
from stages.compress_tokens.search import active_blocks
from stages.compress_tokens.settings import DiffRateSettings, EViTSettings, ScheduleSettings, ToMeSettings, UniformSettings
from stages.contract import Forecast
from stages.models.bundle import ModelBundle
from stages.models.skeleton import build_input, forecast_model
from stages.models.token_reduction import apply_bipartite, apply_schedule, refuse_model
from stages.ops.token_budget import TokenSchedule, ViTShape, fit_budget, keep_rate_counts


def tome(settings: ToMeSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """Counts with ToMe's merging."""
    return _reduced(inputs, lambda bundle, shape: apply_bipartite(bundle, tome_method.choose_merged(settings, shape=shape)))


def evit(settings: EViTSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """Counts with EViT's pruning."""
    return _reduced(inputs, lambda bundle, shape: apply_schedule(bundle, evit_method.choose_schedule(settings, shape=shape)))


def uniform(settings: UniformSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """Counts with the same keep rate everywhere."""
    return _reduced(inputs, lambda bundle, shape: apply_schedule(bundle, uniform_method.choose_schedule(settings, shape=shape)))


def schedule(settings: ScheduleSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """Counts with the given schedule; nothing where it is that of a model of which nothing is known."""
    if "schedule" in inputs and inputs["schedule"].model is None:
        return Forecast()
    other = build_input(inputs, "schedule") if "schedule" in inputs else None
    return _reduced(inputs, lambda bundle, _shape: apply_schedule(bundle, given_schedule(settings, other=other)))


def diffrate(settings: DiffRateSettings, inputs: Mapping[str, Forecast]) -> Forecast:
    """Counts with a schedule that meets the budget; what finding similar tokens costs is left open."""

    def reduce(bundle: ModelBundle, shape: ViTShape) -> ModelBundle:
        return apply_schedule(bundle, schedule_within_budget(settings, shape=shape))

    return _reduced(inputs, reduce, known=("gmacs_ratio",))


def schedule_within_budget(settings: DiffRateSettings, *, shape: ViTShape) -> TokenSchedule:
    """The dearest schedule within the budget that keeps one share of the patches in each block from some block on."""
    depth, tokens = shape.depth, shape.num_tokens
    blocks = active_blocks(shape, first_block=settings.first_block, last_blocks_whole=settings.last_blocks_whole)
    schedules = [
        (None, keep_rate_counts(index / 1000, depth=depth, num_tokens=tokens, blocks=blocks[start:]))
        for start in range(len(blocks))
        for index in range(1, 1000)
    ]
    ratio = budget_ratio(settings, shape=shape)
    _, kept = fit_budget(ratio, shape=shape, schedules=schedules, who="compress_tokens.diffrate")
    return TokenSchedule(prune=kept, merge=(tokens,) * depth)


def _reduced(
    inputs: Mapping[str, Forecast],
    reduce: Callable[[ModelBundle, ViTShape], ModelBundle],
    *,
    known: Sequence[str] = ("gmacs_ratio", "gmacs_matching"),
) -> Forecast:
    bundle = build_input(inputs)
    refuse_model(bundle.model, who="compress_tokens")
    dense = count_macs(bundle)
    bundle = reduce(bundle, shape_of(bundle))
    found = token_metrics(bundle, dense_macs=dense)
    return forecast_model(bundle, metrics={name: found[name] for name in known})
