"""Settings and description of the `compress` stage. Torch-free, so that plans stay fast.

The fields of a part are the method's own, so names, bounds, defaults and descriptions cannot drift apart; and each part is
held to the method's own rules by making the method's settings out of it and the shared ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from stages.compress_tokens.settings import METRICS as TOKEN_METRICS
from stages.compress_tokens.settings import OF_WEIGHTS_ALONE, DiffRateSettings
from stages.contract import Port, StageSettings, StageSpec
from stages.data.settings import DATA_PORT
from stages.quantize.settings import LAYER_METRICS, LTS_METRICS, Bits, LTSSettings
from stages.sparsify.settings import FORECAST_METRICS as MASK_FORECASTS
from stages.sparsify.settings import METRICS as MASK_METRICS
from stages.sparsify.settings import LBCSettings
from stages.training.settings import TrainingSettings


def _lbc(name: str) -> Any:
    return LBCSettings.model_fields[name]


def _lts(name: str) -> Any:
    return LTSSettings.model_fields[name]


def _diffrate(name: str) -> Any:
    return DiffRateSettings.model_fields[name]


class LBCPart(StageSettings):
    """The part of LBC, as in `sparsify.lbc`."""

    n_m: str = _lbc("n_m")
    dense_layers: tuple[str, ...] = _lbc("dense_layers")
    on_indivisible: Literal["refuse", "dense"] = _lbc("on_indivisible")
    removal_start: float = _lbc("removal_start")
    removal_end: float = _lbc("removal_end")
    removal_power: float = _lbc("removal_power")
    score_learning_rate_multiplier: float = _lbc("score_learning_rate_multiplier")
    score_weight_decay: float = _lbc("score_weight_decay")
    allow_large_score_memory: bool = _lbc("allow_large_score_memory")


class LTSPart(StageSettings):
    """The part of LTS, as in `quantize.lts`; freezing waits for final masks."""

    weight_bits: Bits = _lts("weight_bits")
    activation_bits: Bits = _lts("activation_bits")
    layer_bits: Mapping[str, Bits] = _lts("layer_bits")
    unquantized_layers: tuple[str, ...] = _lts("unquantized_layers")
    end_layers: Literal["same", "8bit", "float"] = _lts("end_layers")
    form: Literal["auto", "normalized", "dequantized"] = _lts("form")
    bounds_init: Literal["reference", "least_squares"] = _lts("bounds_init")
    bound_learning_rate: float = _lts("bound_learning_rate")
    threshold_mode: Literal["fixing", "linear_growth", "sine_growth"] = _lts("threshold_mode")
    fixed_rate: float = _lts("fixed_rate")
    distance_momentum: float = _lts("distance_momentum")
    freeze_warmup: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of the steps before anything freezes; none: 0.2, or until the masks are final where that is later",
    )
    skip_frozen: Literal["none", "layers", "rows"] = _lts("skip_frozen")


class DiffRatePart(StageSettings):
    """The part of DiffRate, as in `compress_tokens.diffrate`, but for weights that learn with the rates."""

    gmacs_ratio: float | None = _diffrate("gmacs_ratio")
    gmacs: float | None = _diffrate("gmacs")
    granularity: int = _diffrate("granularity")
    operations: Literal["both", "prune", "merge"] = _diffrate("operations")
    first_block: int = _diffrate("first_block")
    last_blocks_whole: int | None = _diffrate("last_blocks_whole")
    min_patches: int = _diffrate("min_patches")
    budget_form: Literal["auto", "absolute", "relative"] = _diffrate("budget_form")
    budget_weight: float | None = _diffrate("budget_weight")
    free_epochs: int = _diffrate("free_epochs")
    rate_learning_rate: float = Field(
        0.01, gt=0, le=100, description="largest learning rate of the rates' logits; follows the schedule of the weights"
    )
    search_end: float = Field(
        0.5, gt=0, le=1, description="share of the epochs in which rates learn; after it the weights go on with fixed counts"
    )


class JointSettings(TrainingSettings):
    """Masks, fake quantization with freezing and token rates, any of them together, learned in one training run."""

    epochs: int = Field(30, ge=1, le=100_000, description="passes over the training images, for all parts together")
    lbc: LBCPart | None = Field(
        None, description="learned N:M masks, with the settings of sparsify.lbc but those of training; none: left out"
    )
    lts: LTSPart | None = Field(
        None,
        description="fake quantization with freezing, with the settings of quantize.lts but those of training; freeze_warmup "
        "none: 0.2, or until the masks are final where that is later; none: left out",
    )
    diffrate: DiffRatePart | None = Field(
        None,
        description="learned token rates, with the settings of compress_tokens.diffrate but those of training, and "
        "rate_learning_rate (0.01) and search_end (0.5, share of the epochs in which rates learn); none: left out",
    )

    def lbc_settings(self) -> LBCSettings | None:
        """What `sparsify.lbc` would be given for the same training, or None."""
        return None if self.lbc is None else LBCSettings(**self._shared(), **_given(self.lbc))

    def lts_settings(self) -> LTSSettings | None:
        """What `quantize.lts` would be given for the same training, or None."""
        return None if self.lts is None else LTSSettings(**self._shared(), **_given(self.lts, without={"freeze_warmup"}))

    def diffrate_settings(self) -> DiffRateSettings | None:
        """What `compress_tokens.diffrate` would be given for the same training, or None."""
        if self.diffrate is None:
            return None
        own = _given(self.diffrate, without={"rate_learning_rate", "search_end"})
        shared = {name: value for name, value in self._shared().items() if name not in OF_WEIGHTS_ALONE}  # weights learn here
        return DiffRateSettings(**shared, **own, final_learning_rate=None)

    @property
    def first_final_epoch(self) -> int:
        """Number of the first epoch with final masks; 0 where no masks are learned."""
        lbc = self.lbc_settings()
        return 0 if lbc is None else ceil(lbc.last_removal_epoch)

    @property
    def last_search_epoch(self) -> int:
        """Number of the first epoch in which rates rest, or of epochs where they never do."""
        return 0 if self.diffrate is None else ceil(round(self.diffrate.search_end * self.epochs, 9))

    def freeze_warmup_steps(self, steps_per_epoch: int) -> int:
        """W_up: forward passes before anything freezes."""
        assert self.lts is not None
        share, final = self.lts.freeze_warmup, self.first_final_epoch * steps_per_epoch
        own: float = LTSSettings.model_fields["freeze_warmup"].default if share is None else share
        warmup = int(own * steps_per_epoch * self.epochs)
        # An explicit share may fall short of the epoch's end by rounding alone: the validator has seen to the rest.
        return max(warmup, final)

    @model_validator(mode="after")
    def _some_part(self) -> Self:
        if self.lbc is None and self.lts is None and self.diffrate is None:
            raise ValueError("give at least one of lbc, lts and diffrate; `lbc: {}` takes that method with its defaults")
        return self

    @model_validator(mode="after")
    def _each_part_fits_the_training(self) -> Self:
        for name, make in (("lbc", self.lbc_settings), ("lts", self.lts_settings), ("diffrate", self.diffrate_settings)):
            try:
                make()
            except ValidationError as error:
                first = error.errors()[0]
                raise ValueError(f"{name}: {first['msg'].removeprefix('Value error, ')}") from error
        return self

    @model_validator(mode="after")
    def _freezing_waits_for_masks(self) -> Self:
        if self.lts is None:
            return self
        share, final = self.lts.freeze_warmup, self.first_final_epoch
        if share is not None and round(share * self.epochs, 9) < final:
            raise ValueError(
                f"lts.freeze_warmup {share} lets weights freeze from epoch {share * self.epochs:g} on, but masks are final "
                f"from epoch {final} of {self.epochs}: a frozen weight could be removed later. Leave freeze_warmup out, "
                "raise it, or lower lbc.removal_end"
            )
        if share is not None and share > 0 and self.epochs > 1 and round(share * self.epochs, 9) > self.epochs - 1:
            raise ValueError(f"lts.freeze_warmup {share} of {self.epochs} epochs leaves less than one epoch to freeze in")
        return self

    @model_validator(mode="after")
    def _budget_counts_while_rates_learn(self) -> Self:
        if self.diffrate is not None and self.diffrate.free_epochs >= self.last_search_epoch:
            raise ValueError(
                f"diffrate.free_epochs is {self.diffrate.free_epochs}, but rates rest from epoch {self.last_search_epoch} on "
                f"(search_end {self.diffrate.search_end} of {self.epochs} epochs); the budget would never count"
            )
        return self

    def _shared(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in TrainingSettings.model_fields}


def _given(part: BaseModel, *, without: set[str] | None = None) -> dict[str, Any]:
    return {name: getattr(part, name) for name in type(part).model_fields if name not in (without or set())}


STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="compress.joint",
        version=3,
        summary="Learns N:M masks, fake quantization with freezing and token rates, any of the three, in one training run",
        settings=JointSettings,
        implementation="stages.compress.joint:run",
        inputs={"model": Port(kind="model"), **DATA_PORT},
        output="model",
        metrics=tuple(dict.fromkeys((*MASK_METRICS, *LTS_METRICS, *TOKEN_METRICS, "budget_error"))),
        source="LBC, arXiv 2206.06662; LTS, arXiv 2211.08544; DiffRate, arXiv 2305.17997; training all at once is ours",
        example={
            "data": "digits",
            "epochs": 3,
            "lbc": {"n_m": "2:4"},
            "lts": {"weight_bits": 4, "activation_bits": 8},
            "diffrate": {"gmacs_ratio": 0.7, "granularity": 1},
        },
        example_inputs={"model": {"model": "vit_micro"}},
        experimental=True,
        forecast="stages.compress.forecast:joint",
        forecast_metrics=(*MASK_FORECASTS, *LAYER_METRICS, "gmacs_ratio"),
        data_parallel=True,
    ),
)
"""A run reports the metrics of the parts that it has."""
