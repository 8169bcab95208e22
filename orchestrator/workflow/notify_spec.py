"""Whom to tell when a run has ended or a search has found what it must: data of the workflow, part of no key.

An address may be a secret, and the ledger keeps the workflow's text. So the file names the variable that holds it.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from orchestrator.workflow.spec import DurationS, Frozen

NoticeEvent = Literal["failure", "success", "constraint_met"]


class Notify(Frozen):
    """One rule: on which events, and what is done then. Each event is told at most once per run and rule."""

    on: tuple[NoticeEvent, ...] = Field(
        description="failure: the run failed, or no trial of a sweep met its constraints; success: it is done; "
        "constraint_met: the first trial of a sweep that meets all its constraints",
    )
    command: str = Field("", description="program with arguments, run without a shell; the notice is JSON on its stdin")
    webhook_variable: str = Field(
        "",
        pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$",
        description="environment variable that holds the address to which the notice is posted as JSON",
    )
    timeout: DurationS = Field(20.0, description="how long the program or the server may take")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if not self.on:
            raise ValueError("expected at least one event under on")
        if bool(self.command) == bool(self.webhook_variable):
            raise ValueError("expected one of command and webhook_variable")
        return self
