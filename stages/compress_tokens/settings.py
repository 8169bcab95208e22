"""Settings and descriptions of the `compress_tokens` stages. Torch-free, so that plans stay fast."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from stages.contract import Port, StageSettings, StageSpec
from stages.data.settings import DATA_PORT, DataSettings
from stages.ops.token_budget import PUBLISHED_SCHEDULES
from stages.training.settings import MODEL_METRICS, SHAPE_METRICS, TrainingSettings

OF_WEIGHTS_ALONE = ("ema_decay", "max_gradient_norm", "weight_decay")
"""What training settings say of a model's weights, which rest while rates are searched."""


class DiffRateSettings(TrainingSettings):
    """DiffRate: learn how many tokens each block prunes and merges under a budget, while the weights rest."""

    epochs: int = Field(3, ge=1, le=100_000, description="passes over the training images in the search")
    learning_rate: float = Field(
        0.01, gt=0, le=100, description="of the rates' logits, which move by about this much per step: small data need more"
    )
    schedule: Literal["onecycle", "cosine", "linear", "constant"] = Field(
        "constant", description="shape of the learning rate over steps; final_learning_rate lowers it over epochs beside this"
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    final_learning_rate: float | None = Field(
        0.001, gt=0, le=100, description="end of the authors' cosine over epochs; none: the learning rate stays"
    )
    gmacs_ratio: float | None = Field(
        None, gt=0, lt=1, description="budget: share of the dense model's multiply-accumulates; this or gmacs"
    )
    gmacs: float | None = Field(None, gt=0, description="budget: multiply-accumulates of one image / 1e9; this or gmacs_ratio")
    granularity: int = Field(
        4, ge=1, le=4096, description="patches between neighbouring candidates; 1 for models with few patches"
    )
    operations: Literal["both", "prune", "merge"] = Field("both", description="what may reduce tokens")
    first_block: int = Field(1, ge=0, description="blocks before it keep all tokens")
    last_blocks_whole: int | None = Field(
        None,
        ge=0,
        description="last blocks that keep what they get; none: 1 where patch tokens are averaged at the end, else 0",
    )
    min_patches: int = Field(1, ge=1, description="least patches that a block may keep, at the smallest candidate")
    budget_form: Literal["auto", "absolute", "relative"] = Field(
        "auto", description="weight times the squared excess in G, or as a share of dense; auto: absolute from 1 GMAC on"
    )
    budget_weight: float | None = Field(
        None, gt=0, le=1e9, description="weight of the budget in the loss; none: 5 for absolute, 106 for relative"
    )
    free_epochs: int = Field(0, ge=0, description="epochs at the start in which the budget does not count")

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.gmacs_ratio is None) == (self.gmacs is None):
            raise ValueError("set one of gmacs_ratio (share of dense, below 1) and gmacs (multiply-accumulates / 1e9)")
        return self

    @model_validator(mode="after")
    def _schedules_fit(self) -> Self:
        if self.final_learning_rate is not None and self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"final_learning_rate {self.final_learning_rate} is above learning_rate {self.learning_rate}, where it starts"
            )
        if self.final_learning_rate is not None and self.schedule != "constant":
            raise ValueError(f"schedule {self.schedule} lowers the learning rate already; set final_learning_rate to null")
        if self.free_epochs >= self.epochs:
            raise ValueError(f"free_epochs is {self.free_epochs} of {self.epochs} epochs; the budget would never count")
        return self

    @model_validator(mode="after")
    def _weights_rest(self) -> Self:
        # Set to their defaults they change no key, and settings built out of others' name every field.
        fields = type(self).model_fields
        idle = [name for name in OF_WEIGHTS_ALONE if getattr(self, name) != fields[name].default]
        if idle:
            raise ValueError(f"{', '.join(idle)}: without effect here, since weights rest while rates are searched; leave out")
        return self


class FixedSettings(StageSettings):
    """What the methods that do not train need: data whose test images measure the accuracy."""

    data: DataSettings

    def data_identity(self) -> str | None:
        return self.data.identity()


class ToMeSettings(FixedSettings):
    """ToMe: merge the most similar tokens by their keys, a fixed number in every block, without training."""

    merged: int | tuple[int, ...] | None = Field(
        None, description="r, tokens to merge in every block, or one number for each; this or gmacs_ratio"
    )
    gmacs_ratio: float | None = Field(
        None, gt=0, lt=1, description="budget: the smallest constant r that costs at most this share of dense is taken"
    )

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.gmacs_ratio is None) == (self.merged is None):
            raise ValueError("set one of merged (tokens per block) and gmacs_ratio (share of dense, below 1)")
        if self.merged is not None and min((self.merged,) if isinstance(self.merged, int) else self.merged, default=0) < 0:
            raise ValueError(f"merged is {self.merged}; expected 0 or more")
        return self


class EViTSettings(FixedSettings):
    """EViT without its fused token: three blocks drop the patches that the class token looks at least, without training."""

    keep_rate: float | None = Field(
        None, gt=0, lt=1, description="share of the patches that such a block keeps (the paper's 0.7); this or gmacs_ratio"
    )
    gmacs_ratio: float | None = Field(
        None, gt=0, lt=1, description="budget: the largest keep rate that costs at most this share of dense is taken"
    )
    blocks: tuple[int, ...] | None = Field(
        None, description="blocks that drop, counted from 0; none: at 1/4, 1/2 and 3/4 of the depth (3, 6 and 9 of 12)"
    )

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.gmacs_ratio is None) == (self.keep_rate is None):
            raise ValueError("set one of keep_rate (share of patches) and gmacs_ratio (share of dense, below 1)")
        return self


class UniformSettings(FixedSettings):
    """The same keep rate in every block but the first, with DiffRate's operators: what its learned rates are compared with."""

    keep_rate: float | None = Field(
        None, gt=0, lt=1, description="share of the patches that a block keeps; this or gmacs_ratio"
    )
    gmacs_ratio: float | None = Field(
        None, gt=0, lt=1, description="budget: the largest keep rate that costs at most this share of dense is taken"
    )
    operations: Literal["both", "prune", "merge"] = Field(
        "both", description="how tokens go; both: each block prunes half of what goes and merges the rest"
    )

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.gmacs_ratio is None) == (self.keep_rate is None):
            raise ValueError("set one of keep_rate (share of patches) and gmacs_ratio (share of dense, below 1)")
        return self


class ScheduleSettings(FixedSettings):
    """A given schedule with DiffRate's operators: the authors' own, that of another model, or counts; without training."""

    published: str | None = Field(None, description=f"one of the authors': {', '.join(PUBLISHED_SCHEDULES)}")
    prune: tuple[int, ...] | None = Field(None, description="tokens each block keeps after pruning, class token counted")
    merge: tuple[int, ...] | None = Field(None, description="tokens each block keeps after merging, class token counted")

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.published is not None and self.published not in PUBLISHED_SCHEDULES:
            raise ValueError(f"unknown schedule {self.published!r}; known: {', '.join(PUBLISHED_SCHEDULES)}")
        if (self.prune is None) != (self.merge is None):
            raise ValueError("prune and merge come together, one count per block each")
        if self.published is not None and self.prune is not None:
            raise ValueError("set published or prune and merge, not both")
        return self


METRICS = (*MODEL_METRICS, "initial_top1_accuracy", "gmacs_ratio", "gmacs_matching", "kept_tokens", "num_pruned", "num_merged")
"""What every stage of this kind reports; `gmacs_matching` is what finding similar tokens costs and `gmacs` leaves out."""

FORECAST_METRICS = (*SHAPE_METRICS, "gmacs_ratio", "gmacs_matching")
"""What is known before, where the counts are; DiffRate's end near their budget, and what matching them costs is not known."""

MODEL = {"model": Port(kind="model"), **DATA_PORT}
EXAMPLE_INPUTS = {"model": {"model": "vit_micro"}}

STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="compress_tokens.diffrate",
        version=1,
        summary="Learns how many tokens each block of a Vision Transformer prunes and merges, under a budget; weights rest",
        settings=DiffRateSettings,
        implementation="stages.compress_tokens.diffrate:run",
        inputs=MODEL,
        output="model",
        metrics=(*METRICS, "budget_error"),
        source="Chen et al. 2023, DiffRate, arXiv 2305.17997",
        example={"data": "digits", "gmacs_ratio": 0.7, "granularity": 1, "epochs": 1},
        example_inputs=EXAMPLE_INPUTS,
        forecast="stages.compress_tokens.forecast:diffrate",
        forecast_metrics=(*SHAPE_METRICS, "gmacs_ratio"),
        data_parallel=True,
    ),
    StageSpec(
        name="compress_tokens.tome",
        version=1,
        summary="Merges the most similar tokens of every block by their keys, without training: the control for learned rates",
        settings=ToMeSettings,
        implementation="stages.compress_tokens.tome:run",
        inputs=MODEL,
        output="model",
        metrics=METRICS,
        source="Bolya et al. 2022, Token Merging: Your ViT But Faster, arXiv 2210.09461",
        example={"data": "digits", "merged": 3},
        example_inputs=EXAMPLE_INPUTS,
        forecast="stages.compress_tokens.forecast:tome",
        forecast_metrics=FORECAST_METRICS,
    ),
    StageSpec(
        name="compress_tokens.evit",
        version=1,
        summary="Drops what the class token looks at least in three blocks, without training: the control that only prunes",
        settings=EViTSettings,
        implementation="stages.compress_tokens.evit:run",
        inputs=MODEL,
        output="model",
        metrics=METRICS,
        source="Liang et al. 2022, Not All Patches are What You Need, arXiv 2202.07800 (without the fused token)",
        example={"data": "digits", "keep_rate": 0.7},
        example_inputs=EXAMPLE_INPUTS,
        forecast="stages.compress_tokens.forecast:evit",
        forecast_metrics=FORECAST_METRICS,
    ),
    StageSpec(
        name="compress_tokens.uniform",
        version=1,
        summary="Keeps the same share of tokens in every block with DiffRate's operators: the control for where they go",
        settings=UniformSettings,
        implementation="stages.compress_tokens.uniform:run",
        inputs=MODEL,
        output="model",
        metrics=METRICS,
        source="operators: Chen et al. 2023, arXiv 2305.17997; the constant rate is the control of its section 4",
        example={"data": "digits", "gmacs_ratio": 0.7},
        example_inputs=EXAMPLE_INPUTS,
        forecast="stages.compress_tokens.forecast:uniform",
        forecast_metrics=FORECAST_METRICS,
    ),
    StageSpec(
        name="compress_tokens.schedule",
        version=1,
        summary="Gives a model a schedule of token counts: the authors' own, another model's, or written down",
        settings=ScheduleSettings,
        implementation="stages.compress_tokens.schedule:run",
        inputs={**MODEL, "schedule": Port(kind="model", optional=True)},
        output="model",
        metrics=METRICS,
        source="Chen et al. 2023, arXiv 2305.17997; schedules: github.com/OpenGVLab/DiffRate",
        example={"data": "digits", "prune": [17, 15, 12, 6], "merge": [17, 13, 9, 5]},
        example_inputs=EXAMPLE_INPUTS,
        forecast="stages.compress_tokens.forecast:schedule",
        forecast_metrics=FORECAST_METRICS,
    ),
)
