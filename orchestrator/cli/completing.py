"""What a shell offers for an argument: runs, nodes, artifacts, stages. Silent where nothing can be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from orchestrator.cli.shell import Shell
from orchestrator.errors import OrchestratorError
from orchestrator.store.base import DEFAULT_STORE, STORE_VARIABLE

if TYPE_CHECKING:
    from orchestrator.api import Workspace

MAX_OFFERED = 50

Offers = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
Found = Iterable[tuple[str, str]]


def _offering(find: Callable[[Workspace, click.Context, str], Found]) -> Offers:
    """Make a finder of (text, help) the function that click asks; a store that cannot be read offers nothing."""

    def offer(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
        from orchestrator.api import open_workspace

        shell = context.find_object(Shell)
        place = (shell.store_url if shell else None) or os.environ.get(STORE_VARIABLE) or DEFAULT_STORE
        if "://" not in place and not os.path.isdir(place):  # noqa: PTH112 - quick, and makes nothing
            return []
        try:
            items = [(text, help_) for text, help_ in find(open_workspace(place), context, begun) if text.startswith(begun)]
        except (OrchestratorError, OSError):
            return []
        return [CompletionItem(text, help=help_) for text, help_ in items[:MAX_OFFERED]]

    return offer


def _runs(workspace: Workspace, _context: click.Context, _begun: str) -> Found:
    requests = workspace.ledger.runs()
    relative = [("@last", "the newest run"), ("@last-failed", "the newest that failed")] if requests else []
    return [*relative, *((each.id, f"{each.content['workflow']}, {each.created[:16]}") for each in requests)]


def _nodes(workspace: Workspace, context: click.Context, _begun: str) -> Found:
    from orchestrator.report.run_status import read_run_status

    run = context.params.get("run")
    if not isinstance(run, str):
        return []
    status = read_run_status(workspace.store, workspace.ledger.resolve(run))
    names = dict.fromkeys(node.node for node in status.nodes.values() if not node.is_of_trial)
    labels = {node.label: node.state for node in status.nodes.values() if not node.is_of_trial}
    trials = {trial.label: trial.state for sweep in status.sweeps.values() for trial in sweep.trials.values()}
    return [*((name, "") for name in names if name not in labels), *labels.items(), *trials.items()]


def _nodes_of_last(workspace: Workspace, _context: click.Context, begun: str) -> Found:
    from orchestrator.report.run_status import read_run_status

    name, at, run = begun.partition("@")
    if at and not run.startswith("@"):
        return [(f"{name}@{each.id}", each.content["workflow"]) for each in workspace.ledger.runs()]
    status = read_run_status(workspace.store, workspace.ledger.resolve("@last"))
    return [(f"{node.label}@{status.id}", node.state) for node in status.nodes.values() if not node.is_of_trial]


def _artifacts(workspace: Workspace, _context: click.Context, begun: str) -> Found:
    from orchestrator.store.names import Names

    named = [(str(mark), mark.stage) for mark in Names(workspace.store).all_names()]
    keys = [(key[:12], stage) for stage, key in workspace.artifacts.keys_starting(begun)] if len(begun) > 1 else []
    return [*named, *keys]


def _sweeps(workspace: Workspace, context: click.Context, _begun: str) -> Found:
    from orchestrator.report.run_sweeps import sweeps_asked

    run = context.params.get("run")
    if not isinstance(run, str):
        return []
    return [(name, "") for name in sweeps_asked(workspace.ledger.request(workspace.ledger.resolve(run)).content)]


def complete_stages(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Names of stages."""
    from stages.catalog import all_stages

    return [CompletionItem(name, help=spec.summary) for name, spec in all_stages().items() if name.startswith(begun)]


def complete_file_or_run(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """A file, or a run."""
    return [*complete_runs(context, parameter, begun), CompletionItem(begun, type="file")]


complete_runs = _offering(_runs)
complete_nodes_of_last = _offering(_nodes_of_last)
complete_nodes = _offering(_nodes)
complete_artifacts = _offering(_artifacts)
complete_sweeps = _offering(_sweeps)
complete_runs_and_artifacts = _offering(
    lambda workspace, context, begun: [*_runs(workspace, context, begun), *_artifacts(workspace, context, begun)]
)
