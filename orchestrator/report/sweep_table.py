"""Sweeps for reading: the table of trials, one line about the whole, what it cost; and the same as data."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.report.found_sweeps import FoundSweep
from orchestrator.report.run_sweeps import RUNNING, RunSweep, first_place
from orchestrator.report.text import (
    Column,
    Style,
    format_figure,
    format_seconds,
    format_table,
    format_value,
    printable,
    short_names,
    state_word,
)
from orchestrator.workflow.sweep_result import TrialRecord
from orchestrator.workflow.trials import trial_name

MAX_ROWS = 20

_ORDER = (RUNNING, "done", "stopped", "failed", "infeasible")
_BRIEF = {"top1_accuracy": "top1", "num_nonzero_parameters": "non-zero", "num_parameters": "params", "size_bytes": "bytes"}
"""How a metric is called where there is no room for its name."""

_NAMES = {"infeasible": "struck out", "stopped": "stopped early"}


def sweep_lines(
    found: FoundSweep,
    *,
    style: Style,
    width: int | None,
    max_rows: int | None = MAX_ROWS,
    more: str = "",
    reports: Mapping[int, int] | None = None,
) -> list[str]:
    """A headline, the trials, and how it ended. `more` is the command that shows all of them."""
    trials = ordered(found)
    shown = trials if max_rows is None else trials[:max_rows]
    lines = [headline(found, style=style), *trial_lines(found, shown, style=style, width=width, reports=reports)]
    if len(trials) > len(shown):
        lines.append(f"... and {len(trials) - len(shown)} more{f'; next: {more}' if more else ''}")
    return lines + ending_lines(found.sweep, style=style, width=width)


def headline(found: FoundSweep, *, style: Style) -> str:
    """As in: sweep search  searching: 12 of 40 trials, 9 done, 2 running, 1 failed; best so far t0007."""
    sweep = found.sweep
    before = " before this run" if found.was_settled_before and found.settings is not None else ""
    return (
        f"sweep {style.paint(found.name, 'bold')}  {style.paint(sweep.state, state_word(sweep.state))}{before}: {counts(sweep)}"
    )


def counts(sweep: RunSweep) -> str:
    """12 of 40 trials: 9 done, 2 running, 1 failed; best so far t0007, top1_accuracy 0.91."""
    number = len(sweep.trials)
    of_all = f" of {sweep.limit}" if sweep.limit is not None and (number != sweep.limit or sweep.state == "searching") else ""
    states = dict.fromkeys([*_ORDER, *(trial.state for trial in list(sweep.trials.values()))])
    parts = [f"{sweep.count(state)} {_NAMES.get(state, state)}" for state in states if sweep.count(state)]
    noun = "trial" if number == 1 and not of_all else "trials"
    text = f"{number}{of_all} {noun}{': ' if parts else ''}{', '.join(parts)}"
    if sweep.known and sweep.state != "settled" and sweep.known > number:
        text += f"; {sweep.known} were ended by earlier runs"
    leader = sweep.leader
    if leader is None:
        return text
    name = next(iter(sweep.objectives), "")
    figure = f", {name} {format_figure(leader.metrics.get(name))}" if name else ""
    so_far = "" if sweep.state == "settled" else " so far"
    return f"{text}; best{so_far} {trial_name(leader.number)}{figure}"


def ending_lines(sweep: RunSweep, *, style: Style, width: int | None) -> list[str]:
    """The verdict and the cost of a sweep that has settled; why another one has not."""
    if sweep.state == "settled":
        verdict = titled_lines("verdict", sweep.verdict, width=width)
        return [*verdict, *titled_lines("cost", cost_text(sweep.spent_s, sweep.avoided_s), width=width)]
    if sweep.error:
        return [f"{style.paint('error:', 'error')} {printable(sweep.error)}"]
    return []


def titled_lines(title: str, text: str, *, width: int | None) -> list[str]:
    """A word, and beside it as many lines as the text takes."""
    first, *more = textwrap.wrap(printable(text), max(20, width - 10), break_long_words=False) if width else [printable(text)]
    return [f"{title:<8}  {first}", *(f"{'':<10}{line}" for line in more)]


def cost_text(spent_s: float, avoided_s: float) -> str:
    """What the trials cost, and what they would have cost had each made all of its nodes itself."""
    if spent_s + avoided_s <= 0:
        return "the trials cost nothing"
    alone = format_seconds(spent_s + avoided_s)
    if spent_s <= 0:
        return f"trials cost nothing, all their nodes were there; one by one they would have cost {alone}"
    if avoided_s <= 0:
        return f"trials cost {format_seconds(spent_s)}; they had nothing in common"
    factor = (spent_s + avoided_s) / spent_s
    return (
        f"trials cost {format_seconds(spent_s)}; one by one they would have cost {alone}: {factor:.{1 if factor < 10 else 0}f}x"
    )


def values_text(values: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """n_m 2:4, learning_rate 0.0003."""
    names = names or short_names(values)
    return ", ".join(f"{names.get(name, name)} {format_value(value)}" for name, value in values.items())


def metrics_text(metrics: Mapping[str, Any]) -> str:
    """top1_accuracy 0.8844, num_nonzero_parameters 14,666."""
    names = short_names(metrics)
    return ", ".join(f"{names[name]} {format_figure(value)}" for name, value in metrics.items() if value is not None)


def ordered(found: FoundSweep) -> list[TrialRecord]:
    """As a person looks for them: what runs, the best and the front, the other good ones, those off a constraint, the rest."""
    sweep = found.sweep
    leader = sweep.leader
    front = set(sweep.front)

    def place(trial: TrialRecord) -> tuple[Any, ...]:
        state = _ORDER.index(trial.state) if trial.state in _ORDER else len(_ORDER)
        is_best = leader is not None and trial.number == leader.number
        first = first_place(trial.metrics, sweep.objectives)
        return state, not is_best, trial.number not in front, bool(trial.violated), first, trial.number

    return sorted(found.trials, key=place)


def mark(found: FoundSweep, number: int) -> str:
    """best, tie (a finalist that is not told from it), front, off (beyond a constraint); empty for others."""
    sweep = found.sweep
    leader = sweep.leader
    if leader is not None and leader.number == number:
        return "best"
    if found.result is not None and number in found.result.ties:
        return "tie"
    if number in sweep.front:
        return "front"
    return "off" if number in sweep.trials and sweep.trials[number].violated else ""


def trial_lines(
    found: FoundSweep,
    trials: Sequence[TrialRecord],
    *,
    style: Style,
    width: int | None,
    reports: Mapping[int, int] | None = None,
    extra: Sequence[str] = (),
    names: Mapping[int, str] | None = None,
) -> list[str]:
    """A row for each trial: state, name, mark, objectives, values, and what is to be noted. Values share a column if they must.

    `extra` metrics are shown beside the objectives; `names` replace the trials' own.
    """
    if not trials:
        return []
    metrics = list(dict.fromkeys([*extra, *found.objectives]))
    used = dict.fromkeys(name for trial in trials for name in trial.values)
    values = list(dict.fromkeys([*(name for name in found.space if name in used), *used]))
    short = short_names([*metrics, *values])
    fixed = [Column("STATUS", painted=True), Column("TRIAL"), Column("MARK")]
    fixed += [Column("REPORTS", right=True)] if reports else []
    fixed += [Column(short[name], right=True) for name in metrics]
    rows = [
        [
            state_word(trial.state),
            (names or {}).get(trial.number, trial_name(trial.number)),
            mark(found, trial.number),
            *([str(reports.get(trial.number, "-"))] if reports else []),
            *(format_figure(trial.metrics.get(name)) for name in metrics),
        ]
        for trial in trials
    ]
    notes = [_note(trial) for trial in trials]
    apart = [[format_value(trial.values[name]) if name in trial.values else "-" for name in values] for trial in trials]
    columns = [*fixed, *(Column(short[name]) for name in values), Column("NOTE" if any(notes) else "")]
    whole = [[*row, *cells, note] for row, cells, note in zip(rows, apart, notes, strict=True)]
    least = sum(max(len(column.title), *(len(row[place]) for row in whole)) + 2 for place, column in enumerate(columns[:-1]))
    if width is None or least + (12 if any(notes) else 0) <= width:
        return format_table(columns, whole, style=style, width=width)
    columns = [
        *fixed[: len(fixed) - len(metrics)],
        *(Column(_BRIEF.get(name.partition(".")[2], short[name]), right=True) for name in metrics),
    ]
    joined = [
        [*row, "; ".join(part for part in (values_text(found.values_of(trial), short), note) if part)]
        for row, trial, note in zip(rows, trials, notes, strict=True)
    ]
    return format_table([*columns, Column("VALUES")], joined, style=style, width=width)


def _note(trial: TrialRecord) -> str:
    parts = [] if trial.parent is None else [f"from {trial_name(trial.parent)}"]
    parts += [printable(text) for text in trial.violated]
    if trial.error:
        parts.append(printable(trial.error.strip().splitlines()[0]))
    return "; ".join(parts)


def sweep_document(found: FoundSweep, *, reports: Mapping[int, int] | None = None) -> dict[str, Any]:
    """All that is shown of a sweep, as data."""
    sweep = found.sweep
    leader = sweep.leader
    return {
        "sweep": found.name,
        "run": found.run,
        "state": sweep.state,
        "settled_before": found.was_settled_before,
        "key": sweep.key,
        "objectives": dict(found.objectives),
        "limit": sweep.limit,
        "known": sweep.known,
        "counts": {state: sweep.count(state) for state in dict.fromkeys(trial.state for trial in found.trials)},
        "best": leader.number if leader is not None else None,
        "front": list(sweep.front),
        "ties": list(found.result.ties) if found.result is not None else [],
        "verdict": sweep.verdict,
        "error": sweep.error,
        "spent_s": sweep.spent_s,
        "avoided_s": sweep.avoided_s,
        "trials": [trial_document(found, trial, reports=reports) for trial in ordered(found)],
    }


def trial_document(found: FoundSweep, trial: TrialRecord, *, reports: Mapping[int, int] | None = None) -> dict[str, Any]:
    """One trial as data."""
    return {
        "trial": trial.number,
        "label": found.label(trial.number),
        "state": trial.state,
        "mark": mark(found, trial.number),
        "values": dict(trial.values),
        "objectives": {name: trial.metrics.get(name) for name in found.objectives},
        "metrics": dict(trial.metrics),
        "violated": list(trial.violated),
        "error": trial.error,
        "parent": trial.parent,
        "keys": found.keys_of(trial),
        **({"reports": reports.get(trial.number)} if reports else {}),
    }
