"""A file with one sweep over stages made for tests, in which each line can be replaced, and what is found in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from orchestrator.errors import Problem, WorkflowError
from orchestrator.report.problems import format_problems
from orchestrator.workflow.check import CheckedWorkflow, check_workflow
from orchestrator.workflow.load import load_text
from stages.contract import Port, StageSettings, StageSpec


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int = Field(3, ge=1)


class ToySettings(StageSettings):
    name: str = "toy"
    low: float = Field(0.0, ge=0)
    high: float = Field(1.0, le=10)
    part: Part = Part()
    free: Mapping[str, int] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}; expected low < high")
        return self


class NeedySettings(StageSettings):
    must: int


def toy(name: str, *, output: str = "model", settings: type[StageSettings] = ToySettings, **ports: Port) -> StageSpec:
    return StageSpec(
        name=name, version=1, summary="", settings=settings, implementation="x:y", output=output, inputs=ports,
        metrics=("top1", "gmacs"), forecast="x:z", forecast_metrics=("gmacs",),
    )  # fmt: skip


MODEL = Port(kind="model")
TOYS = {
    spec.name: spec
    for spec in (
        toy("toy.make"),
        toy("toy.change", model=MODEL),
        toy("toy.needy", settings=NeedySettings),
        toy("toy.score", output="table", model=MODEL, baseline=Port(kind="model", optional=True)),
        toy("toy.compare", output="page", models=Port(kind="model", many=True)),
    )
}


# The places of the lines that the tables below put something in.
FILE = """version: 1
name: demo
nodes:
  base: {{stage: toy.make}}
  several: {{stage: toy.make, foreach: {{low: [0.1, 0.2]}}}}
  search:
    sweep:
      trials: 8
      sampler: {sampler}
      scheduler: {scheduler}
      objectives: {objectives}
      constraints: {constraints}
      select: {select}
      finalists: {finalists}
      space:
        {space}
        {more}
    nodes:
      {tune}
      {score}
  {after}
"""
LINES = {name: next(i for i, line in enumerate(FILE.splitlines(), 1) if f"{{{name}}}" in line) for name in (
    "sampler", "scheduler", "objectives", "constraints", "select", "finalists", "space", "more", "tune", "score", "after",
)}  # fmt: skip
SOUND = {
    "sampler": "random",
    "scheduler": "none",
    "objectives": "{score.top1: maximize, score.gmacs: minimize}",
    "constraints": "[{metric: score.top1, max_drop: 0.1, versus: base.top1}, {metric: score.gmacs, max: 1, check: static}]",
    "select": "{rule: best}",
    "finalists": "{seeds: [1, 2]}",
    "space": "tune.low: {uniform: [0.1, 0.5]}",
    "more": "tune.name: {choice: [a, b]}",
    "tune": "tune: {stage: toy.change, inputs: {model: base}}",
    "score": "score: {stage: toy.score, inputs: {model: tune}}",
    "after": "after: {stage: toy.change, inputs: {model: search.best.tune}}",
}


def file(**changes: str) -> str:
    return FILE.format(**{**SOUND, **changes})


def checked(text: str, **options) -> CheckedWorkflow:
    try:
        return check_workflow(load_text(text, file="x.yaml", **options))
    except WorkflowError as error:
        pytest.fail(format_problems(error.problems))


def problems(text: str, **options) -> tuple[Problem, ...]:
    with pytest.raises(WorkflowError) as raised:
        check_workflow(load_text(text, file="x.yaml", **options))
    return raised.value.problems


def refused(text: str, **options) -> Problem:
    found = problems(text, **options)
    assert len(found) == 1, format_problems(found)
    return found[0]
