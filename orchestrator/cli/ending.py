"""What `submit` says when a run has ended: how, what came out, what failed and why, and the commands to type next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator import api
from orchestrator.cli.shell import Shell
from orchestrator.report.found_sweeps import FoundSweep, found_sweeps
from orchestrator.report.plan_table import drift_lines
from orchestrator.report.result_table import Result, result_documents, result_lines
from orchestrator.report.run_lines import MAX_FAILURES_IN_FULL, end_line, failure_lines
from orchestrator.report.run_results import results_of
from orchestrator.report.run_status import NodeStatus, again_command
from orchestrator.report.text import plural, printable
from orchestrator.workflow.trials import trial_name


def tell_end(shell: Shell, plan: api.Plan, result: api.RunResult, *, exit_code: int) -> None:
    """The end of a run that had work to do."""
    status = result.status
    sweeps = found_sweeps(status, shell.workspace.artifacts) if plan.checked.sweeps else []
    results = results_of(status, shell.workspace.artifacts, sweeps)
    if shell.as_json:
        shell.json_line(_end_document(result, results, sweeps, exit_code=exit_code))
        return
    failed = [node for node in status.nodes.values() if node.state == "failed" and not node.is_of_trial]
    for node in failed[:MAX_FAILURES_IN_FULL]:
        _tell_failure(shell, plan, status, node)
    if len(failed) > MAX_FAILURES_IN_FULL:
        shell.insist(f"   and {len(failed) - MAX_FAILURES_IN_FULL} more failed")
    _tell_failed_sweeps(shell, plan, status)
    shell.insist(*(f"caution: {why}" for why in result.not_told))
    shell.say(end_line(status, style=shell.err_style))
    tell_sweeps(shell, status, sweeps, unmet=result.unmet)
    if results:
        shell.data(result_lines(results, style=shell.style, width=shell.width))
    again = again_command(status)
    if result.state is api.State.CANCELLED:
        shell.insist("   stopped early; what was finished or saved is kept, and the same command goes on", f"   next: {again}")
    elif result.state is api.State.FAILED:
        shell.insist("   what was finished is kept; when the cause is mended, the same command goes on", f"   next: {again}")
    elif not result.unmet:
        shell.say(*_next_commands(shell, status, results, sweeps))


def tell_nothing_to_do(shell: Shell, plan: api.Plan, result: api.RunResult, *, exit_code: int) -> None:
    """The end of a run in which everything was there."""
    status = result.status
    sweeps = found_sweeps(status, shell.workspace.artifacts) if plan.checked.sweeps else []
    results = results_of(status, shell.workspace.artifacts, sweeps)
    if shell.as_json:
        shell.json_line(_end_document(result, results, sweeps, exit_code=exit_code))
        return
    hits, skips = len(plan.with_status(api.Status.HIT)), len(plan.with_status(api.Status.SKIP))
    skipped = f", {skips} skipped by their conditions" if skips else ""
    skipped += f", {len(plan.skipped)} skipped for want of a best trial" if plan.skipped else ""
    shell.insist(*(f"caution: {why}" for why in result.not_told))
    which = f"all {plural(hits, 'node')} are finished" if hits != 1 else "its one node is finished"
    if sweeps:
        which = f"{plural(hits, 'node')} finished, {plural(len(sweeps), 'sweep')} settled"
    shell.say(f"nothing to do: {which}{skipped} (run {result.run})", *drift_lines(plan, style=shell.err_style))
    tell_sweeps(shell, status, sweeps, unmet=result.unmet)
    shell.data(result_lines(results, style=shell.style, width=shell.width))


def tell_sweeps(shell: Shell, status: api.RunStatus, sweeps: Sequence[FoundSweep], *, unmet: Mapping[str, str]) -> None:
    """Of each sweep that has settled: which trial is best or what was nearest, and what the search cost."""
    from orchestrator.report.best import find_best, warning_lines
    from orchestrator.report.sweep_table import cost_text, ending_lines, titled_lines, values_text

    style, width = shell.err_style, shell.err_width
    for found in sweeps:
        sweep = found.sweep
        if found.name in unmet:
            lines = titled_lines("FAIL", f"sweep {found.name}: {unmet[found.name]}", width=width)
            shell.insist(*lines, f"   next: orchestrator sweep show {status.id} {found.name}")
            shell.say(f"sweep {found.name}  {cost_text(sweep.spent_s, sweep.avoided_s)}")
        elif sweep.state == "settled" and sweep.best is not None:
            values = values_text(found.values_of(found.trial(sweep.best)))
            shell.say(f"sweep {style.paint(found.name, 'bold')}  best {found.label(sweep.best)}: {values}")
            shell.say(*ending_lines(sweep, style=style, width=width))
            if found.result is not None:
                shell.insist(*warning_lines(find_best(found, status, shell.workspace.artifacts), style=style, width=width))


def _tell_failure(shell: Shell, plan: api.Plan, status: api.RunStatus, node: NodeStatus) -> None:
    if shell.verbose and node.trace:
        shell.insist(*node.trace.rstrip().splitlines())
    planned = plan.nodes.get(node.label)
    shell.insist(*failure_lines(node, run=status, ledger=shell.workspace.ledger, planned=planned, style=shell.err_style))


def _tell_failed_sweeps(shell: Shell, plan: api.Plan, status: api.RunStatus) -> None:
    """Why a search was given up, with the last trial that failed; one that settled in spite of failures says how many."""
    for sweep in status.sweeps.values():
        if sweep.state == "failed":
            nodes = [
                node for node in status.nodes.values() if node.state == "failed" and node.node.startswith(f"{sweep.name}.")
            ]
            if nodes:
                _tell_failure(shell, plan, status, max(nodes, key=lambda node: node.ended))
            shell.insist(f"{shell.err_style.word('FAIL')}  sweep {sweep.name}: {printable(sweep.error)}")
            shell.insist(f"   next: orchestrator sweep show {status.id} {sweep.name}    (all trials and their errors)")
        elif sweep.count("failed"):
            lost = [trial for trial in sweep.trials.values() if trial.state == "failed"]
            shell.insist(
                f"{shell.err_style.paint('note', 'warn')}    sweep {sweep.name}: {plural(len(lost), 'trial')} failed; "
                f"the last, {trial_name(lost[-1].number)}: {printable(lost[-1].error.strip().splitlines()[0])}",
                f"   next: orchestrator logs {status.id} {lost[-1].label}",
            )


def _end_document(
    result: api.RunResult, results: Sequence[Result], sweeps: Sequence[FoundSweep], *, exit_code: int
) -> dict[str, Any]:
    from orchestrator.report.sweep_table import sweep_document

    return {
        "type": "end",
        "run": result.run,
        "state": result.state.value,
        "exit_code": exit_code,
        "seconds": result.status.seconds,
        "results": result_documents(results),
        "unmet": dict(result.unmet),
        "not_told": list(result.not_told),
        "sweeps": [{name: value for name, value in sweep_document(found).items() if name != "trials"} for found in sweeps],
    }


def _next_commands(shell: Shell, status: api.RunStatus, results: Sequence[Result], sweeps: Sequence[FoundSweep]) -> list[str]:
    """Commands to copy; what each does is said where the terminal has room for it."""
    from stages.catalog import find_stage

    plain = [node for node in status.nodes.values() if not node.is_of_trial and node.state in ("hit", "done")]
    last = plain[-1] if plain else list(status.nodes.values())[-1]
    exported = [node for node in plain if (spec := find_stage(node.stage)) is not None and spec.output == "exported"]
    winners = [(found, found.trial(found.sweep.best)) for found in sweeps if found.sweep.best is not None]
    best_key = next((found.keys_of(trial).get(found.main_part(trial), "") for found, trial in winners), "")
    files = exported[-1].key if exported else best_key or last.key
    key = (results[0].record.key if results else files if best_key else last.key)[:8]
    commands = [
        (f"status {status.id}", "this run, node by node"),
        *([(f"best {status.id}", "the best trial: values, intervals, files")] if sweeps else []),
        *([(f"pareto {status.id} --plot front.html", "the front as a picture")] if sweeps else []),
        (f"report {status.id}", "all of it as one HTML page"),
        (f"logs {status.id}", "what its stages printed"),
        (f"show {key}", "one artifact: settings, metrics, files"),
        (f"artifacts get {files[:8]} ./out", "copy an artifact's files out"),
    ]
    width = max(len(command) for command, _ in commands)
    lines = [f"   {shell.program} {command:<{width}}  {what}" for command, what in commands]
    if shell.err_width is not None and max(map(len, lines)) > shell.err_width:
        lines = [f"   {shell.program} {command}" for command, _ in commands]
    return [f"files are in {shell.place()}; next:", *lines]
