"""The list of commands."""

from __future__ import annotations

from orchestrator.cli.group import CONTEXT, LazyGroup, Verb

_HERE = "orchestrator.cli"

orchestrator = LazyGroup(
    "orchestrator",
    help="Compression of vision models as workflows: plan, run, measure, and never make the same artifact twice.",
    context_settings=CONTEXT,
    verbs={
        "submit": Verb(f"{_HERE}.submit:submit", "Plan a workflow file, run what is missing, follow it."),
        "plan": Verb(f"{_HERE}.plan:plan", "Show what a workflow file would run, and why."),
        "validate": Verb(f"{_HERE}.plan:validate", "Check workflow files; show every problem at once."),
        "status": Verb(f"{_HERE}.status:status", "Show the live runs, or the nodes of one run."),
    },
    example="orchestrator plan workflows/digits.yaml\norchestrator submit workflows/digits.yaml",
)
