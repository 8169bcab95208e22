"""The list of commands."""

from __future__ import annotations

from orchestrator.cli.group import CONTEXT, LazyGroup, Verb

_HERE = "orchestrator.cli"

orchestrator = LazyGroup(
    "orchestrator",
    help="Compression of vision models as workflows: plan, run, measure, and never make the same artifact twice.",
    context_settings=CONTEXT,
    verbs={
        "init": Verb(f"{_HERE}.init:init", "Write a commented workflow to start from."),
        "submit": Verb(f"{_HERE}.submit:submit", "Plan a workflow file, run what is missing, follow it."),
        "plan": Verb(f"{_HERE}.plan:plan", "Show what a workflow file would run, and why."),
        "validate": Verb(f"{_HERE}.plan:validate", "Check workflow files; show every problem at once."),
        "resume": Verb(f"{_HERE}.again:resume", "Go on with what a run was asked for."),
        "retry": Verb(f"{_HERE}.again:retry", "Run only what failed in a run again."),
        "wait": Verb(f"{_HERE}.waiting:wait", "Wait until runs have ended; exit as they did."),
        "status": Verb(f"{_HERE}.status:status", "Show the live runs, or the nodes of one run."),
        "logs": Verb(f"{_HERE}.logs:logs", "Show what the stages of a run printed."),
        "events": Verb(f"{_HERE}.waiting:events", "Show all events of a run, as JSON Lines."),
        "why": Verb(f"{_HERE}.why:why", "Show why a node of a run was run, or was a hit."),
        "graph": Verb(f"{_HERE}.graph:graph", "Draw a workflow file or a run: text, SVG, DOT, Mermaid."),
        "cancel": Verb(f"{_HERE}.cancel:cancel", "Ask a run, a node or a trial to save and stop."),
        "ls": Verb(f"{_HERE}.runs:list_runs", "List runs, newest first."),
        "show": Verb(f"{_HERE}.show:show", "Show a run or an artifact in full."),
        "best": Verb(f"{_HERE}.best:best", "Show the best trial of each sweep of a run."),
        "pareto": Verb(f"{_HERE}.pareto:pareto", "Show the non-dominated trials of runs; plot them."),
        "report": Verb(f"{_HERE}.report:report", "Write all that is known of a run as one HTML page."),
        "card": Verb(f"{_HERE}.card:card", "Write the model card of an artifact."),
        "compare": Verb(f"{_HERE}.compare:compare", "Compare artifacts: settings, metrics, cost."),
        "sweep": Verb(f"{_HERE}.sweep:sweep", "Show the trials of a sweep; stop its search."),
        "export": Verb(f"{_HERE}.export:export", "Write a model artifact as ONNX, packed, int8, ..."),
        "reproduce": Verb(f"{_HERE}.reproduce:reproduce", "Make an artifact again beside the store; compare."),
        "artifacts": Verb(f"{_HERE}.artifacts:artifacts", "List, copy, check, name and keep artifacts."),
        "gc": Verb(f"{_HERE}.gc_command:gc", "Show what could be removed from the store; remove it."),
        "ui": Verb(f"{_HERE}.ui:ui", "Show runs and reports in a browser, live."),
        "stages": Verb(f"{_HERE}.stages:stages", "List and show stages; write and check your own."),
        "doctor": Verb(f"{_HERE}.doctor:doctor", "Check this machine; say how to mend what is wrong."),
        "config": Verb(f"{_HERE}.config:config", "Show the settings in force; set those of a profile."),
        "completion": Verb(f"{_HERE}.completion:completion", "Print what makes a shell complete commands and ids."),
        "version": Verb(f"{_HERE}.version:version", "Show versions."),
    },
    example="orchestrator plan workflows/digits.yaml\norchestrator submit workflows/digits.yaml",
)
