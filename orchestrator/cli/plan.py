"""`plan` and `validate`: what a workflow file asks for, without running any of it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.completing import complete_runs
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell

if TYPE_CHECKING:
    from orchestrator.workflow.plan import Plan, Selection

EXIT_WORK = 8

FILE = click.Path(dir_okay=False)
Function = Callable[..., Any]
OVERRIDES = click.option(
    "--set", "overrides", metavar="NODE.PARAM=VALUE", multiple=True, help="Change a parameter; repeatable."
)


BUDGET = click.option(
    "--budget", metavar="HOURS",
    help="At most so much, as 40gpuh, 200cpuh or 25usd (with prices in the profile); above the file's own.",
)  # fmt: skip


def selecting(function: Function) -> Function:
    """The options that choose what a workflow file means and which of its nodes count; shared by `plan` and `submit`."""
    options = (
        OVERRIDES,
        click.option("--rerun", metavar="NODE", multiple=True, help="Make NODE and all below it again; repeatable."),
        click.option("--strict", is_flag=True, help="Make hits again that other code of their stage had made (drift)."),
        click.option("--from", "start", metavar="NODE", multiple=True, help="NODE and all below; the rest must be finished."),
        click.option("--until", metavar="NODE", multiple=True, help="Only NODE and what it needs."),
        click.option("--smoke", is_flag=True, help="Try it out: tiny data, an epoch per node, two trials, no constraints."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def chosen(*, rerun: tuple[str, ...], strict: bool, start: tuple[str, ...], until: tuple[str, ...]) -> Selection:
    """What the flags of `selecting` select."""
    from orchestrator.workflow.plan import DRIFTED, Selection

    return Selection(rerun=(*rerun, DRIFTED) if strict else rerun, until=until, start=start)


@command(
    "plan",
    example="orchestrator plan workflows/digits.yaml --why lbc\norchestrator plan digits.yaml --simulate cluster.yaml",
)
@click.argument("file", type=FILE)
@selecting
@click.option("--graph", "draws", is_flag=True, help="The plan as a tree: what needs what, and what will be done.")
@BUDGET
@click.option(
    "--simulate",
    "cluster",
    metavar="CLUSTER.yaml",
    type=FILE,
    help="How long it would take on those machines, and what holds it up.",
)
@click.option("--why", metavar="NODE", help="All that differs from the nearest earlier artifact of NODE.")
@click.option("--diff", "run", metavar="RUN", shell_complete=complete_runs, help="What would be made otherwise than in RUN.")
@click.option("--out", metavar="PLAN.json", help="Save the plan; submit PLAN.json runs it unchanged.")
@click.option("--exit-code", "tells_work", is_flag=True, help="Exit with 8 when there is work to do.")
@pass_shell
def plan(
    shell: Shell,
    file: str,
    overrides: tuple[str, ...],
    rerun: tuple[str, ...],
    strict: bool,
    start: tuple[str, ...],
    until: tuple[str, ...],
    smoke: bool,
    draws: bool,
    why: str | None,
    run: str | None,
    out: str | None,
    tells_work: bool,
    budget: str | None,
    cluster: str | None,
) -> int:
    """Show what a workflow file would run, and why. Runs nothing, and writes nothing but PLAN.json."""
    from orchestrator import api
    from orchestrator.cli.spending import choose_means
    from orchestrator.report.plan_table import plan_document, plan_lines

    _refuse_two_views({"--simulate": cluster, "--why": why, "--diff": run, "--graph": draws}, budget=budget)
    selection = chosen(rerun=rerun, strict=strict, start=start, until=until)
    made = api.plan(file, workspace=shell.workspace, overrides=overrides, selection=selection, smoke=smoke)
    artifacts = shell.workspace.artifacts
    if cluster is not None:
        show_simulation(shell, made, cluster)
    elif why is not None:
        from orchestrator.report.why import explained_nodes, why_documents, why_lines

        nodes = explained_nodes(made, why)
        if shell.as_json:
            shell.document({"workflow": made.name, "why": why_documents(made, nodes, artifacts)})
        else:
            shell.data(why_lines(made, nodes, artifacts, style=shell.style))
    elif run is not None:
        show_diff(shell, made, run)
    elif draws:
        from orchestrator.cli.graph import show_tree
        from orchestrator.report.graph import states_of_plan, workflow_graph

        show_tree(shell, workflow_graph(made.checked, states_of_plan(made)))
    else:
        means = choose_means(shell, made, budget=budget)
        if shell.as_json:
            shell.document(plan_document(made, artifacts, means=means))
        else:
            shell.data(plan_lines(made, artifacts, place=shell.place(), style=shell.style, width=shell.width, means=means))
    if out is not None:
        from orchestrator.cli.plan_file import write_plan

        write_plan(out, made, shell.workspace)
        shell.say(f"saved; next: orchestrator submit {shlex.quote(out)}")
    return EXIT_WORK if tells_work and made.has_work else 0


def _refuse_two_views(views: Mapping[str, object], *, budget: str | None) -> None:
    """UsageError where flags ask for several views of a plan at once, of which only one would be shown."""
    from orchestrator.errors import UsageError

    asked = [flag for flag, value in views.items() if value]
    if len(asked) > 1:
        raise UsageError(
            f"{' and '.join(asked)} are views of a plan, and one is shown at a time", next_step="leave all but one out"
        )
    if asked and budget is not None:
        raise UsageError(
            f"--budget is held against the price of a plan, which {asked[0]} does not show",
            next_step="leave one of the two out",
        )


def show_simulation(shell: Shell, made: Plan, file: str) -> None:
    """How a plan would go on the machines that a file describes."""
    from orchestrator.report.simulation import simulate
    from orchestrator.report.simulation_text import simulation_document, simulation_lines
    from orchestrator.workflow.cluster_spec import load_cluster

    found = simulate(made, load_cluster(file), shell.workspace.artifacts)
    if shell.as_json:
        shell.document({"workflow": made.name, "cluster": file, **simulation_document(found)})
    else:
        shell.data(simulation_lines(found, plan=made, style=shell.style))


def show_diff(shell: Shell, made: Plan, run: str) -> None:
    """What a plan would make otherwise than a run did."""
    from orchestrator import api
    from orchestrator.report.plan_diff import diff_document, diff_lines, diff_plan

    workspace = shell.workspace
    status = api.status(run, workspace=workspace)

    @cache
    def identities() -> dict[str, Mapping[str, Any]]:
        before = api.plan_recorded(status.id, workspace=workspace)
        return {node.key: node.identity for node in before.nodes.values()}

    diff = diff_plan(made, status, identities)
    if shell.as_json:
        shell.document({"workflow": made.name, **diff_document(diff)})
    else:
        shell.data(diff_lines(diff, style=shell.style, width=shell.width))


@command("validate", example="orchestrator validate workflows/*.yaml")
@click.argument("files", type=FILE, nargs=-1, required=True)
@OVERRIDES
@pass_shell
def validate(shell: Shell, files: tuple[str, ...], overrides: tuple[str, ...]) -> int:
    """Check workflow files; show every problem at once. Opens no store."""
    from orchestrator import api
    from orchestrator.cli.failures import EXIT_USAGE, problem_documents, report_workflow_error
    from orchestrator.cli.plan_file import is_plan_file
    from orchestrator.errors import UsageError, WorkflowError
    from orchestrator.report.text import plural

    documents: list[dict[str, Any]] = []
    for file in files:
        if is_plan_file(file):
            raise UsageError(
                f"{file} is a saved plan and no workflow; it is checked when it is submitted",
                next_step=f"orchestrator submit {shlex.quote(file)}",
            )
        try:
            checked = api.load(file, overrides=overrides)
        except WorkflowError as error:
            report_workflow_error(shell, error)
            documents.append({"file": file, "valid": False, "problems": problem_documents(error)})
        else:
            workflow = checked.loaded.workflow
            nodes, sweeps = len(workflow.nodes), len(workflow.sweeps)
            documents.append({"file": file, "valid": True, "problems": [], "nodes": nodes, "sweeps": sweeps})
            searches = f", {plural(sweeps, 'sweep')}" if sweeps else ""
            shell.say(f"ok: {file}: {plural(nodes, 'node')}{searches}")
    if shell.as_json:
        shell.document({"files": documents})
    return 0 if all(document["valid"] for document in documents) else EXIT_USAGE
