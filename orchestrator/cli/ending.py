"""What `submit` says when a run has ended: how, what came out, what failed and why, and the commands to type next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from orchestrator import api
from orchestrator.cli.shell import Shell
from orchestrator.report.result_table import Result, result_documents, result_lines
from orchestrator.report.run_lines import MAX_FAILURES_IN_FULL, end_line, failure_lines
from orchestrator.report.run_status import submit_command


def tell_end(shell: Shell, plan: api.Plan, result: api.RunResult, *, results: Sequence[Result], exit_code: int) -> None:
    """The end of a run that had work to do."""
    status = result.status
    if shell.as_json:
        shell.json_line(
            {
                "type": "end",
                "run": result.run,
                "state": result.state.value,
                "exit_code": exit_code,
                "seconds": status.seconds,
                "results": result_documents(results),
            }
        )
        return
    failed = [node for node in status.nodes.values() if node.state == "failed"]
    for node in failed[:MAX_FAILURES_IN_FULL]:
        if shell.verbose and node.trace:
            shell.insist(*node.trace.rstrip().splitlines())
        planned = plan.nodes.get(node.label)
        shell.insist(*failure_lines(node, run=status, ledger=shell.workspace.ledger, planned=planned, style=shell.err_style))
    if len(failed) > MAX_FAILURES_IN_FULL:
        shell.insist(f"   and {len(failed) - MAX_FAILURES_IN_FULL} more failed")
    shell.say(end_line(status, style=shell.err_style))
    if results:
        shell.data(result_lines(results, style=shell.style, width=shell.width))
    again = submit_command(status.request)
    if result.state is api.State.CANCELLED:
        shell.insist("   stopped early; what was finished or saved is kept, and the same command goes on", f"   next: {again}")
    elif failed:
        shell.insist("   what was finished is kept; when the cause is mended, the same command goes on", f"   next: {again}")
    else:
        shell.say(*_next_commands(shell, plan, result, results))


def _plan_words(plan: api.Plan) -> str:
    loaded = plan.checked.loaded
    return shlex.join(["plan", loaded.file, *(word for override in loaded.overrides for word in ("--set", override))])


def _next_commands(shell: Shell, plan: api.Plan, result: api.RunResult, results: Sequence[Result]) -> list[str]:
    """Commands to copy; what each does is said where the terminal has room for it."""
    last = list(plan.nodes.values())[-1]
    files = next((node for node in reversed(list(plan.nodes.values())) if node.spec.output == "exported"), last)
    key = (results[0].record.key if results else last.key)[:8]
    commands = [
        (f"status {result.run}", "this run, node by node"),
        (f"logs {result.run}", "what its stages printed"),
        (f"show {key}", "one artifact: settings, metrics, files"),
        (f"artifacts get {files.key[:8]} ./out", "copy an artifact's files out"),
        (f"{_plan_words(plan)} --why {last.node}", "why a node would run or not"),
    ]
    width = max(len(command) for command, _ in commands)
    lines = [f"   {shell.program} {command:<{width}}  {what}" for command, what in commands]
    if shell.err_width is not None and max(map(len, lines)) > shell.err_width:
        lines = [f"   {shell.program} {command}" for command, _ in commands]
    return [f"files are in {shell.place()}; next:", *lines]
