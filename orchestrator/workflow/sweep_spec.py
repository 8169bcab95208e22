"""A sweep as data: what the `sweep:` of a node says, frozen and typed. Describes a search; samples and runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from orchestrator.workflow.spec import Frozen, Node

Direction = Literal["maximize", "minimize"]
SamplerKind = Literal["grid", "random", "tpe", "nsga2", "pbt"]
SchedulerKind = Literal["none", "asha", "hyperband", "median"]

WholeNumber = int
"""Inside `Distribution` the name `int` is a field."""


def _kind_alone(value: Any) -> Any:
    """`sampler: tpe` stands for `sampler: {kind: tpe}`."""
    return {"kind": value} if isinstance(value, str) else value


class Distribution(Frozen):
    """Where the values of one searched parameter come from: exactly one of choice, uniform, loguniform and int."""

    choice: tuple[Any, ...] | None = Field(None, description="one of these values")
    uniform: tuple[float, float] | None = Field(None, description="a number between two bounds")
    loguniform: tuple[float, float] | None = Field(None, description="a positive number, its logarithm uniform")
    int: tuple[WholeNumber, WholeNumber] | None = Field(None, description="a whole number, both bounds included")
    step: float | None = Field(None, gt=0, description="with uniform or int: lower bound plus a multiple of this")
    when: Mapping[str, tuple[Any, ...]] = Field(
        default_factory=dict,
        description="searched only where another searched choice has one of these values; else the node's own params hold",
    )


class Sampler(Frozen):
    """Which settings are tried next."""

    kind: SamplerKind = "tpe"
    startup_trials: int = Field(8, ge=1, description="tpe: trials drawn at random before the model of good settings is used")
    population: int = Field(8, ge=2, description="nsga2, pbt: size of one generation")
    quantile: float = Field(
        0.25, gt=0, le=0.5, description="pbt: share of the population that is replaced by as many of the best"
    )
    perturbation: tuple[float, float] = Field(
        (0.8, 1.2), description="pbt: a number that is kept is multiplied by one of these"
    )
    resample_probability: float = Field(0.25, ge=0, le=1, description="pbt: chance that a value is drawn anew")
    carry: Mapping[str, str] = Field(
        default_factory=dict,
        description='pbt: "node.port: node" - from the second generation on, this input is what that node made for the parent',
    )


class EarlyStopping(Frozen):
    """Which trials are stopped before their end, by a metric that a node reports while it runs."""

    kind: SchedulerKind = "none"
    metric: str = Field("", description='"node.metric" of a node of the trial, reported while it trains')
    mode: Direction | None = Field(None, description="where the metric is no objective: maximize or minimize")
    grace: int = Field(1, ge=1, description="reports (epochs) before a trial may be stopped")
    reduction_factor: int = Field(3, ge=2, description="asha, hyperband: one of so many goes on at each rung")
    min_trials: int = Field(3, ge=1, description="median: trials to compare with before any is stopped")


class Constraint(Frozen):
    """What a result must keep to: one or more of min, max, max_drop and max_ratio."""

    metric: str = Field(description='"node.metric" of a node of the trial')
    min: float | None = None
    max: float | None = None
    max_drop: float | None = Field(None, ge=0, description="at most so much below the same-direction figure of `versus`")
    max_ratio: float | None = Field(None, gt=0, description="at most so many times the figure of `versus`")
    versus: str = Field("", description='"node.metric" of a node outside of the sweep')
    check: Literal["static"] | None = Field(
        None, description="static: decided from shapes alone, before anything of the trial runs"
    )


class Selection(Frozen):
    """Which of the trials that meet the constraints is `best`."""

    rule: Literal["best", "knee", "smallest_within"] = Field(
        "best",
        description="best: the best value of `metric`; knee: nearest to the ideal point, objectives scaled to the front; "
        "smallest_within: the smallest `metric` among trials whose first objective is within `tolerance` of the best",
    )
    metric: str = Field("", description='"node.metric"; best: the first objective where empty')
    tolerance: float = Field(0.0, ge=0, description="smallest_within: in units of the first objective")


class Finalists(Frozen):
    """The best few run again with other seeds, so that the winner is stated with an interval."""

    top: int = Field(3, ge=1, le=100)
    seeds: tuple[int, ...] = Field(min_length=1, description="seeds of the repeats, beside the workflow's own")


class Sweep(Frozen):
    """A search: what is varied, what is wanted, and when it ends. `check_sweep` holds what must fit together."""

    space: Mapping[str, Distribution] = Field(description='"node.parameter": distribution')
    objectives: Mapping[str, Direction] = Field(description='"node.metric": maximize or minimize; the first leads')
    trials: int | None = Field(None, ge=1, le=100_000, description="trials in all; grid: the whole grid where left out")
    sampler: Annotated[Sampler, BeforeValidator(_kind_alone, json_schema_input_type=SamplerKind | Sampler)] = Sampler()
    scheduler: Annotated[EarlyStopping, BeforeValidator(_kind_alone, json_schema_input_type=SchedulerKind | EarlyStopping)] = (
        EarlyStopping()
    )
    constraints: tuple[Constraint, ...] = ()
    select: Selection = Selection()
    finalists: Finalists | None = None
    max_concurrent: int | None = Field(
        None,
        ge=1,
        description="trials at once; left out: as many as the machines have room for",
        json_schema_extra={"operational": True},  # how the search is done; a settled one stays a hit
    )
    max_failures: int = Field(
        3,
        ge=0,
        description="failed trials after which no more are proposed and the sweep fails",
        json_schema_extra={"operational": True},  # a sweep that settled has failed less often
    )
    seed: int | None = Field(None, ge=0, lt=2**32, description="of the sampler; left out: the workflow's")


class SweepNode(Frozen):
    """A node of a workflow that searches: the sub-DAG that each trial runs, and the search over it."""

    sweep: Sweep
    nodes: Mapping[str, Node] = Field(min_length=1)
    needs: tuple[str, ...] = ()
