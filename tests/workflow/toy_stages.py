"""Stages made for tests of checking, so that the real ones may change, and what is found in a file of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator
from workflow_texts import HEAD

from orchestrator.errors import Problem, WorkflowError
from orchestrator.report.problems import format_problems
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text
from stages.contract import Port, StageSettings, StageSpec


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int = Field(3, ge=1)
    kind: Literal["part"] = "part"


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["whole"] = "whole"
    weight: float = 1.0


class ToySettings(StageSettings):
    name: str = "toy"
    low: float = 0.0
    high: float = 1.0
    part: Part = Part()
    parts: tuple[Part, ...] = ()
    by_name: Mapping[str, Part] = Field(default_factory=dict)
    either: int | str | None = None
    choice: Annotated[Part | Whole, Field(discriminator="kind")] = Part()
    free: Mapping[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}; expected low < high")
        return self


def toy(name: str, *, output: str = "model", **ports: Port) -> StageSpec:
    return StageSpec(
        name=name,
        version=1,
        summary="",
        settings=ToySettings,
        implementation="x:y",
        output=output,
        inputs=ports,
        metrics=("top1",),
    )


TOYS = {
    spec.name: spec
    for spec in (
        toy("toy.make"),
        toy("toy.change", model=Port(kind="model")),
        toy("toy.teach", model=Port(kind="model"), teacher=Port(kind="model", optional=True)),
        toy("toy.export", output="onnx", model=Port(kind="model")),
        toy(
            "toy.compare",
            output="table",
            models=Port(kind="model", many=True),
            extra=Port(kind="any", many=True, optional=True),
        ),
        toy("toy.show", output="page", what=Port(kind="any")),
    )
}


def checked(nodes: str, *, overrides=()):
    try:
        return check_workflow(load_text(HEAD + nodes, file="x.yaml", overrides=overrides))
    except WorkflowError as error:
        pytest.fail(format_problems(error.problems))


def problems(nodes: str, *, overrides=(), head: str = HEAD) -> tuple[Problem, ...]:
    with pytest.raises(WorkflowError) as raised:
        check_workflow(load_text(head + nodes, file="x.yaml", overrides=overrides))
    return raised.value.problems


def problem(nodes: str, *, overrides=()) -> Problem:
    found = problems(nodes, overrides=overrides)
    assert len(found) == 1, format_problems(found)
    return found[0]
