"""`submit`: plan, show the plan, run what is missing, follow it, and say what came out."""

from __future__ import annotations

from typing import Any

import click

from orchestrator import api
from orchestrator.cli.asked import Asked
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.placing import choose_place, placing
from orchestrator.cli.plan import FILE, chosen, selecting
from orchestrator.cli.plan_file import is_plan_file, read_plan
from orchestrator.cli.running import run_plan
from orchestrator.cli.shell import Shell
from orchestrator.cli.spending import choose_spending, spending
from orchestrator.errors import UsageError


@command(
    "submit",
    example="orchestrator submit workflows/digits.yaml --set pretrain.epochs=5\norchestrator submit digits.yaml --budget 2cpuh",
)
@click.argument("file", type=FILE)
@selecting
@placing
@spending
@click.option("--dashboard", is_flag=True, help="Start Ray's dashboard, too; its address is said. Takes some seconds more.")
@click.option("--keep-going", is_flag=True, help="After a failure, go on with nodes that do not need it.")
@click.option("--tag", "tags", metavar="NAME=VALUE", multiple=True, help="Mark the run, for ls; repeatable.")
@click.option("--idempotency-key", metavar="TEXT", default="", help="Of runs with the same TEXT only the first is begun.")
@pass_shell
def submit(
    shell: Shell,
    /,
    file: str,
    overrides: tuple[str, ...],
    rerun: tuple[str, ...],
    strict: bool,
    start: tuple[str, ...],
    until: tuple[str, ...],
    smoke: bool,
    budget: str | None,
    max_gpus: float | None,
    dashboard: bool,
    keep_going: bool,
    tags: tuple[str, ...],
    idempotency_key: str,
    **placed: Any,
) -> int:
    """Plan a workflow file (or take a saved PLAN.json), run what is missing, follow it.

    What was finished before is used as it is. Ctrl-C asks the run to stop; the same command goes on where it stopped. On a
    cluster (--address http://...) the first Ctrl-C ends the watching only.
    """
    marks = _tags(tags)
    selection = chosen(rerun=rerun, strict=strict, start=start, until=until)
    where = choose_place(shell, placed, dashboard=dashboard)
    if is_plan_file(file):
        if overrides or smoke or selection != api.Selection():
            raise UsageError(
                f"{file} is a saved plan, which runs unchanged; its flags go with the workflow file",
                next_step=f"orchestrator submit {file}",
            )
        plan, origin = read_plan(file, shell.workspace), {"plan_file": file}
    else:
        origin = {"smoke": "true"} if smoke else {}
        plan = api.plan(file, workspace=shell.workspace, overrides=overrides, selection=selection, smoke=smoke)
    options = choose_spending(shell, plan, budget=budget, max_gpus=max_gpus, keep_going=keep_going)
    asked = Asked(options=options, tags=marks, origin=origin, idempotency_key=idempotency_key)
    return run_plan(shell, plan, where=where, asked=asked)


def _tags(tags: tuple[str, ...]) -> dict[str, str]:
    marks = {}
    for tag in tags:
        name, equals, value = tag.partition("=")
        if not equals or not name:
            raise UsageError(f'--tag "{tag}" names no value; expected NAME=VALUE', next_step=f"--tag {name or 'name'}=value")
        marks[name] = value
    return marks
