"""A node as data: what the YAML file says of it, frozen and typed. Describes work; plans and runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from orchestrator.workflow.units import parse_duration_s, parse_size_bytes

DurationS = Annotated[float, BeforeValidator(parse_duration_s, json_schema_input_type=float | str), Field(gt=0)]
SizeBytes = Annotated[int, BeforeValidator(parse_size_bytes, json_schema_input_type=int | str), Field(gt=0)]
NAME_PATTERN = r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$"
NAME_RULE = "a letter or _, then at most 63 letters, digits, _ or -"


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Resources(Frozen):
    """What a node needs to run: where, not what, so no part of a key. Except `workers`, which decide what is drawn for which
    image, and which images a batch norm sees together: more than one are in the key.
    """

    workers: int = Field(
        1, ge=1, le=4096, description="processes that train together, each with the other resources here; for stages that can"
    )
    cpus: float = Field(1, gt=0, description="CPU cores (fractions below 1 allowed); also the number of torch threads")
    gpus: float = Field(0, ge=0, description="GPUs (fractions below 1 allowed)")
    memory: SizeBytes | None = Field(None, description="bytes, for example 4GiB")
    custom: Mapping[str, float] = Field(default_factory=dict, description="Ray custom resources by name")
    fresh_process: bool = Field(False, description="never reuse a stage-host process for this node")


class Retry(Frozen):
    """How often a node is tried again after a lost process or node; a user's error is never tried again by default."""

    attempts: int = Field(3, ge=1, le=100, description="attempts in all")
    backoff: DurationS = Field(1.0, description="wait before the second attempt; doubles each time")
    on_error: bool = Field(False, description="also try again after an exception raised by the stage")


class When(Frozen):
    """Run the node only if a metric of an earlier node lies within bounds; otherwise it and what needs it are skipped."""

    metric: str = Field(description='"node.metric", for example pretrain.top1_accuracy')
    min: float | None = None
    max: float | None = None


class Node(Frozen):
    """A stage used in a workflow."""

    stage: str
    params: Mapping[str, Any] = Field(default_factory=dict)
    inputs: Mapping[str, str | tuple[str, ...]] = Field(default_factory=dict)
    foreach: Mapping[str, str | tuple[Any, ...]] = Field(default_factory=dict)
    """A text only for a port, and only `sweep.front.node`: the check makes an input of it, so that plans see lists alone."""
    needs: tuple[str, ...] = ()
    when: When | None = None
    seed: int | None = Field(None, ge=0, lt=2**32)
    resources: Resources = Resources()
    retry: Retry = Retry()
    timeout: DurationS | None = None
