"""What a plan costs, by what earlier runs took: ranges, what they rest on, what is avoided, and nothing invented."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import api
from orchestrator.report.price_text import hours_text, price_lines
from orchestrator.report.pricing import num_distinct, price_plan
from orchestrator.store.local import LocalStore
from orchestrator.workflow.budget import Budget, Hours
from orchestrator.workflow.estimate import Estimator
from orchestrator.workflow.history import MAX_PER_RUN, History, HistoryWriter, Timing, timing_of_record
from orchestrator.workflow.plan import Status

CHAIN = """
version: 1
name: chain
nodes:
  first: {stage: probe.sleep, params: {seconds: 0.02, value: 1}}
  second: {stage: probe.sleep, params: {seconds: 0.02, value: 2}, inputs: {inputs: first}, resources: {cpus: 2}}
"""
SWEEP = """
version: 1
name: search
nodes:
  base: {stage: probe.sleep, params: {seconds: 0.01}}
  search:
    sweep: {trials: 8, sampler: grid, objectives: {late.value: minimize}, space: {mid.value: {choice: [1, 2]}, late.value: {choice: [1, 2, 3, 4]}}}
    nodes:
      same: {stage: probe.sleep, params: {seconds: 0.01, value: 7}, inputs: {inputs: base}}
      mid: {stage: probe.sleep, params: {seconds: 0.01}, inputs: {inputs: same}}
      late: {stage: probe.sleep, params: {seconds: 0.01}, inputs: {inputs: mid}}
  after: {stage: probe.sleep, params: {seconds: 0.01}, inputs: {inputs: search.best.late}}
"""  # noqa: E501 - one line says a sweep best
TRAINING = """
version: 1
name: training
nodes:
  train: {stage: pretrain.classifier, params: {model: vit_micro, data: digits, epochs: 10}}
"""


def kept(workspace: api.Workspace, stage: str, *timings: Timing, run: str = "r1") -> None:
    History(workspace.store).write(run, stage, timings, began="2026-11-02T14:02:07Z")


def trained(workspace: api.Workspace, plan: Any, **details: Any) -> Timing:
    """A timing of the plan's training, with details changed."""
    writer = HistoryWriter(workspace.store, run="r1", began="2026-11-02T14:02:07Z")
    timing = writer.attempt_ended(plan.nodes["train"], plan.nodes, seconds=100.0)
    return Timing(**{**vars(timing), **details})


def test_without_a_record_there_is_no_figure(plan_text, workspace) -> None:
    """A guess that looks like a measurement is worse than none."""
    price = price_plan(plan_text(CHAIN), workspace.artifacts)
    assert (price.num_to_make, price.num_priced, price.unpriced) == (2, 0, ("first", "second"))
    assert price_lines(price) == "no record yet of what is to run"


def test_what_was_made_prices_what_is_like_it_and_hits_are_avoided(plan_text, run_text, workspace) -> None:
    run_text(CHAIN)
    price = price_plan(plan_text(CHAIN.replace("value: 2", "value: 3")), workspace.artifacts)
    assert price.nodes.keys() == {"second"}
    assert price.nodes["second"].num_records == 1
    assert price.nodes["second"].low.cpu >= 2 * 0.02 / 3600, "two cores for as long"
    assert price.by_hits.cpu >= 0.02 / 3600
    text = price_lines(price)
    assert "to spend, from 1 record" in text
    assert "avoided by hits" in text


def test_the_same_work_twice_in_a_plan_is_avoided_by_sharing(plan_text, run_text, workspace) -> None:
    run_text(CHAIN)
    text = CHAIN.replace("value: 1", "value: 9") + "  twin: {stage: probe.sleep, params: {seconds: 0.02, value: 9}}\n"
    made = plan_text(text)
    assert made.nodes["twin"].status is Status.SHARED
    price = price_plan(made, workspace.artifacts)
    assert price.num_to_make == 2
    assert price.by_sharing.cpu > 0


@pytest.mark.parametrize(("epochs", "low_s", "high_s"), [(10, 90, 110), (5, 45, 110), (20, 90, 220)])
def test_another_number_of_epochs_lies_between_the_same_time_and_in_proportion(
    plan_text, workspace, epochs: int, low_s: float, high_s: float
) -> None:
    """Start-up does not shrink with the epochs, training does: the range has both."""
    plan = plan_text(TRAINING)
    kept(workspace, "pretrain.classifier", *(trained(workspace, plan, seconds=seconds) for seconds in (90.0, 100.0, 110.0)))
    asked = plan_text(TRAINING.replace("epochs: 10", f"epochs: {epochs}"))
    found = Estimator(workspace.store, asked.nodes).estimate(asked.nodes["train"])
    assert found is not None
    assert (found.low_s, found.high_s, found.num_records) == (low_s, high_s, 3)


def test_a_record_alone_tells_of_its_workers_and_other_releases_read_what_has_one(plan_text, workspace) -> None:
    """Four workers that took 100 s would be priced as a quarter of it; and a release without the field drops the file."""
    asked = plan_text(TRAINING.replace("epochs: 10}", "epochs: 10}, resources: {workers: 4}"))
    node = asked.nodes["train"]
    record = SimpleNamespace(identity=node.identity, seconds=100.0)
    assert timing_of_record(record, node.spec).workers == 4
    kept(workspace, "pretrain.classifier", trained(workspace, plan_text(TRAINING), workers=1))
    assert b"workers" not in workspace.store.read("history/pretrain.classifier/20261102140207-r1.json").data


@pytest.mark.parametrize(("workers", "low_s", "high_s"), [(1, 100, 400), (4, 100, 100), (8, 50, 100)])
def test_another_number_of_workers_takes_between_the_same_time_and_its_share(
    plan_text, workspace, workers: int, low_s: float, high_s: float
) -> None:
    """Four workers were no faster than one at worst, and four times as fast at best; what was measured with as many is that."""
    text = TRAINING.replace("epochs: 10}", f"epochs: 10}}, resources: {{workers: {workers}}}")
    asked = plan_text(text)
    kept(workspace, "pretrain.classifier", trained(workspace, asked, workers=4))
    found = Estimator(workspace.store, asked.nodes).estimate(asked.nodes["train"])
    assert found is not None
    assert (found.low_s, found.high_s) == (low_s, high_s)


@pytest.mark.parametrize(
    "other",
    [{"subject": {"model": "resnet20", "data": "digits"}}, {"gpus": 1.0}, {"seconds": 0.0}],
    ids=["another model", "on a GPU", "of an attempt that failed"],
)
def test_what_is_not_alike_prices_nothing(plan_text, workspace, other: dict[str, Any]) -> None:
    plan = plan_text(TRAINING)
    kept(workspace, "pretrain.classifier", trained(workspace, plan, **other))
    assert Estimator(workspace.store, plan.nodes).estimate(plan.nodes["train"]) is None


def test_the_nearest_settings_decide(plan_text, workspace) -> None:
    plan = plan_text(TRAINING)
    far = trained(workspace, plan, seconds=900.0)
    far = Timing(**{**vars(far), "settings": {**far.settings, "learning_rate": 9.0, "batch_size": 7}})
    kept(workspace, "pretrain.classifier", trained(workspace, plan), far)
    found = Estimator(workspace.store, plan.nodes).estimate(plan.nodes["train"])
    assert found is not None
    assert (found.low_s, found.high_s) == (100.0, 100.0)


def test_a_stage_knows_on_which_model_it_works_from_what_is_before_it(plan_text, workspace) -> None:
    """A pruning of a large model says nothing of one of a small model, and its settings do not name either."""
    text = TRAINING + "  prune: {stage: sparsify.magnitude, params: {data: digits}, inputs: {model: train}}\n"
    small, large = plan_text(text), plan_text(text.replace("vit_micro", "resnet20"))
    writer = HistoryWriter(workspace.store, run="r1", began="2026")
    writer.attempt_ended(small.nodes["prune"], small.nodes, seconds=30.0)
    writer.flush()
    assert Estimator(workspace.store, small.nodes).estimate(small.nodes["prune"]) is not None
    assert Estimator(workspace.store, large.nodes).estimate(large.nodes["prune"]) is None


def test_a_sweep_is_priced_by_what_its_trials_do_not_share(plan_text, run_text, workspace) -> None:
    """Eight trials of four nodes would be 24 nodes one by one; with what they share they are 11, and one after it."""
    run_text(SWEEP.replace("seconds: 0.01", "seconds: 0.02"))
    price = price_plan(plan_text(SWEEP), workspace.artifacts)
    assert (price.num_to_make, price.num_priced) == (1 + 1 + 2 + 8 + 1, 13)
    assert price.by_sharing.cpu > 0
    again = price_plan(plan_text(SWEEP.replace("seconds: 0.01", "seconds: 0.02")), workspace.artifacts)
    assert again.num_to_make == 0
    assert again.by_hits.cpu * 3600 >= 13 * 0.02, "what the trials of a settled search took is avoided, too"


def test_draws_from_few_values_are_not_all_different(plan_text) -> None:
    sweep = plan_text(SWEEP.replace("sampler: grid", "sampler: random")).sweeps["search"]
    assert num_distinct(sweep, "same", 8) == (1, 1)
    assert num_distinct(sweep, "mid", 8) == (1, 2)
    fewest, most = num_distinct(sweep, "late", 8)
    assert 4 <= fewest < most == 8


def test_a_store_from_before_is_priced_by_a_bounded_number_of_its_records(plan_text, run_text, workspace) -> None:
    run_text(CHAIN)
    for file in Path(workspace.store.url.removeprefix("file://")).glob("history/*/*.json"):
        file.unlink()
    price = price_plan(plan_text(CHAIN.replace("value: 2", "value: 3")), workspace.artifacts)
    assert price.num_priced == 1


def test_pricing_reads_the_newest_history_and_never_all_artifacts(plan_text, run_text, workspace, monkeypatch) -> None:
    """With ten thousand artifacts in a bucket every plan would take minutes."""
    run_text(CHAIN)
    for number in range(120):
        kept(workspace, "probe.sleep", Timing(settings={"value": number}, seconds=1.0), run=f"old{number}")
    asked = plan_text(CHAIN.replace("value: 2", "value: 3"))
    read: list[str] = []
    original = LocalStore.read_many

    def read_many(store: LocalStore, paths: Any) -> Any:
        paths = list(paths)
        read.extend(paths)
        return original(store, paths)

    monkeypatch.setattr(LocalStore, "read_many", read_many)
    monkeypatch.setattr(LocalStore, "read_below", lambda *_: pytest.fail("all records of a stage were read"))
    assert price_plan(asked, workspace.artifacts).num_priced == 1
    assert len(read) <= 50


def test_a_run_keeps_a_bounded_even_draw_of_what_it_made(plan_text, workspace) -> None:
    plan = plan_text(TRAINING)
    writer = HistoryWriter(workspace.store, run="r1", began="2026")
    for seconds in range(1, 2001):
        writer.attempt_ended(plan.nodes["train"], plan.nodes, seconds=float(seconds))
    writer.flush()
    found = [timing.seconds for timing in History(workspace.store).read(plan.nodes["train"].spec)]
    assert len(found) == MAX_PER_RUN
    assert 800 < sum(found) / len(found) < 1200


def test_damaged_history_is_passed_over(plan_text, workspace) -> None:
    plan = plan_text(TRAINING)
    workspace.store.create("history/pretrain.classifier/2026-x.json", b"{")
    workspace.store.create("history/pretrain.classifier/2026-y.json", b'{"format": 1, "timings": [{"settings": 3}, 7]}')
    assert Estimator(workspace.store, plan.nodes).estimate(plan.nodes["train"]) is None


def test_the_budget_is_judged_by_both_ends_of_the_range(plan_text, run_text, workspace) -> None:
    run_text(CHAIN)
    price = price_plan(plan_text(CHAIN.replace("value: 1", "value: 5")), workspace.artifacts)
    assert "too small" in price_lines(price, budget=Budget(cpu_hours=1e-7))
    assert price_lines(price, budget=Budget(cpu_hours=100)).endswith("budget 100 CPU-h: ok")


def test_hours_are_told_in_the_unit_that_people_would_use() -> None:
    assert hours_text(Hours(31, 99), Hours(38, 99)) == "31-38 GPU-h"
    assert hours_text(Hours(cpu=0.001)) == "3.6 CPU-s"
    assert hours_text(Hours(cpu=0.0001)) == "<1 CPU-s"
