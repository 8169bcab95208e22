"""`resume` and `retry`: the workflow that a run recorded, planned again against the store, whatever its file says today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from orchestrator import api
from orchestrator.cli.asked import Asked
from orchestrator.cli.completing import complete_runs
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.placing import choose_place, placing
from orchestrator.cli.running import run_plan
from orchestrator.cli.shell import Shell
from orchestrator.cli.spending import choose_spending, spending
from orchestrator.errors import UsageError
from orchestrator.report.run_status import FINAL_STATES, RunStatus
from orchestrator.report.text import plural
from orchestrator.workflow.selecting import with_below
from orchestrator.workflow.spec import Resources


@command("resume", example="orchestrator resume @last")
@click.argument("run", shell_complete=complete_runs)
@placing
@spending
@pass_shell
def resume(shell: Shell, /, run: str, **placed: Any) -> int:
    """Go on with what a run was asked for, wherever it ended.

    The recorded workflow is planned again, not the file as it is now. Finished
    nodes are hits; training goes on from its last saved state. It runs where
    that run did, unless --executor or --address say otherwise.
    """
    status = _ended(shell, run)
    selection = _without_what_was_rerun(shell, status)
    plan = api.plan_recorded(status.id, workspace=shell.workspace, selection=selection)
    _tell_a_changed_file(shell, status)
    return _run(shell, plan, status, placed)


@command("retry", example="orchestrator retry @last-failed --with-resources memory=8GiB")
@click.argument("run", shell_complete=complete_runs)
@click.option(
    "--with-resources", "resources", metavar="NAME=VALUE", multiple=True,
    help="Resources of the failed nodes, such as memory=8GiB; repeatable.",
)  # fmt: skip
@placing
@spending
@pass_shell
def retry(shell: Shell, /, run: str, resources: tuple[str, ...], **placed: Any) -> int:
    """Run only the failed nodes of a run again, and those that they blocked.

    Resources are part of no key: with more of them the artifacts are the same.
    """
    status = _ended(shell, run)
    checked = api.load_recorded(status.id, workspace=shell.workspace)
    failed = _names(status, checked.order, "failed")
    blocked = _names(status, checked.order, "blocked")
    if not failed:
        raise UsageError(
            f"run {status.id} has no failed node: it is {status.state}", next_step=f"orchestrator resume {status.id}"
        )
    overrides = [override for text in resources for override in _overrides(checked, failed, text)]
    plan = api.plan_recorded(
        status.id, workspace=shell.workspace, overrides=overrides, selection=api.Selection(until=(*failed, *blocked))
    )
    _tell_a_changed_file(shell, status)
    return _run(shell, plan, status, placed)


def _ended(shell: Shell, run: str) -> RunStatus:
    status = api.status(run, workspace=shell.workspace)
    if status.state not in FINAL_STATES:
        raise UsageError(f"run {status.id} is still running", next_step=f"orchestrator status {status.id} --watch")
    return status


def _run(shell: Shell, plan: api.Plan, status: RunStatus, placed: Mapping[str, Any]) -> int:
    _tell_other_keys(shell, plan, status)
    return run_plan(
        shell,
        plan,
        where=choose_place(shell, placed, before=status.request),
        asked=Asked(
            options=choose_spending(shell, plan, budget=placed["budget"], max_gpus=placed["max_gpus"], before=status),
            tags=status.request.get("tags") or {},
            origin={"continues": status.id},
        ),
    )


def _without_what_was_rerun(shell: Shell, status: RunStatus) -> api.Selection:
    """The run's selection; of `--rerun` only what it had not come to, or a resumed run would make finished nodes again."""
    asked = api.selection_recorded(status.id, workspace=shell.workspace)
    if not asked.rerun:
        return asked
    checked = api.load_recorded(status.id, workspace=shell.workspace)
    states: dict[str, set[str]] = {}
    for node in status.nodes.values():
        states.setdefault(node.node.partition(".")[0], set()).add(node.state)
    states |= {name: {"done" if sweep.state == "settled" else sweep.state} for name, sweep in status.sweeps.items()}
    named = [name for name in asked.rerun if name in checked.order]
    left = [
        name for name in checked.order if name in with_below(checked, named) and states.get(name) not in ({"done"}, {"hit"})
    ]
    return api.Selection(
        rerun=(*left, *(name for name in asked.rerun if name not in named)), until=asked.until, start=asked.start
    )


def _names(status: RunStatus, order: Sequence[str], state: str) -> list[str]:
    """Names of the nodes and sweeps in a state, as the workflow has them. A trial that failed is its sweep's business."""
    found = {node.node for node in status.nodes.values() if node.state == state and not node.is_of_trial}
    found |= {name for name, sweep in status.sweeps.items() if sweep.state == state}
    return [name for name in order if name in found]


def _overrides(checked: api.CheckedWorkflow, failed: Sequence[str], text: str) -> list[str]:
    """`memory=8GiB` as overrides of every failed node, and of every node of a failed sweep."""
    name, equals, value = text.partition("=")
    places = []
    for node in failed:
        sweep = checked.sweeps.get(node)
        places += [f"{node}.nodes.{part}" for part in sweep.node.nodes] if sweep is not None else [node]
    if name == "workers":
        raise UsageError(
            "--with-resources workers: with other workers a node is another artifact, and a retry makes the one that failed",
            next_step=f"orchestrator submit {checked.loaded.file} --set {places[0]}.resources.{text}",
        )
    fields = [field for field in Resources.model_fields if field not in ("custom", "workers")]
    if not equals or (name not in fields and not name.startswith("custom.")):
        raise UsageError(
            f'--with-resources "{text}" is no resource; expected NAME=VALUE with a name of {", ".join(fields)}, custom.NAME',
            next_step="--with-resources memory=8GiB",
        )
    return [f"{place}.resources.{name}={value}" for place in places]


def _tell_other_keys(shell: Shell, plan: api.Plan, status: RunStatus) -> None:
    """The recorded text may mean something else today: a stage of another version, a name that was given anew, other data."""
    changed = [
        node for node in plan.nodes.values()
        if node.label in status.nodes and node.key != status.nodes[node.label].key and not status.nodes[node.label].is_of_trial
    ]  # fmt: skip
    if changed:
        first = changed[0]
        shell.say(
            f"note: {plural(len(changed), 'node')} would be another artifact than in run {status.id}, such as {first.label}: "
            f"{status.nodes[first.label].key[:8]} -> {first.key[:8]}; code, data or a name have changed since"
        )


def _tell_a_changed_file(shell: Shell, status: RunStatus) -> None:
    try:
        is_same = Path(status.file).read_text(encoding="utf-8") == status.request["text"]
    except (OSError, UnicodeDecodeError):
        shell.say(f"note: {status.file} is not here any more; the workflow as run {status.id} recorded it is used")
        return
    if not is_same:
        shell.say(
            f"note: {status.file} has changed since; the workflow as run {status.id} recorded it is used",
            f"   next: orchestrator plan {status.file} --diff {status.id}    (what the change comes to)",
        )
