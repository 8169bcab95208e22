"""Sweeps with all that is known of them: the run's events, the workflow text it was asked for, records, the settled result.

Works while a sweep runs (its trials so far) and long after (its artifact); reads the store only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from orchestrator.errors import OrchestratorError, UsageError
from orchestrator.report.run_status import NodeStatus, RunStatus
from orchestrator.report.run_sweeps import RUNNING, RunSweep, RunTrial, first_place, sweep_nodes_asked, sweeps_asked
from orchestrator.store.artifacts import Artifacts, Record
from orchestrator.store.ledger import Ledger
from orchestrator.workflow.references import parse_reference, split_metric
from orchestrator.workflow.settled import read_result
from orchestrator.workflow.sweep_result import SWEEP_STAGE, SweepResult, TrialRecord
from orchestrator.workflow.trials import trial_label
from stages.catalog import find_stage

if TYPE_CHECKING:
    from orchestrator.workflow.sweep_spec import Sweep, SweepNode


@dataclass(frozen=True, kw_only=True)
class FoundSweep:
    """One sweep of one run.

    Attributes:
        run, name: where it is.
        sweep: what the run's events tell of it; for one that was settled before, what its artifact tells.
        trials: all that are known, by number, with every metric that their nodes have reported; running ones among them.
        result: how it ended; None while it is searched, or where its artifact is gone or was superseded.
        settings: what the workflow asks for; None where its text cannot be read any more.
        parts: stage of each node of a trial, in the order of the workflow.
        baselines: "node.metric" of all metrics of the nodes outside that its nodes and constraints refer to.
        was_settled_before: whether this run found it settled and searched nothing.
    """

    run: str
    name: str
    sweep: RunSweep
    trials: Sequence[TrialRecord]
    result: SweepResult | None
    settings: Sweep | None
    parts: Mapping[str, str] = field(default_factory=dict)
    baselines: Mapping[str, Any] = field(default_factory=dict)
    was_settled_before: bool = False

    @property
    def objectives(self) -> Mapping[str, str]:
        """Direction of each objective, the first leading."""
        return self.sweep.objectives

    @property
    def space(self) -> list[str]:
        """Names of the searched parameters, in the order of the workflow."""
        return list(self.settings.space) if self.settings is not None else []

    def values_of(self, trial: TrialRecord) -> dict[str, Any]:
        """A trial's values in the order of the workflow."""
        return {name: trial.values[name] for name in [*self.space, *trial.values] if name in trial.values}

    @property
    def is_settled(self) -> bool:
        """Whether its search has ended with a verdict."""
        return self.sweep.state == "settled"

    @cached_property
    def so_far(self) -> SweepResult | None:
        """Its result; of one that has not settled, what it would be if it ended now. None where that cannot be said."""
        if self.result is not None:
            return self.result
        if self.settings is None:
            return None
        from orchestrator.sweeps.choice import choose

        ended = [trial for trial in self.trials if trial.state in ("done", "stopped", "failed", "infeasible")]
        return choose(self.settings, ended, baselines=self.baselines)

    def trial(self, number: int) -> TrialRecord:
        """The trial with this number."""
        return next(trial for trial in self.trials if trial.number == number)

    def label(self, number: int) -> str:
        """A trial as its nodes' labels begin: search/t0007."""
        return trial_label(self.name, number)

    def keys_of(self, trial: TrialRecord) -> dict[str, str]:
        """The keys of a trial's artifacts by node, in the order of the workflow."""
        return {part: trial.keys[part] for part in [*self.parts, *trial.keys] if part in trial.keys}

    def main_part(self, trial: TrialRecord) -> str:
        """The node whose artifact one would take away: the last that exports, else that makes a model, else the last."""
        parts = list(self.keys_of(trial))
        specs = {part: find_stage(self.parts.get(part, "")) for part in parts}
        for outputs in (("exported",), ("model",)):
            found = [part for part, spec in specs.items() if spec is not None and spec.output in outputs]
            if found:
                return found[-1]
        return parts[-1] if parts else ""

    def good_trials(self) -> list[TrialRecord]:
        """Those that were measured and meet the constraints, best first objective first."""
        good = [trial for trial in self.trials if trial.state == "done" and not trial.violated]
        return sorted(good, key=lambda trial: (first_place(trial.metrics, self.objectives), trial.number))


def found_sweeps(status: RunStatus, artifacts: Artifacts) -> list[FoundSweep]:
    """All sweeps of a run that have begun or were settled before, in the order of the workflow."""
    settings = sweep_nodes_asked(status.request)
    before = _settled_before(status, artifacts, [name for name in settings if name not in status.sweeps])
    reader = _Reader(status, artifacts, settings)
    names = dict.fromkeys([*settings, *status.sweeps])
    return [reader.read(name, before.get(name)) for name in names if name in status.sweeps or name in before]


def pick_sweeps(found: Sequence[FoundSweep], status: RunStatus, name: str | None) -> list[FoundSweep]:
    """All of them, or the one with this name or a unique beginning of it; UsageError says what there is."""
    if not found:
        known = sweeps_asked(status.request)
        what = f"its sweep {', '.join(known)} has not begun" if known else "its workflow has no sweep"
        raise UsageError(f"run {status.id} has nothing to show: {what}", next_step=f"orchestrator status {status.id}")
    if name is None:
        return list(found)
    exact = [sweep for sweep in found if sweep.name == name] or [sweep for sweep in found if sweep.name.startswith(name)]
    if len(exact) == 1:
        return exact
    names = ", ".join(sweep.name for sweep in found)
    raise UsageError(
        f'run {status.id} has no sweep "{name}"; it has {names}',
        next_step=f"orchestrator sweep show {status.id} {found[0].name}",
    )


class _Reader:
    """Reads the records that the sweeps of one run need, each once."""

    def __init__(self, status: RunStatus, artifacts: Artifacts, asked: Mapping[str, SweepNode]) -> None:
        self.status = status
        self.artifacts = artifacts
        self.asked = asked

    def read(self, name: str, before: tuple[str, SweepResult] | None) -> FoundSweep:
        sweep = self.status.sweeps.get(name)
        asked = self.asked.get(name)
        settings = asked.sweep if asked is not None else None
        result = before[1] if before is not None else None
        if sweep is not None and sweep.state == "settled":
            record = self.artifacts.find(SWEEP_STAGE, sweep.key)
            result = read_result(record, self.artifacts) if record is not None else None
            if result is not None and result.verdict != sweep.verdict:
                result = None  # a later search, made anew on purpose, stands in its place
        if sweep is None:
            assert before is not None
            sweep = run_sweep(name, before[1], key=before[0])
        if result is not None:  # trials that earlier runs had ended are told by no event of this one
            sweep = replace(sweep, trials=run_sweep(name, result).trials, limit=sweep.limit or len(result.trials))
        sweep = replace(sweep, objectives=_in_asked_order(sweep.objectives or result_objectives(result), settings))
        trials = result.trials if result is not None else [self._trial(sweep, trial) for trial in sweep.trials.values()]
        return FoundSweep(
            run=self.status.id,
            name=name,
            sweep=sweep,
            trials=sorted(trials, key=lambda trial: trial.number),
            result=result,
            settings=settings,
            parts={part: node.stage for part, node in asked.nodes.items()} if asked is not None else {},
            baselines=self._baselines(asked),
            was_settled_before=before is not None,
        )

    def _trial(self, sweep: RunSweep, trial: RunTrial) -> TrialRecord:
        prefix = trial_label(sweep.name, trial.number) + "/"
        nodes = {label.removeprefix(prefix): node for label, node in self.status.nodes.items() if label.startswith(prefix)}
        metrics = dict(trial.metrics)
        if trial.state not in (RUNNING, "infeasible"):
            for part, node in nodes.items():
                metrics |= {f"{part}.{name}": value for name, value in self._metrics(node).items()}
        return TrialRecord(
            number=trial.number, values=trial.values, state=trial.state, metrics=metrics, parent=trial.parent,
            keys={part: node.key for part, node in nodes.items()}, violated=tuple(trial.violated), error=trial.error,
            seconds={node.key: node.seconds for node in nodes.values() if node.seconds},
        )  # fmt: skip

    def _metrics(self, node: NodeStatus) -> Mapping[str, Any]:
        if node.state not in ("hit", "done"):
            return {}
        record = self.artifacts.find(node.stage, node.key)
        return {**record.metrics, **record.measurements} if record is not None else node.metrics

    def _baselines(self, asked: SweepNode | None) -> dict[str, Any]:
        if asked is None:
            return {}
        references = [split_metric(constraint.versus)[0] for constraint in asked.sweep.constraints if constraint.versus]
        for node in asked.nodes.values():
            references += [text for value in node.inputs.values() for text in ([value] if isinstance(value, str) else value)]
        found: dict[str, Any] = {}
        for reference in dict.fromkeys(str(parse_reference(text)) for text in references):
            outer = self.status.nodes.get(self._label(reference))
            if outer is not None and reference.partition(".")[0] not in asked.nodes:
                found |= {f"{reference}.{name}": value for name, value in self._metrics(outer).items()}
        return found

    def _label(self, reference: str) -> str:
        """The node's label of "base" or "search.best.tune"."""
        sweep, _, rest = reference.partition(".best.")
        best = self.status.sweeps[sweep].best if rest and sweep in self.status.sweeps else None
        return f"{trial_label(sweep, best)}/{rest}" if best is not None else reference


def run_sweep(name: str, result: SweepResult, *, key: str = "") -> RunSweep:
    """A settled sweep as a run's events would have told it."""
    trials = {
        trial.number: RunTrial(
            trial.number, trial_label(name, trial.number), trial.values, trial.state, trial.parent, trial.metrics,
            trial.violated, trial.error,
        )
        for trial in result.trials
    }  # fmt: skip
    return RunSweep(
        name, "settled", key, limit=len(trials), objectives=result.objectives, trials=trials, best=result.best,
        front=result.front, verdict=result.verdict, spent_s=result.spent_s, avoided_s=result.avoided_s,
    )  # fmt: skip


def result_of(record: Record, artifacts: Artifacts) -> FoundSweep | None:
    """A sweep's artifact by itself; None where its file is damaged."""
    result = read_result(record, artifacts)
    if result is None:
        return None
    try:
        asked = sweeps_asked(Ledger(artifacts.store).request(record.run).content)
    except UsageError:  # the run is of another store
        asked = {}
    sweep = run_sweep(record.label, result, key=record.key)
    sweep.objectives = _in_asked_order(result.objectives, asked.get(record.label))
    return FoundSweep(run=record.run, name=record.label, sweep=sweep, trials=result.trials, result=result, settings=None)


def result_objectives(result: SweepResult | None) -> Mapping[str, str]:
    """The objectives that a result keeps."""
    return result.objectives if result is not None else {}


def _in_asked_order(objectives: Mapping[str, str], settings: Sweep | None) -> dict[str, str]:
    """The first objective leads, and files of sorted names do not keep which one that is."""
    asked: dict[str, str] = dict(settings.objectives) if settings is not None else {}
    return asked if asked.keys() == objectives.keys() else dict(objectives)


def _settled_before(status: RunStatus, artifacts: Artifacts, names: Sequence[str]) -> dict[str, tuple[str, SweepResult]]:
    """Keys and results of sweeps that the run found settled, as a plan finds them now: nothing where versions have changed."""
    request = status.request
    anew = request.get("selection", {}).get("rerun", ())
    names = [name for name in names if name not in anew]
    if not names:
        return {}
    from orchestrator.workflow.check import check_workflow
    from orchestrator.workflow.load import load_text
    from orchestrator.workflow.planning import make_plan

    try:
        plan = make_plan(
            check_workflow(load_text(request["text"], file=status.file, overrides=request["overrides"])), artifacts
        )
    except OrchestratorError:
        return {}
    planned = {name: plan.sweeps[name] for name in names if name in plan.sweeps}
    return {name: (sweep.key, sweep.result) for name, sweep in planned.items() if sweep.result is not None}


def sweeps_of_request(status: RunStatus, name: str | None) -> list[str]:
    """Names of all sweeps that the run's workflow has, or the one with this name or a unique beginning of it."""
    known = list(dict.fromkeys([*sweeps_asked(status.request), *status.sweeps]))
    if not known:
        raise UsageError(f"the workflow of run {status.id} has no sweep", next_step=f"orchestrator status {status.id}")
    if name is None:
        return known
    found = [name] if name in known else [each for each in known if each.startswith(name)]
    if len(found) != 1:
        raise UsageError(
            f'run {status.id} has no sweep "{name}"; it has {", ".join(known)}', next_step=f"orchestrator status {status.id}"
        )
    return found
