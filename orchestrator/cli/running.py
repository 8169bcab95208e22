"""From a plan to a run that has ended: shows the plan, runs what is missing, follows it, says what came out.

What `submit`, `resume`, `retry` and `export` have in common; they differ in where their plan comes from.
"""

from __future__ import annotations

from orchestrator import api
from orchestrator.cli.asked import Asked, tell_left_out
from orchestrator.cli.ending import tell_end, tell_nothing_to_do
from orchestrator.cli.following import EXIT_UNMET, exit_code, follow, left_alone
from orchestrator.cli.placing import Where
from orchestrator.cli.shell import Shell
from orchestrator.errors import AlreadySubmitted
from orchestrator.report.plan_table import Means, plan_document, plan_lines
from orchestrator.report.run_status import FINAL_STATES, read_run_status

NOTHING_MORE = Asked()


def run_plan(shell: Shell, plan: api.Plan, *, where: Where, asked: Asked = NOTHING_MORE) -> int:
    """Show the plan, run it, and return its exit code."""
    means = Means(budget=asked.options.budget, prices=asked.options.prices)
    if shell.as_json:
        shell.json_line({"type": "plan", **plan_document(plan, shell.workspace.artifacts, means=means)})
    try:
        return _run(shell, plan, where=where, asked=asked, means=means)
    except AlreadySubmitted as error:
        if not error.is_same:
            raise
        shell.say(f"submitted before with this idempotency key, as run {error.run}")
        tell_left_out(shell, asked, error.run)
        status = read_run_status(shell.workspace.store, error.run)
        is_left = where.detach and status.state not in FINAL_STATES
        return left_alone(shell, error.run) if is_left else follow(shell, status)


def _run(shell: Shell, plan: api.Plan, *, where: Where, asked: Asked, means: Means) -> int:
    if not plan.has_work:
        result = api.submit(plan, workspace=shell.workspace, **vars(asked))
        code = _code(result)
        tell_nothing_to_do(shell, plan, result, exit_code=code)
        return code
    if not shell.as_json:
        artifacts, place = shell.workspace.artifacts, shell.place()
        shell.say(*plan_lines(plan, artifacts, place=place, style=shell.err_style, width=shell.err_width, means=means))

    if where.jobs_address:
        from orchestrator.cli.clustering import run_on_cluster

        return run_on_cluster(shell, plan, where, asked)

    caution = shell.workspace.store.caution()
    if caution:
        shell.insist(f"caution: {caution}; no other machine may write to {shell.place()}")

    from orchestrator.cli.watching import make_watcher

    watcher = make_watcher(shell)
    with watcher.watching(), shell.libraries_silenced():
        result = api.submit(
            plan, workspace=shell.workspace, executor=where.executor, place=where.place, watcher=watcher, **vars(asked)
        )
    code = _code(result)
    tell_end(shell, plan, result, exit_code=code)
    return code


def _code(result: api.RunResult) -> int:
    """A run that is done is no success where a sweep has found nothing that meets its constraints."""
    code = exit_code(result.state.value, signal_number=result.signal_number, over_budget=result.status.over_budget)
    return EXIT_UNMET if code == 0 and result.unmet else code
