"""`submit`: plan, show the plan, run what is missing, follow it, and say what came out."""

from __future__ import annotations

from typing import Literal

import click

from orchestrator import api
from orchestrator.cli.ending import tell_end, tell_nothing_to_do
from orchestrator.cli.following import EXIT_UNMET, exit_code
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.plan import FILE, selecting
from orchestrator.cli.shell import Shell
from orchestrator.errors import UsageError
from orchestrator.report.plan_table import plan_document, plan_lines


@command("submit", example="orchestrator submit workflows/digits.yaml --set pretrain.epochs=5")
@click.argument("file", type=FILE)
@selecting
@click.option(
    "--executor", type=click.Choice(["ray", "inline"]), default="ray", show_default=True,
    help="ray: processes on this machine; inline: one node at a time, in this process.",
)  # fmt: skip
@click.option("--dashboard", is_flag=True, help="Start Ray's dashboard, too; its address is said. Takes some seconds more.")
@click.option("--keep-going", is_flag=True, help="After a failure, go on with nodes that do not need it.")
@click.option("--tag", "tags", metavar="NAME=VALUE", multiple=True, help="Mark the run, for ls; repeatable.")
@pass_shell
def submit(
    shell: Shell,
    file: str,
    overrides: tuple[str, ...],
    rerun: tuple[str, ...],
    start: tuple[str, ...],
    until: tuple[str, ...],
    executor: Literal["ray", "inline"],
    dashboard: bool,
    keep_going: bool,
    tags: tuple[str, ...],
) -> int:
    """Plan a workflow file, run what is missing, follow it, show what came out.

    What was finished before is used as it is. Ctrl-C asks the run to stop; the same command goes on where it stopped.
    """
    marks = _tags(tags)
    selection = api.Selection(rerun=rerun, until=until, start=start)
    if dashboard and executor == "inline":
        raise UsageError("--dashboard is Ray's, and --executor inline runs without Ray", next_step="leave one of the two out")
    plan = api.plan(file, workspace=shell.workspace, overrides=overrides, selection=selection)
    if shell.as_json:
        shell.json_line({"type": "plan", **plan_document(plan, shell.workspace.artifacts)})
    if not plan.has_work:
        return _nothing_to_do(shell, plan, marks)
    if not shell.as_json:
        shell.say(
            *plan_lines(plan, shell.workspace.artifacts, place=shell.place(), style=shell.err_style, width=shell.err_width)
        )

    caution = shell.workspace.store.caution()
    if caution:
        shell.insist(f"caution: {caution}; no other machine may write to {shell.place()}")

    from orchestrator.cli.watching import make_watcher

    watcher = make_watcher(shell)
    with watcher.watching(), shell.libraries_silenced():
        result = api.submit(
            plan,
            workspace=shell.workspace,
            executor=executor,
            options=api.RunOptions(keep_going=keep_going),
            watcher=watcher,
            tags=marks,
            dashboard=dashboard,
        )
    code = _code(result)
    tell_end(shell, plan, result, exit_code=code)
    return code


def _nothing_to_do(shell: Shell, plan: api.Plan, marks: dict[str, str]) -> int:
    result = api.submit(plan, workspace=shell.workspace, tags=marks)
    code = _code(result)
    tell_nothing_to_do(shell, plan, result, exit_code=code)
    return code


def _code(result: api.RunResult) -> int:
    """A run that is done is no success where a sweep has found nothing that meets its constraints."""
    code = exit_code(result.state.value, signal_number=result.signal_number)
    return EXIT_UNMET if code == 0 and result.unmet else code


def _tags(tags: tuple[str, ...]) -> dict[str, str]:
    marks = {}
    for tag in tags:
        name, equals, value = tag.partition("=")
        if not equals or not name:
            raise UsageError(f'--tag "{tag}" names no value; expected NAME=VALUE', next_step=f"--tag {name or 'name'}=value")
        marks[name] = value
    return marks
