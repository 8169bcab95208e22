"""What happens in a run, one line for each event; and what is left to say when it has ended."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.report.run_status import NodeStatus, RunStatus
from orchestrator.report.run_sweeps import RunSweep
from orchestrator.report.status_table import counts_text, run_word
from orchestrator.report.sweep_table import metrics_text, values_text
from orchestrator.report.text import Style, format_bytes, format_seconds, format_value, printable, shorten, state_word
from orchestrator.store.artifacts import Artifacts, checkpoint_workspace
from orchestrator.store.ledger import Ledger
from orchestrator.workflow.plan import PlanNode
from orchestrator.workflow.trials import trial_name
from stages.contract import Checkpoints

TAIL_LINES = 20
MAX_FAILURES_IN_FULL = 3
_PLACE = re.compile(r'File "([^"]+)", line ([0-9]+)')

_SHORT = {
    "top1_accuracy": "top1",
    "num_nonzero_parameters": "non-zero",
    "max_abs_difference": "largest difference of a logit",
    "num_violating_blocks": "blocks beyond N:M",
    "value": "value",
}
"""The metrics that a finished node's line shows, and how it calls them."""

Event = Mapping[str, Any]


def event_line(event: Event, *, style: Style, sweep: RunSweep | None = None) -> str:  # noqa: PLR0912 - one case for each kind
    """One event as a line that begins with its status word; empty for events that say nothing new to a person."""
    kind, label = event["type"], event.get("node", "")
    match kind:
        case "trial_ended" if event.get("known"):
            return ""  # `sweep_started` has told how many ended in earlier runs
        case "sweep_started" | "sweep_settled" | "sweep_failed" | "sweep_blocked" | "trial_started" | "trial_ended":
            return _sweep_line(event, style, sweep)
        case "node_started":
            again = f", attempt {event['attempt']}" if event["attempt"] > 1 else ""
            return f"{style.word('RUN')}  {label}  started{again}"
        case "node_waiting":
            return f"{style.word('WAIT')}  {label}  run {event['holder']} is making it"
        case "node_done":
            return _done_line(event, label, style)
        case "attempt_failed" if event.get("will_retry"):
            delay = f" in {format_seconds(event['delay_s'])}" if event.get("delay_s") else ""
            again = f"; again{delay}{_note(event)}"
            return f"{style.word('RETRY')}  {label}  attempt {event['attempt']}: {_first_line(event['error'])}{again}"
        case "node_failed":
            return f"{style.word('FAIL')}  {label}  attempt {event['attempt']}: {_sentence(event)}{_note(event)}"
        case "node_skipped" | "node_blocked":
            why = event["why"] if kind == "node_skipped" else f"needs {event['by']}, which failed"
            return f"{style.word('SKIP')}  {label}  {why}"
        case "node_cancelled":
            return f"{style.word('CANCEL')}  {label}  stopped; what it had saved is kept"
        case "cancel_asked":
            return f"{style.word('CANCEL')}  {event['name']}  asked to stop, with what needs it; the rest goes on"
        case "dashboard_ready":
            token = f"   token: {event['token_file']}" if event["token_file"] else ""
            return f"dashboard of Ray: {event['url']}{token}"
        case "budget_reached":
            return f"{style.word('CANCEL')}  the budget is spent ({event['over']}): what runs may end, nothing more is started"
        case "run_stopping":
            return "stopping: running stages were asked to save and stop (Ctrl-C again: at once)"
    return ""


def end_line(status: RunStatus, *, style: Style) -> str:
    """How the whole run ended, in one line."""
    word = style.word(run_word(status.state))
    return f"{word}  run {status.id} {status.state} after {format_seconds(status.seconds)}: {counts_text(status)}"


def failure_lines(node: NodeStatus, *, run: RunStatus, ledger: Ledger, planned: PlanNode | None, style: Style) -> list[str]:
    """A failed node: its error, the end of its log, what is kept, and how to go on."""
    log = ledger.read_log(run.id, node.folder, node.attempt).decode("utf-8", "replace").splitlines()
    lines = [f"{style.word('FAIL')}  {node.label}, attempt {node.attempt}{_of_attempts(node, planned)}", f"   {_error(node)}"]
    places = _PLACE.findall(node.trace)
    if places:
        lines.append(f"   at {places[-1][0]}:{places[-1][1]}")
    if log:
        lines.append(f"   last {min(len(log), TAIL_LINES)} of {len(log)} log lines:")
        lines += [f"   | {printable(line.expandtabs(4))}" for line in log[-TAIL_LINES:]]
    else:
        lines.append("   it printed nothing")
    step = _kept_step(ledger, node)
    if step is not None:
        lines.append(f"   kept: its state at step {step}; the next attempt goes on from there")
    lines.append(f"   next: orchestrator logs {run.id} {_quoted(node.label)}    (all it printed)")
    return lines


def artifact_count_line(artifacts: Artifacts, place: str, made: Sequence[PlanNode]) -> str:
    """Where the files are, and how many bytes this run's nodes hold."""
    sizes = [record.size_bytes for node in made if (record := artifacts.find(node.spec.name, node.key)) is not None]
    return f"files: {format_bytes(sum(sizes))} in {len(sizes)} artifacts, store {place}"


def _sweep_line(event: Event, style: Style, sweep: RunSweep | None) -> str:
    """What happened to a sweep or to one of its trials; failures are told with their reason."""
    name = event["sweep"]
    match event["type"]:
        case "sweep_started":
            number = f"{event['trials']} trials" if event["trials"] is not None else "the whole grid"
            known = f", {event['known']} of them ended by earlier runs" if event.get("known") else ""
            if event["trials"] is not None and event.get("known", 0) >= event["trials"]:
                known = f": {event['known']} were ended by earlier searches; raise trials to try more"
            return f"{style.word('SEARCH')}  {name}  {number}{known}"
        case "sweep_settled":
            return f"{style.word('DONE')}  {name}  {printable(event['verdict'])}"
        case "sweep_failed":
            return f"{style.word('FAIL')}  {name}  {_first_line(event['error'])}"
        case "sweep_blocked":
            return f"{style.word('SKIP')}  {name}  needs {event['by']}, which did not finish"
        case "trial_started":
            parent = "" if event.get("parent") is None else f"from {trial_name(event['parent'])}: "
            return f"{style.word('RUN')}  {event['trial']}  {parent}{values_text(event['values'])}"
    word = style.word(state_word(event["state"]))
    if event["state"] == "failed":
        return f"{word}  {event['trial']}  {_first_line(event['error'])}"
    metrics = event["metrics"]
    names = sweep.objectives if sweep is not None else metrics
    text = metrics_text({metric: metrics.get(metric) for metric in names})
    off = f"; {printable('; '.join(event['violated']))}" if event.get("violated") else ""
    if event["state"] == "stopped":
        text = f"stopped early, {text}" if text else "stopped early"
    leads = sweep is not None and sweep.leader is not None and sweep.leader.number == event["number"]
    return f"{word}  {event['trial']}  {text}{off}{' (best so far)' if leads else ''}"


def is_quiet(event: Event, nodes: Mapping[str, NodeStatus]) -> bool:
    """Whether an event is of a node of a trial: there may be thousands, and the trial's own lines tell the same."""
    node = nodes.get(event.get("node", ""))
    return node is not None and node.is_of_trial


def _done_line(event: Event, label: str, style: Style) -> str:
    is_shared = event["ending"] == "shared"
    metrics = event.get("metrics", {})
    shown = [f"{_SHORT[name]} {_number(metrics[name])}" for name in _SHORT if metrics.get(name) is not None]
    parts = ["made by another node or run" if is_shared else format_seconds(event["seconds"]), *shown]
    resumed = event.get("resumed", {})
    if "step" in resumed:
        where = f" (saved on {printable(resumed['host'])})" if resumed.get("from") == "store" else ""
        parts.append(f"went on from step {resumed['step']}{where}")
    if event.get("size_bytes"):
        parts.append(format_bytes(event["size_bytes"]))
    return f"{style.word('SHARED' if is_shared else 'DONE')}  {label}  {', '.join(parts)}"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else shorten(format_value(value), 40)


def _note(event: Event) -> str:
    """What the engine changes for the next attempt, or why there is none."""
    return f"; {event['note']}" if event.get("note") else ""


def _sentence(event: Event) -> str:
    """The error with its class, where the stage raised it; what the engine found speaks for itself."""
    kind = event["error_type"] if event["ending"] in ("failed", "no_memory") else ""
    text = _first_line(event["error"])
    return text if not kind or kind in text else f"{kind}: {text}"


def _error(node: NodeStatus) -> str:
    return _sentence({"error": node.error, "error_type": node.error_type, "ending": node.ending})


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return printable(lines[0]) if lines else ""


def _of_attempts(node: NodeStatus, planned: PlanNode | None) -> str:
    """An error of the stage is tried again only where the node asks for it; a lost process always is."""
    if planned is None:
        return ""
    retry = planned.asked.retry
    if node.ending == "failed" and not retry.on_error:
        return " (an error of the stage is not tried again)"
    if node.attempt > retry.attempts:  # some were preempted, which does not count
        return f" ({retry.attempts} count)"
    return f" of {retry.attempts}"


def _kept_step(ledger: Ledger, node: NodeStatus) -> int | None:
    latest = Checkpoints(ledger.store.workspace(checkpoint_workspace(node.key), make=False)).latest()
    return latest[0] if latest else None


def _quoted(label: str) -> str:
    """A label as a word of the shell: brackets are patterns there."""
    return shlex.quote(label)
