"""Sweeps for reading: what the events tell, tables at any width, the best that is no saving, verdicts on two artifacts."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from orchestrator import api
from orchestrator.report.best import best_document, best_lines, copy_command, find_best
from orchestrator.report.comparison import Compared, difference_interval, differing_settings, verdict
from orchestrator.report.directions import better
from orchestrator.report.found_sweeps import FoundSweep, run_sweep
from orchestrator.report.live import LiveBlock
from orchestrator.report.progress import ProgressReader
from orchestrator.report.run_lines import event_line
from orchestrator.report.run_status import RunStatus
from orchestrator.report.sweep_table import cost_text, counts, ordered, sweep_lines
from orchestrator.report.text import Style, short_names
from orchestrator.report.trade_offs import trade_offs
from orchestrator.store.artifacts import Record
from orchestrator.workflow.sweep_result import SweepResult, TrialRecord

OBJECTIVES = {"score.top1_accuracy": "maximize", "score.size_bytes": "minimize"}


def trial(number: int, top1: float | None, size: int = 1000, *, state: str = "done", **others: Any) -> TrialRecord:
    metrics = {} if top1 is None else {"score.top1_accuracy": top1, "score.size_bytes": size}
    more = {f"score.{name}": value for name, value in others.pop("reports", {}).items()}
    values = {"prune.n_m": "2:4", "tune.learning_rate": 0.001 * (number + 1)}
    keys = {"prune": f"{number:08x}" + "a" * 24, "score": f"{number:08x}" + "b" * 24}
    return TrialRecord(number=number, values=values, state=state, metrics={**metrics, **more}, keys=keys, **others)


def settled(*trials: TrialRecord, best: int | None = 0, **options: Any) -> FoundSweep:
    result = SweepResult(
        trials=trials, front=[best] if best is not None else [], best=best, verdict="t0000 is best.",
        rule="the best score.top1_accuracy", objectives=OBJECTIVES, spent_s=41.0, avoided_s=159.0, **options,
    )  # fmt: skip
    parts = {"prune": "sparsify.magnitude", "score": "evaluate.classifier"}
    sweep = run_sweep("search", result, key="a" * 32)
    return FoundSweep(run="abcdefgh", name="search", sweep=sweep, trials=trials, result=result, settings=None, parts=parts)


def a_run() -> RunStatus:
    return RunStatus(id="abcdefgh", created="", workflow="w", file="w.yaml", state="running", nodes={}, request={})


def started(number: int) -> dict[str, Any]:
    return {
        "type": "trial_started", "sweep": "search", "trial": f"search/t{number:04d}", "number": number,
        "values": {"tune.lr": 0.1}, "parent": None,
    }  # fmt: skip


def ended(number: int, value: float | None, *, state: str = "done", violated: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        **started(number), "type": "trial_ended", "state": state, "metrics": {"score.top1_accuracy": value},
        "violated": list(violated), "error": "RuntimeError: no" if state == "failed" else "",
    }  # fmt: skip


BEGUN = {
    "type": "sweep_started", "sweep": "search", "key": "k", "trials": 9, "known": 0,
    "objectives": {"score.top1_accuracy": "maximize"},
}  # fmt: skip


def test_events_fold_into_trials_and_the_best_so_far() -> None:
    status = a_run()
    status.apply([BEGUN, started(0), started(1), started(2), started(3)])
    status.apply([ended(0, 0.5), ended(1, 0.9, violated=("too large",)), ended(2, None, state="failed")])
    sweep = status.sweeps["search"]
    assert sweep.leader is not None
    assert sweep.leader.number == 0, "what is beyond a constraint does not lead"
    assert counts(sweep) == "4 of 9 trials: 1 running, 2 done, 1 failed; best so far t0000, score.top1_accuracy 0.5"
    status.apply([{"type": "run_finished", "state": "cancelled"}])
    assert sweep.state == "cancelled"
    assert sweep.trials[3].state == "cancelled"


def test_a_settled_sweep_without_a_best_trial_has_no_leader() -> None:
    status = a_run()
    end = {"type": "sweep_settled", "sweep": "search", "key": "k", "best": None, "front": [], "verdict": "None."}
    status.apply([BEGUN, ended(0, 0.5), {**end, "spent_s": 1.0, "avoided_s": 0.0}])
    assert status.sweeps["search"].leader is None


def test_a_trial_that_was_not_seen_to_start_is_there_all_the_same() -> None:
    status = a_run()
    status.apply([BEGUN, ended(5, None, state="infeasible", violated=("size 3 is above",))])
    assert status.sweeps["search"].trials[5].violated == ["size 3 is above"]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (BEGUN, "SEARCH  search  9 trials"),
        ({**BEGUN, "trials": None, "known": 3}, "SEARCH  search  the whole grid, 3 of them ended by earlier runs"),
        (
            {**BEGUN, "known": 11},
            "SEARCH  search  9 trials: 11 were ended by earlier searches; raise trials to try more",
        ),
        ({**started(7), "parent": 2}, "RUN     search/t0007  from t0002: lr 0.1"),
        (ended(1, 0.9), "DONE    search/t0001  top1_accuracy 0.9"),
        (ended(1, 0.9, violated=("x is above",)), "DONE    search/t0001  top1_accuracy 0.9; x is above"),
        (ended(1, None, state="stopped"), "STOP    search/t0001  stopped early"),
        (ended(1, None, state="failed"), "FAIL    search/t0001  RuntimeError: no"),
        ({"type": "sweep_failed", "sweep": "search", "error": "3 of 4 failed"}, "FAIL    search  3 of 4 failed"),
        ({"type": "sweep_blocked", "sweep": "search", "by": "base"}, "SKIP    search  needs base, which did not finish"),
    ],
    ids=lambda value: value["type"] if isinstance(value, Mapping) else "",
)
def test_each_event_of_a_sweep_is_one_line(event: Mapping[str, Any], line: str) -> None:
    assert event_line(event, style=Style()) == line


def test_trials_are_ordered_as_a_person_looks_for_them() -> None:
    found = settled(
        trial(0, 0.9), trial(1, None, state="failed", error="x"), trial(2, 0.95, violated=("too large",)), trial(3, 0.8),
        trial(4, 0.85), trial(5, None, state="running"), trial(6, None, state="stopped"),
    )  # fmt: skip
    assert [each.number for each in ordered(found)] == [5, 0, 4, 3, 2, 6, 1]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_of_trials_fits_the_terminal(width: int) -> None:
    found = settled(trial(0, 0.9), trial(1, None, state="failed", error="RuntimeError: " + "long " * 40))
    lines = sweep_lines(found, style=Style(), width=width)
    assert max(map(len, lines[1:])) <= width
    assert "t0000" in lines[2]
    assert "2:4" in lines[2]


def test_the_cost_says_what_sharing_saved() -> None:
    assert cost_text(41.0, 159.0) == "trials cost 41.0s; one by one they would have cost 3m20s: 4.9x"
    assert cost_text(41.0, 0.0) == "trials cost 41.0s; they had nothing in common"
    assert cost_text(0.0, 20.0).startswith("trials cost nothing")


def test_names_are_shortened_only_where_they_stay_apart() -> None:
    assert short_names(["a.x", "b.x", "b.y"]) == {"a.x": "a.x", "b.x": "b.x", "b.y": "y"}


IDLE = {"neither_smaller_nor_faster": True, "size_ratio": 1.0, "latency_ratio_b1": 1.01}
SMALL = {"neither_smaller_nor_faster": False, "size_ratio": 0.5, "latency_ratio_b1": 1.0}


def test_a_best_that_saves_nothing_is_said_loudly_with_the_next_that_does(workspace: api.Workspace) -> None:
    found = settled(trial(0, 0.9, reports=IDLE), trial(1, 0.8, reports=IDLE), trial(2, 0.7, reports=SMALL))
    best = find_best(found, a_run(), workspace.artifacts)
    lines = best_lines(best, top=1, style=Style(), width=None)
    place = next(index for index, line in enumerate(lines) if line.startswith("WARN"))
    assert "NEITHER SMALLER NOR FASTER" in lines[place]
    assert lines[place + 1].strip() == "stored 1.00x, speed 1.01x at batch size 1 (search/t0000/score)"
    assert "the next that is: t0002" in lines[place + 2]
    assert best_document(best, top=1)["best"]["neither_smaller_nor_faster"] is True
    sound = find_best(settled(trial(0, 0.9, reports=SMALL)), a_run(), workspace.artifacts)
    assert not any("WARN" in line for line in best_lines(sound, top=1, style=Style(), width=None))


def test_a_saving_found_on_another_file_of_the_trial_is_one(workspace: api.Workspace) -> None:
    """A graph to run may be larger than dense while the packed file to send is a tenth of it."""
    one = trial(0, 0.9, reports=IDLE)
    other = replace(one, metrics={**one.metrics, "file.neither_smaller_nor_faster": False, "file.size_ratio": 0.1})
    best = find_best(settled(other), a_run(), workspace.artifacts)
    assert not any("WARN" in line for line in best_lines(best, top=1, style=Style(), width=None))


def test_a_finalist_is_told_with_its_interval_and_its_ties(workspace: api.Workspace) -> None:
    repeats = {0: [{"score.top1_accuracy": value, "score.size_bytes": 1000} for value in (0.90, 0.92, 0.91)]}
    found = settled(trial(0, 0.95), trial(3, 0.9), ties=(3,), repeats=repeats)
    text = "\n".join(best_lines(find_best(found, a_run(), workspace.artifacts), top=1, style=Style(), width=None))
    assert "score.top1_accuracy 0.95; 0.91 (95%: 0.8852 to 0.9348) over 3 further seeds" in text
    assert "score.size_bytes 1,000\n" in text, "what is the same for every seed needs no interval"
    assert "the intervals do not tell it from t0003" in text


def test_one_seed_has_the_interval_of_its_test_images(workspace: api.Workspace) -> None:
    found = settled(trial(0, 0.98, reports={"num_correct": 441, "num_test": 450}))
    text = "\n".join(best_lines(find_best(found, a_run(), workspace.artifacts), top=1, style=Style(), width=None))
    assert "score.top1_accuracy 0.98 (95%: 0.9624 to 0.9894, of 450 test images, one seed)" in text


def test_what_is_copied_out_is_the_model_and_not_its_evaluation(workspace: api.Workspace) -> None:
    best = find_best(settled(trial(7, 0.9), best=7), a_run(), workspace.artifacts)
    assert copy_command(best) == "orchestrator artifacts get 00000007 ./best"
    assert best.found.main_part(best.found.trial(7)) == "prune"


def test_the_same_trial_in_two_runs_is_one_point() -> None:
    first = settled(trial(0, 0.9, 500), trial(1, 0.8, 900))
    both = trade_offs([first, replace(first, run="bcdefghj")])
    assert len(both.points) == 2
    assert [point.trial.number for point in both.members] == [0]


def test_the_live_block_tells_how_far_a_sweep_is(workspace: api.Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    status = a_run()
    status.apply([BEGUN, started(0), started(1), ended(0, 0.5)])
    file = io.StringIO()
    block = LiveBlock(file, ProgressReader(workspace.ledger, status.id), status, is_coloured=False)
    block.close()
    assert "SEARCH  search  2 of 9 trials: 1 running, 1 done; best so far t0000" in file.getvalue()


def compared(settings: Mapping[str, Any] | None = None, **metrics: Any) -> Compared:
    record = Record(
        key="0123456789abcdef" * 2, stage="evaluate.classifier", kind="evaluation", identity={}, files={}, metrics=metrics,
        measurements={}, content_digest="", input_digests={}, source_digest="", label="a", run="r", attempt=1, finished="",
        seconds=0.0,
    )  # fmt: skip
    return Compared(name="a", record=record, settings=settings or {})


@pytest.mark.parametrize(
    ("metric", "before", "now", "word"),
    [
        ("top1_accuracy", {"num_correct": 400, "num_test": 450}, {"num_correct": 405, "num_test": 450}, "tie"),
        ("top1_accuracy", {"num_correct": 350, "num_test": 450}, {"num_correct": 405, "num_test": 450}, "better"),
        ("top1_accuracy", {"num_correct": 405, "num_test": 450}, {"num_correct": 350, "num_test": 450}, "worse"),
        ("latency_ms_b1", 10.0, 10.2, "tie"),
        ("latency_ms_b1", 10.0, 9.0, "better"),
        ("images_per_s_b64", 100.0, 90.0, "worse"),
        ("size_bytes", 1000, 999, "better"),
        ("gmacs", 1.0, 1.0, "tie"),
        ("value", 1, 2, ""),
    ],
)
def test_verdicts_follow_the_rule_that_is_told(metric: str, before: Any, now: Any, word: str) -> None:
    def side(value: Any) -> Compared:
        counts = value if isinstance(value, dict) else {}
        return compared(**counts, **{metric: counts["num_correct"] / counts["num_test"] if counts else value})

    assert verdict(metric, side(before), side(now)).word == word


def test_the_interval_of_a_difference_is_newcombes() -> None:
    low, high = difference_interval((56, 70), (48, 80))  # his table II, (a)
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


def test_a_setting_that_was_left_at_its_default_is_shown_with_it() -> None:
    first = compared({"probe.sleep is part of it": "probe.sleep", "probe.sleep.seconds": 2.0})
    second = compared({"probe.sleep is part of it": "probe.sleep"})
    assert differing_settings([first, second]) == {"probe.sleep.seconds": [2.0, 1.0]}


def test_every_metric_that_a_name_judges_is_judged_the_right_way() -> None:
    assert better("top1_accuracy") == better("images_per_s_b64") == better("latency_ratio_b1") == "maximize"
    assert better("latency_ms_b64") == better("size_bytes") == better("train_loss") == "minimize"
    assert better("num_inputs") is None
