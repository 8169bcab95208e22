"""What a run may spend and hold: --budget, --max-gpus, the prices of the profile, and what a continued run had of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from orchestrator import api
from orchestrator.cli.plan import BUDGET
from orchestrator.cli.shell import Shell
from orchestrator.engine.run_options import options_recorded
from orchestrator.errors import UsageError
from orchestrator.report.plan_table import Means
from orchestrator.workflow.budget import Prices, parse_budget

Function = Callable[..., Any]
MAX_GPUS = click.option("--max-gpus", metavar="N", type=click.FloatRange(min=0.01), help="Hold at most N GPUs at once.")


def spending(function: Function) -> Function:
    """The options of `submit`, `resume` and `retry`; for `choose_spending`."""
    return BUDGET(MAX_GPUS(function))


def choose_spending(
    shell: Shell,
    plan: api.Plan,
    *,
    budget: str | None,
    max_gpus: float | None,
    keep_going: bool = False,
    before: api.RunStatus | None = None,
) -> api.RunOptions:
    """How the run goes on: the flags, else what the continued run had, else the workflow file's budget."""
    had = options_recorded(before.request) if before is not None else api.RunOptions()
    means = choose_means(shell, plan, budget=budget, had=had)
    return api.RunOptions(
        keep_going=keep_going or had.keep_going,
        budget=means.budget,
        prices=means.prices,
        spent_before=api.spent_so_far(before.id, workspace=shell.workspace) if before is not None else had.spent_before,
        max_gpus=max_gpus if max_gpus is not None else had.max_gpus,
    )


def choose_means(shell: Shell, plan: api.Plan, *, budget: str | None, had: api.RunOptions | None = None) -> Means:
    """The budget and the prices that a plan is held against; UsageError for money without prices.

    `had`: of the run that is continued, whose budget and prices hold where neither flags nor the profile say others.
    """
    had = had or api.RunOptions()
    prices = Prices(usd_per_gpu_hour=shell.profile.usd_per_gpu_hour, usd_per_cpu_hour=shell.profile.usd_per_cpu_hour)
    prices = prices if prices.are_known else had.prices
    chosen = parse_budget(budget) if budget is not None else had.budget or plan.checked.loaded.workflow.budget
    if chosen is not None and chosen.usd is not None and not prices.are_known:
        raise UsageError(
            f"a budget of {chosen.usd:g} USD needs prices, and the profile has none",
            next_step="orchestrator config set lab.usd_per_gpu_hour 2.5, then --profile lab; or --budget 40gpuh",
        )
    return Means(budget=chosen, prices=prices)
