"""`gc`: what would go from the store, and removing it. (A module `gc` here would hide the one of Python in this package.)"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell

if TYPE_CHECKING:
    from orchestrator.store.gc import GcPlan, GcResult
    from orchestrator.store.leftovers import Leftovers

KEEP_DAYS = 14
KEEP_RUNS = 5
_SAFE_GRACE_S = 600.0
_DAY_S = 86_400.0


@command("gc", example="orchestrator gc --budget 20GiB\norchestrator gc --keep-days 30 --apply")
@click.option("--apply", "is_applied", is_flag=True, help="Remove; without it nothing is changed.")
@click.option("--keep-days", metavar="N", type=click.IntRange(min=0), help="Keep what runs of the last N days used (14).")
@click.option("--keep-runs", metavar="N", type=click.IntRange(min=0), help="Keep what the newest N runs used (5).")
@click.option("--budget", metavar="SIZE", help="Remove only until the store fits (20GiB): cheapest to rebuild per byte first.")
@click.option("--grace", metavar="DURATION", default="24h", show_default=True, help="Files younger than this stay.")
@click.option("--quarantine", is_flag=True, help="Also what was set aside, with its files.")
@click.option("--sweeps", "takes_sweeps", is_flag=True, help="Also what settled searches found.")
@click.option("--imports", "takes_imports", is_flag=True, help="Also imported models without a name or a pin.")
@click.option("--runs-older-than", metavar="DURATION", help="Also logs and events of older runs (90d).")
@pass_shell
def gc(
    shell: Shell,
    is_applied: bool,
    keep_days: int | None,
    keep_runs: int | None,
    budget: str | None,
    grace: str,
    quarantine: bool,
    takes_sweeps: bool,
    takes_imports: bool,
    runs_older_than: str | None,
) -> int:
    """Show what could be removed from the store; remove it with --apply.

    Names, pins, running runs and what searches found are kept, with all their
    inputs. With --budget recent runs are kept only if --keep-days or
    --keep-runs says so. What was removed is made again when it is asked for.
    """
    from orchestrator.store.gc import GcRules, apply_gc, plan_gc
    from orchestrator.store.leftovers import find_leftovers, remove_leftovers
    from orchestrator.workflow.roots import RootRules, find_roots, live_leases

    shell.stay()
    store = shell.workspace.store
    grace_s = _duration_s("--grace", grace)
    runs_s = _duration_s("--runs-older-than", runs_older_than) if runs_older_than is not None else None
    days = keep_days if keep_days is not None else KEEP_DAYS if budget is None else 0
    runs = keep_runs if keep_runs is not None else KEEP_RUNS if budget is None else 0
    making, running = live_leases(store)
    if is_applied and grace_s < _SAFE_GRACE_S and (making or running):
        _refuse_short_grace(grace)
    rules = GcRules(
        keep_since=_ago(max(days * _DAY_S, grace_s)),
        budget_bytes=_size_bytes(budget) if budget is not None else None,
        grace_s=grace_s,
        quarantine=quarantine,
    )
    roots = find_roots(
        store,
        RootRules(
            keep_since=_ago(days * _DAY_S) if days else "9",
            keep_runs=runs,
            keep_sweeps=not takes_sweeps,
            keep_imports=not takes_imports,
        ),
    )
    plan = plan_gc(store, rules, roots)
    leftovers = find_leftovers(
        store,
        finished=plan.kept_keys,
        needed=plan.needed_keys,
        checkpoints_older_than_s=max(days or KEEP_DAYS, 1) * _DAY_S,
        uploads_older_than_s=grace_s,
        runs_before=_ago(runs_s) if runs_s is not None else "",
        live_runs=running,
    )
    result = None
    if is_applied:
        result = apply_gc(store, plan, rules, roots)
        remove_leftovers(store, leftovers)
    if shell.as_json:
        shell.document(_document(plan, leftovers, result))
    else:
        _show(shell, plan, leftovers, result, budget_bytes=rules.budget_bytes)
    return 0


def _show(shell: Shell, plan: GcPlan, leftovers: Leftovers, result: GcResult | None, *, budget_bytes: int | None) -> None:
    from orchestrator.report.gc_text import gc_lines
    from orchestrator.report.text import format_bytes, plural

    shell.data(gc_lines(plan, leftovers, style=shell.style, width=shell.width, show_all=shell.verbose))
    left_bytes = plan.total_bytes - plan.freed_bytes
    if budget_bytes is not None and left_bytes - plan.too_young > budget_bytes:
        shell.insist(
            f"warning: {format_bytes(left_bytes)} would be left, more than the budget of {format_bytes(budget_bytes)}: the rest"
            " is kept by names, pins, searches, running runs or the grace period"
        )
    if result is not None:
        shell.say(f"removed {plural(len(result.removed), 'artifact')} and {format_bytes(result.freed_bytes)}")
        if result.spared:
            shell.say(f"{plural(len(result.spared), 'artifact')} stayed: somebody came to need them meanwhile")
    elif plan.is_empty and leftovers.is_empty:
        shell.say("nothing to remove")
    else:
        shell.say("nothing was changed. next: orchestrator gc --apply, with the same options")


def _document(plan: GcPlan, leftovers: Leftovers, result: GcResult | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "applied": result is not None,
        "artifacts": [
            {
                "key": held.key, "stage": held.stage, "label": held.label, "finished": held.finished,
                "size_bytes": held.size_bytes, "seconds": held.seconds,
            }
            for held in plan.removed
        ],
        "freed_bytes": plan.freed_bytes,
        "seconds_to_rebuild": round(plan.seconds, 4),
        "num_blobs": len(plan.blobs),
        "unnamed_bytes": sum(blob.size_bytes for blob in plan.unnamed),
        "within_grace_bytes": plan.too_young,
        "total_bytes": plan.total_bytes,
        "kept": dict(plan.kept),
        "num_set_aside": len(plan.set_aside),
        "attempts": dict(leftovers.attempts),
        "checkpoints": dict(leftovers.checkpoints),
        "mirrored_checkpoints": dict(leftovers.mirrored),
        "runs": list(leftovers.runs),
        "num_unfinished_uploads": len(leftovers.uploads),
    }  # fmt: skip
    if result is not None:
        document["removed"] = {
            "artifacts": [held.key for held in result.removed],
            "spared": [held.key for held in result.spared],
            "num_blobs": result.num_blobs,
            "freed_bytes": result.freed_bytes,
        }
    return document


def _ago(seconds: float) -> str:
    """The time so many seconds ago, as records and runs have it."""
    then = datetime.now(UTC) - timedelta(seconds=min(seconds, 3650 * _DAY_S))
    return then.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _duration_s(flag: str, text: str) -> float:
    from orchestrator.errors import UsageError
    from orchestrator.workflow.units import parse_duration_s

    try:
        return parse_duration_s(text)
    except ValueError as error:
        raise UsageError(f'{flag} "{text}": {error}', next_step=f"{flag} 36h") from error


def _size_bytes(text: str) -> int:
    from orchestrator.errors import UsageError
    from orchestrator.workflow.units import parse_size_bytes

    try:
        return parse_size_bytes(text)
    except ValueError as error:
        raise UsageError(f'--budget "{text}": {error}', next_step="--budget 20GiB") from error


def _refuse_short_grace(grace: str) -> None:
    from orchestrator.errors import UsageError

    raise UsageError(
        f"--grace {grace} is safe only while nothing runs, and something does",
        next_step="orchestrator gc --apply --grace 10m",
    )
