"""What a run is asked for: its request in the ledger, held against its budget, its idempotency key and what is there by now.

Knows no process that drives it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator.engine.run_options import RunOptions
from orchestrator.errors import AlreadySubmitted, BudgetReached, PlanError, UsageError
from orchestrator.store.artifacts import Artifacts
from orchestrator.store.blobs import digest_bytes
from orchestrator.store.ledger import Ledger
from orchestrator.workflow.budget import exceeded
from orchestrator.workflow.identity import encode
from orchestrator.workflow.plan import Plan


def make_request(
    plan: Plan, executor: Any, options: RunOptions, tags: Mapping[str, str], origin: Mapping[str, str], idempotency_key: str
) -> dict[str, Any]:
    loaded = plan.checked.loaded
    return {
        "workflow": plan.name,
        "file": loaded.file,
        "text": loaded.text,
        "overrides": list(loaded.overrides),
        "command": sys.argv[0:1] + sys.argv[1:],
        "executor": executor if isinstance(executor, str) else "own",
        **options.to_request(),
        "tags": dict(tags),
        "process_id": os.getpid(),
        "user": _user(),
        "selection": vars(plan.selection),
        **({"origin": dict(origin)} if origin else {}),
        **({"idempotency_key": idempotency_key} if idempotency_key else {}),
        "plan": [[node.label, node.node, node.spec.name, node.key, node.status.value] for node in plan.nodes.values()],
    }


def _user() -> str:
    """Who asks, as the system calls them; empty where it has no name for them."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def within_budget(plan: Plan, artifacts: Artifacts, options: RunOptions | None) -> RunOptions:
    """The options with the workflow's budget where they have none; BudgetReached where it cannot be enough."""
    options = options or RunOptions()
    options = replace(options, budget=options.budget or plan.checked.loaded.workflow.budget)
    if options.budget is None or not plan.has_work:
        return options
    if options.budget.usd is not None and not options.prices.are_known:
        raise UsageError("a budget in money needs prices", next_step="RunOptions(prices=...), or a budget in hours")
    over = exceeded(options.budget, options.spent_before, options.prices)
    if over:
        raise BudgetReached(f"the budget is spent: {over}", next_step="a larger --budget goes on where it stopped")
    from orchestrator.report.pricing import price_plan

    price = price_plan(plan, artifacts)
    over = exceeded(options.budget, options.spent_before + price.low, options.prices)
    if over:
        raise BudgetReached(
            f"the plan needs more than its budget: {over} at least, by {price.num_records} recorded attempts; nothing was run",
            next_step="a larger --budget, fewer trials, or --until NODE",
        )
    return options


def claim_key(request: Mapping[str, Any], run: str, ledger: Ledger) -> None:
    """Take the idempotency key, if there is one, for this run; AlreadySubmitted if another has it."""
    key = request.get("idempotency_key")
    if key:
        asked = digest_bytes(encode({name: request[name] for name in ("text", "overrides", "selection")}))
        standing, before = ledger.claim_submission(digest_bytes(key.encode()), run, asked=asked)
        if standing != run:
            raise AlreadySubmitted(standing, is_same=before == asked)


def refuse_other_keys(plan: Plan, request: Mapping[str, Any]) -> None:
    """What runs is what was shown when it was asked for, or nothing."""
    asked = {label: key for label, _, _, key, *_ in request["plan"]}
    made = {label: node.key for label, node in plan.nodes.items()}
    other = next((label for label, key in asked.items() if made.get(label, key) != key), None)
    if other is not None:
        raise PlanError(
            f'the code here makes key {made[other][:8]} for node "{other}", and the code that asked for the run '
            f"{asked[other][:8]}",
            next_step="the same versions of the stages' packages on the cluster as where the run is submitted",
        )


def note_what_is_there_by_now(plan: Plan, request: Mapping[str, Any], run: str, ledger: Ledger) -> None:
    """Between its record and its driver another run may have made nodes of this one: they are hits, not left out."""
    asked = {label: status for label, _, _, _, status, *_ in request["plan"]}
    rows = [
        [node.label, node.node, node.spec.name, node.key, node.status.value]
        for node in plan.nodes.values() if asked.get(node.label, node.status.value) != node.status.value
    ]  # fmt: skip
    if rows:
        ledger.write(run, [{"type": "nodes_added", "nodes": rows}])
