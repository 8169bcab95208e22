"""Which trial of a sweep is best and how sure that is: values, objectives with intervals, constraints, what to beware of."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.report.directions import better
from orchestrator.report.found_sweeps import FoundSweep
from orchestrator.report.run_status import RunStatus
from orchestrator.report.sweep_table import headline, titled_lines, trial_document, trial_lines, values_text
from orchestrator.report.text import Style, format_figure, short_names
from orchestrator.store.artifacts import Artifacts, Record
from orchestrator.sweeps.constraints import number as finite
from orchestrator.workflow.references import split_metric
from orchestrator.workflow.sweep_result import TrialRecord
from orchestrator.workflow.trials import trial_name
from stages.evaluate.statistics import wilson_interval

DIRECTIONS = ("maximize", "minimize")


@dataclass(frozen=True, kw_only=True)
class Warned:
    """An evaluation that found a result no saving: where, and its figures."""

    label: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Best:
    """What is said of one sweep.

    Attributes:
        winner: None where no trial was good enough; `why` says so then, with the nearest.
        ranking: all that are good enough, best first, by the sweep's own rule for the first and by the metric for the others.
        metric, direction: by which they are ranked.
        warned: why the winner is no saving; empty where it is one or where nothing was compared.
    """

    found: FoundSweep
    winner: TrialRecord | None
    ranking: Sequence[TrialRecord]
    metric: str
    direction: str
    is_own_rule: bool
    why: str
    warned: Sequence[Warned] = ()
    saving: TrialRecord | None = None


def find_best(found: FoundSweep, status: RunStatus, artifacts: Artifacts, *, metric: str | None = None) -> Best:
    """The winner of a sweep, or of one that has not settled the best so far; by its own rule or by another metric."""
    good = found.good_trials()
    name, direction = _ranked_by(found, good, metric)
    measured = [trial for trial in good if finite(trial.metrics.get(name)) is not None]
    sign = -1 if direction == "maximize" else 1
    ranking = sorted(measured, key=lambda trial: (sign * (finite(trial.metrics.get(name)) or 0.0), trial.number))
    result = found.so_far
    winner = ranking[0] if ranking else None
    if metric is None and (found.is_settled or result is not None):
        number = found.sweep.best if found.is_settled or result is None else result.best
        winner = found.trial(number) if number is not None else None
        ranking = [*([winner] if winner is not None else []), *(trial for trial in ranking if trial != winner)]
    verdict = found.sweep.verdict or (result.verdict if result is not None else "")
    why = "" if winner is not None else verdict or "no trial meets the constraints"
    judge = _SavingJudge(found, status, artifacts)
    warned = judge.warned(winner) if winner is not None else []
    return Best(
        found=found, winner=winner, ranking=ranking, metric=name, direction=direction, is_own_rule=metric is None, why=why,
        warned=warned, saving=next((trial for trial in ranking if not judge.warned(trial)), None) if warned else None,
    )  # fmt: skip


def best_lines(best: Best, *, top: int, style: Style, width: int | None) -> list[str]:
    """What `best` prints of one sweep."""
    found, winner = best.found, best.winner
    lines = [headline(found, style=style)]
    so_far = "" if found.is_settled else " so far"
    if winner is None:
        why = best.why if found.is_settled else f"no trial is good enough so far. {best.why}"
        why = why if found.trials else f"no trial has ended{f': {found.sweep.error}' if found.sweep.error else ''}"
        return [*lines, *titled_lines("FAIL", why, width=width)]
    names = short_names([*found.objectives, *winner.values])
    rule = found.so_far.rule if best.is_own_rule and found.so_far is not None else f"the best {best.metric} ({best.direction})"
    lines.append(f"{style.paint('BEST', 'DONE')}{so_far}  {style.paint(found.label(winner.number), 'bold')}  by {rule}")
    rows = [("values", values_text(found.values_of(winner), names))]
    shown = dict.fromkeys([*([] if best.is_own_rule else [best.metric]), *found.objectives])
    rows += [("", f"{name} {_with_interval(found, winner, name)}") for name in shown]
    rows += [("", text) for text in _constraints(found, winner)]
    rows += [("", tie) for tie in _ties(best)]
    rows.append(("", "artifacts: " + ", ".join(f"{part} {key[:8]}" for part, key in found.keys_of(winner).items())))
    lines += [f"   {line}" for _, text in rows for line in _wrapped(text, width)]
    lines += warning_lines(best, style=style, width=width)
    if best.is_own_rule and found.is_settled:
        lines += titled_lines("verdict", found.sweep.verdict, width=width)
    if top > 1:
        lines += trial_lines(found, best.ranking[:top], style=style, width=width, extra=[best.metric])
    return lines


def copy_command(best: Best) -> str:
    """The command that copies the winner's last artifact out."""
    assert best.winner is not None
    key = best.found.keys_of(best.winner).get(best.found.main_part(best.winner), "")
    return f"orchestrator artifacts get {key[:8]} ./best"


def warning_lines(best: Best, *, style: Style, width: int | None) -> list[str]:
    """A best trial that saves nothing is never shown without these lines."""
    if best.winner is None or not best.warned:
        return []
    name = trial_name(best.winner.number)
    word = style.paint("WARN", "warn")
    lines = [f"{word}  {name} IS NEITHER SMALLER NOR FASTER THAN ITS BASELINE: compressing it has gained nothing"]
    lines += [f"      {each.text} ({each.label})" for each in best.warned]
    if best.saving is not None:
        values = values_text(best.found.values_of(best.saving))
        lines += [f"      {line}" for line in _wrapped(f"the next that is: {trial_name(best.saving.number)}, {values}", width)]
    elif len(best.ranking) > 1:
        lines.append("      nor is any other trial that meets the constraints")
    return lines


def best_document(best: Best, *, top: int) -> dict[str, Any]:
    """The same as data."""
    found, winner = best.found, best.winner
    document: dict[str, Any] = {
        "sweep": found.name,
        "run": found.run,
        "state": found.sweep.state,
        "is_settled": found.is_settled,
        "metric": best.metric,
        "direction": best.direction,
        "verdict": found.sweep.verdict,
        "why_none": best.why,
        "best": None,
        "top": [trial_document(found, trial) for trial in best.ranking[:top]],
    }
    if winner is not None:
        document["best"] = {
            **trial_document(found, winner),
            "intervals": {name: interval for name in found.objectives if (interval := _interval(found, winner, name))},
            "constraints": _constraints(found, winner),
            "ties": list(found.result.ties) if found.result is not None else [],
            "neither_smaller_nor_faster": bool(best.warned),
            "warnings": [each.text for each in best.warned],
            "next": copy_command(best),
        }
    return document


def _ranked_by(found: FoundSweep, good: Sequence[TrialRecord], metric: str | None) -> tuple[str, str]:
    """The metric and its direction; "node.metric:minimize" says it where the name does not."""
    if metric is None:
        select = found.settings.select.metric if found.settings is not None and found.settings.select.rule == "best" else ""
        first = next(iter(found.objectives), "")
        name = select or first
        return name, found.objectives.get(name) or better(name) or found.objectives.get(first, "maximize")
    name, _, asked = metric.rpartition(":") if metric.endswith(DIRECTIONS) else (metric, "", "")
    known = dict.fromkeys(key for trial in good for key, value in trial.metrics.items() if finite(value) is not None)
    if good and name not in known:
        near = difflib.get_close_matches(name, known, n=1) or [key for key in known if key.endswith(f".{name}")][:1]
        hint = f'; did you mean "{near[0]}"?' if near else f"; they report {', '.join(list(known)[:12])}"
        raise UsageError(
            f'no trial of sweep {found.name} reports "{name}" (NODE.METRIC){hint}',
            next_step=f"orchestrator best {found.run} --metric {near[0] if near else 'NODE.METRIC'}",
        )
    direction = asked or found.objectives.get(name) or better(name)
    if direction is None:
        raise UsageError(
            f"whether more or less of {name} is better is not known", next_step=f"--metric {name}:maximize, or {name}:minimize"
        )
    return name, direction


def _interval(found: FoundSweep, trial: TrialRecord, name: str) -> dict[str, Any] | None:
    """Of further seeds where the trial was a finalist, of the test images where they were counted."""
    repeats = found.result.repeats.get(trial.number, ()) if found.result is not None else ()
    figures = [value for each in repeats if (value := finite(each.get(name))) is not None]
    if len(figures) > 1:
        from orchestrator.sweeps.choice import interval

        own = interval(figures)
        half = own.half_width or 0.0
        if half < 1e-9 * abs(own.mean):  # of what every seed has alike, such as a size
            return None
        return {"of": "seeds", "mean": own.mean, "low": own.mean - half, "high": own.mean + half, "count": own.count}
    node, metric = split_metric(name)
    counts = trial.metrics.get(f"{node}.num_correct"), trial.metrics.get(f"{node}.num_test")
    if metric == "top1_accuracy" and isinstance(counts[0], int) and isinstance(counts[1], int) and counts[1] > 0:
        low, high = wilson_interval(counts[0], counts[1])
        return {"of": "images", "low": low, "high": high, "count": counts[1]}
    return None


def _with_interval(found: FoundSweep, trial: TrialRecord, name: str) -> str:
    text = format_figure(trial.metrics.get(name))
    interval = _interval(found, trial, name)
    if interval is None:
        return text
    bounds = f"{interval['low']:.4g} to {interval['high']:.4g}"
    if interval["of"] == "images":
        return f"{text} (95%: {bounds}, of {interval['count']:,} test images, one seed)"
    return f"{text}; {format_figure(interval['mean'])} (95%: {bounds}) over {interval['count']} further seeds"


def _constraints(found: FoundSweep, trial: TrialRecord) -> list[str]:
    if found.settings is None:
        return []
    from orchestrator.sweeps.scores import Scores

    judged = Scores(found.settings, found.baselines).judgements(trial.metrics)
    return [f"constraint {'met' if each.is_met else 'NOT MET'}: {each.text}" for each in judged]


def _ties(best: Best) -> list[str]:
    found = best.found
    ties = found.result.ties if found.result is not None and best.is_own_rule else ()
    if not ties:
        return []
    return [f"tie: the intervals do not tell it from {', '.join(map(trial_name, ties))}"]


def _wrapped(text: str, width: int | None) -> list[str]:
    import textwrap

    return [text] if width is None else textwrap.wrap(text, max(20, width - 6), break_long_words=False, subsequent_indent="   ")


class _SavingJudge:
    """Finds what evaluations say of a trial: those in it, and those of the run that stand on one of its artifacts."""

    def __init__(self, found: FoundSweep, status: RunStatus, artifacts: Artifacts) -> None:
        self.found = found
        self.artifacts = artifacts
        self._stages = {node.key: node.stage for node in status.nodes.values()}
        self._outer = [
            node for node in status.nodes.values()
            if not node.is_of_trial and node.stage.startswith("evaluate.") and node.state in ("hit", "done")
        ]  # fmt: skip
        self._evaluations: list[tuple[str, Record, set[str]]] | None = None

    def warned(self, trial: TrialRecord) -> list[Warned]:
        """Every evaluation that found the trial no saving; none where another one found a saving, of another of its files."""
        parts = {name.partition(".")[0] for name in trial.metrics if name.endswith(".neither_smaller_nor_faster")}
        warned, has_gain = [], False
        for part in sorted(parts):
            values = {name.partition(".")[2]: value for name, value in trial.metrics.items() if name.startswith(f"{part}.")}
            if values["neither_smaller_nor_faster"] is True:
                warned.append(Warned(label=f"{self.found.label(trial.number)}/{part}", text=_ratios(values)))
            has_gain = has_gain or values["neither_smaller_nor_faster"] is False
        keys = set(trial.keys.values())
        for label, record, below in self._outer_evaluations():
            said = record.measurements.get("neither_smaller_nor_faster") if keys & below else None
            if said is True:
                warned.append(Warned(label=label, text=_ratios({**record.metrics, **record.measurements})))
            has_gain = has_gain or said is False
        return [] if has_gain else warned

    def _outer_evaluations(self) -> list[tuple[str, Record, set[str]]]:
        if self._evaluations is None:
            records = [(node.label, self.artifacts.find(node.stage, node.key)) for node in self._outer]
            self._evaluations = [(label, record, self._made_from(record)) for label, record in records if record is not None]
        return self._evaluations

    def _made_from(self, record: Record) -> set[str]:
        """Keys of all that the evaluated model was made from; what the baseline was made from is no matter."""
        found: set[str] = set()
        waiting = [
            key for port, value in record.identity.get("inputs", {}).items() if port != "baseline" for key in _keys(value)
        ]
        while waiting:
            key = waiting.pop()
            if key in found:
                continue
            found.add(key)
            above = self.artifacts.find(self._stages[key], key) if key in self._stages else None
            waiting += [each for value in (above.identity.get("inputs", {}).values() if above else ()) for each in _keys(value)]
        return found


def _keys(value: Any) -> Iterable[str]:
    return [value] if isinstance(value, str) else value


def _ratios(values: Mapping[str, Any]) -> str:
    """As in: stored 1.00x, speed 1.01x at batch size 1."""
    parts = [f"stored {values['size_ratio']:.2f}x"] if finite(values.get("size_ratio")) is not None else []
    speeds = {name.rpartition("_b")[2]: value for name, value in values.items() if name.startswith("latency_ratio_b")}
    parts += [f"speed {ratio:.2f}x at batch size {size}" for size, ratio in speeds.items()]
    return ", ".join(parts) or "by its evaluation"
