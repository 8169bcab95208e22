"""A plan as a table: what will be done with each node, and why. Reads the plan that `submit` runs, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.report.price_text import hours_document, hours_text, price_document, price_lines
from orchestrator.report.pricing import PlanPrice, price_plan
from orchestrator.report.text import Column, Style, format_table, plural
from orchestrator.store.artifacts import Artifacts
from orchestrator.workflow.budget import NO_PRICES, Budget, Prices
from orchestrator.workflow.count import count_trials
from orchestrator.workflow.explain import MAX_EXPLAINED, Explainer
from orchestrator.workflow.plan import Plan, PlanNode, PlanSweep, Status, SweepStatus
from orchestrator.workflow.trials import trial_name

MAX_ROWS = 60
"""Plans with more nodes are shown by node name, with counts."""

KEY_LETTERS = 8


@dataclass(frozen=True, kw_only=True)
class Means:
    """What a plan is held against: a budget, and prices where the profile has some."""

    budget: Budget | None = None
    prices: Prices = NO_PRICES


NO_MEANS = Means()


def plan_lines(
    plan: Plan, artifacts: Artifacts, *, place: str, style: Style, width: int | None, means: Means = NO_MEANS
) -> list[str]:
    """The table that `plan` prints and that `submit` prints first."""
    price = price_plan(plan, artifacts)
    explainer = Explainer(plan, artifacts)
    is_explained = len(plan.with_status(Status.RUN)) <= MAX_EXPLAINED
    searches = f", {plural(len(plan.sweeps), 'sweep')}" if plan.sweeps else ""
    lines = [f"{style.paint(plan.name, 'bold')}  {plural(len(plan.nodes), 'node')}{searches}   store {place}"]
    is_priced = len(plan.nodes) <= MAX_ROWS and _is_worth_telling(price)
    estimate = [Column("EST", right=True)] if is_priced else []
    columns = [Column("STATUS", painted=True), Column("NODE"), Column("KEY"), *estimate, Column("WHY")]
    if len(plan.nodes) > MAX_ROWS:
        lines += _summary(plan, style=style, width=width)
        rows = [row for name in plan.checked.order for row in _rows_beside_nodes(plan, name)]
    else:
        rows = []
        for name in [*(node.name for node in plan.nodes.values() if node.existing is not None), *plan.checked.order]:
            rows += [[*row[:3], *([""] if is_priced else []), *row[3:]] for row in _rows_beside_nodes(plan, name)]
            rows += [
                [
                    node.status.value,
                    node.label,
                    node.key[:KEY_LETTERS],
                    *([_estimate_text(price, node)] if is_priced else []),
                    why(explainer, node, is_explained=is_explained),
                ]
                for node in plan.nodes.values()
                if node.name == name
            ]
    lines += format_table(columns, rows, style=style, width=width) if rows else []
    lines += [*drift_lines(plan, style=style), f"{style.paint('total', 'total')}   {totals(plan)}"]
    text = price_lines(price, budget=means.budget, prices=means.prices)
    return [*lines, f"{style.paint('hours', 'total')}   {text}"] if text else lines


def _is_worth_telling(price: PlanPrice) -> bool:
    """Whether any figure is a second or more."""
    known = [price.high, *price.avoided.values()]
    return any(hours.cpu * 3600 >= 1 for hours in known)


def _estimate_text(price: PlanPrice, node: PlanNode) -> str:
    """Hours to make it; in brackets those that a hit avoids."""
    if node.label in price.avoided:
        return f"({hours_text(price.avoided[node.label])})"
    found = price.nodes.get(node.label)
    return hours_text(found.low, found.high) if found is not None else "-" if node.status is Status.RUN else ""


def _rows_beside_nodes(plan: Plan, name: str) -> list[list[str]]:
    """The row of a sweep, and of a name that has no node in the plan."""
    if name in plan.sweeps:
        sweep = plan.sweeps[name]
        return [[sweep.status.value, name, sweep.key[:KEY_LETTERS], sweep_text(sweep)]]
    if name in plan.later:
        return [["LATER", name, "", f"after {plan.later[name]}"]]
    return [["SKIP", name, "", plan.skipped[name]]] if name in plan.skipped else []


def sweep_text(sweep: PlanSweep) -> str:
    """The WHY column of a sweep: what it searches, how much its trials share, and how it ended where it is settled."""
    settings = sweep.checked.node.sweep
    count = count_trials(sweep) if sweep.status is SweepStatus.SEARCH else None
    of_all = f" of {count.trials:,} settings" if count is not None and settings.trials is not None else ""
    number = settings.trials if settings.trials is not None else count.trials if count is not None else None
    parts = [f"{plural(number, 'trial')}{of_all}" if number is not None else "the whole grid", settings.sampler.kind]
    parts.append(plural(len(settings.objectives), "objective"))
    text = ", ".join(parts)
    if sweep.result is not None:
        best = sweep.result.best
        found = f"best {trial_name(best)}" if best is not None else "no trial meets the constraints"
        return f"sweep: {found} of {plural(len(sweep.result.trials), 'trial')}, {', '.join(parts[1:])}"
    if sweep.status is SweepStatus.SKIP:
        return sweep.note
    if count is not None:
        whole = "" if settings.trials is None or settings.trials >= count.trials else "all settings: "
        text += f"; {whole}{count.nodes:,} nodes, {count.distinct:,} of them different ({count.sharing:.2g}x shared)"
    else:
        text += "; what they share cannot be counted before they run"
    return f"sweep: {text}{f' ({sweep.note})' if sweep.note else ''}"


def why(explainer: Explainer, node: PlanNode, *, is_explained: bool = True) -> str:
    """The WHY column of one node."""
    if not is_explained and node.status is Status.RUN and not node.note:
        return ""
    return explainer.reason(node).replace("settings.", "parameter ", 1)


def drift_lines(plan: Plan, *, style: Style) -> list[str]:
    """One line per node whose hits were made by other code than what stands here now."""
    word = style.paint(f"{'drift':<6}", "drift")
    return [
        f"{word}  {name}: stage code changed since the record; --strict would run it again"
        for name in dict.fromkeys(node.node for node in plan.drifted)
    ]


def totals(plan: Plan) -> str:
    """3 to run, 8 hits, 0 shared."""
    count = {status: len(plan.with_status(status)) for status in Status}
    parts = [f"{count[Status.RUN]} to run", plural(count[Status.HIT], "hit"), f"{count[Status.SHARED]} shared"]
    if count[Status.WAIT]:
        parts.append(f"{count[Status.WAIT]} made by other runs now")
    searches = sum(sweep.status is SweepStatus.SEARCH for sweep in plan.sweeps.values())
    if searches:
        parts.append(f"{plural(searches, 'sweep')} to search")
    if plan.later:
        parts.append(f"{len(plan.later)} later")
    skipped = count[Status.SKIP] + len(plan.skipped)
    if skipped:
        parts.append(f"{skipped} skipped")
    return ", ".join(parts)


def plan_document(plan: Plan, artifacts: Artifacts, *, means: Means = NO_MEANS) -> dict[str, Any]:
    """All that the table shows, as data."""
    price = price_plan(plan, artifacts)
    explainer = Explainer(plan, artifacts)
    is_explained = len(plan.with_status(Status.RUN)) <= MAX_EXPLAINED
    drifted = {node.label for node in plan.drifted}
    return {
        "workflow": plan.name,
        "file": plan.checked.loaded.file,
        "overrides": list(plan.checked.loaded.overrides),
        "totals": {status.value: len(plan.with_status(status)) for status in Status},
        "nodes": [
            {
                "label": node.label,
                "node": node.node,
                "stage": node.spec.name,
                "status": node.status.value,
                "key": node.key,
                "why": why(explainer, node, is_explained=is_explained),
                "parents": list(node.parents),
                "forced": node.forced,
                "drifted": node.label in drifted,
                "hours": _hours_document(price, node),
            }
            for node in plan.nodes.values()
        ],
        "sweeps": [_sweep_document(sweep) for sweep in plan.sweeps.values()],
        "later": dict(plan.later),
        "skipped": dict(plan.skipped),
        "price": price_document(price, budget=means.budget, prices=means.prices),
    }


def _hours_document(price: PlanPrice, node: PlanNode) -> dict[str, Any] | None:
    """Hours to make the node and on how many records they rest; None where there is no record yet, or it will not run."""
    found = price.nodes.get(node.label)
    if found is None:
        return None
    return {"low": hours_document(found.low), "high": hours_document(found.high), "records": found.num_records}


def _sweep_document(sweep: PlanSweep) -> dict[str, Any]:
    settings = sweep.checked.node.sweep
    count = count_trials(sweep) if sweep.status is SweepStatus.SEARCH else None
    return {
        "sweep": sweep.name,
        "status": sweep.status.value,
        "key": sweep.key,
        "family": sweep.family,
        "trials": settings.trials,
        "sampler": settings.sampler.kind,
        "objectives": dict(settings.objectives),
        "parents": list(sweep.after),
        "forced": sweep.forced,
        "best": sweep.result.best if sweep.result is not None else None,
        "front": list(sweep.result.front) if sweep.result is not None else [],
        "counted": {"settings": count.trials, "nodes": count.nodes, "distinct": count.distinct} if count is not None else None,
        "note": sweep.note,
    }


def _summary(plan: Plan, *, style: Style, width: int | None) -> list[str]:
    counts: dict[str, dict[Status, int]] = {}
    stages: Mapping[str, str] = {node.node: node.spec.name for node in plan.nodes.values()}
    for node in plan.nodes.values():
        counts.setdefault(node.node, dict.fromkeys(Status, 0))[node.status] += 1
    shown = [status for status in Status if plan.with_status(status)]
    columns = [
        Column("NODE"), *(Column(status.value, right=True) for status in shown), Column("ALL", right=True), Column("STAGE")
    ]  # fmt: skip
    rows = [
        [name, *(str(count[status] or "-") for status in shown), str(sum(count.values())), stages[name]]
        for name, count in counts.items()
    ]
    return format_table(columns, rows, style=style, width=width)
