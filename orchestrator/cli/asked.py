"""What was asked of a run beside its plan: handed on from the command to whoever begins it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.api import RunOptions
from orchestrator.cli.shell import Shell
from orchestrator.report.run_status import FINAL_STATES, read_run_status


@dataclass(frozen=True, kw_only=True)
class Asked:
    """As `api.submit` and `api.enqueue` take it: their arguments by these names."""

    options: RunOptions = field(default_factory=RunOptions)
    tags: Mapping[str, str] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str = ""


def tell_left_out(shell: Shell, asked: Asked, run: str) -> None:
    """Say which flags come too late for a run that was begun without them."""
    request, options = shell.workspace.ledger.request(run).content, asked.options
    late = [f"--tag {name}={value}" for name, value in asked.tags.items() if request.get("tags", {}).get(name) != value]
    if options.budget is not None and options.budget.limits != request.get("budget"):
        late.append(f"a budget of {options.budget}")
    if options.max_gpus is not None and options.max_gpus != request.get("max_gpus"):
        late.append(f"--max-gpus {options.max_gpus:g}")
    if options.keep_going and not request.get("keep_going"):
        late.append("--keep-going")
    if late:
        has_ended = read_run_status(shell.workspace.store, run).state in FINAL_STATES
        first = "" if has_ended else f"orchestrator cancel {run}, then "
        key = " with another --idempotency-key" if asked.idempotency_key else ""
        shell.insist(
            f"note: without {', '.join(late)}: a run keeps what it was begun with",
            f"   next: {first}the same submit{key}: it goes on where that run stopped",
        )
