"""Constraints: met or not, how far off in words, and which was nearest."""

from __future__ import annotations

import pytest

from orchestrator.sweeps.constraints import MISSING, Judgement, judge, judge_all
from orchestrator.workflow.sweep_spec import Constraint

BASELINES = {"pretrain.top1_accuracy": 0.983, "pretrain.loss": 0.2, "dense.size_bytes": 4_000_000}


def held(metrics, direction="maximize", **bounds) -> Judgement:
    (metric,) = metrics
    constraint = Constraint(metric=metric, **bounds)
    return judge(constraint, metrics, baselines=BASELINES, directions={metric: direction})


def test_a_drop_too_far_is_told_with_its_distance_and_where_the_limit_comes_from():
    judged = held({"score.top1_accuracy": 0.941}, max_drop=0.03, versus="pretrain.top1_accuracy")
    assert not judged.is_met
    assert judged.text == "score.top1_accuracy 0.941 is 0.012 below the lowest allowed 0.953 (pretrain 0.983 - 0.03)"
    assert judged.violation == pytest.approx(0.012 / 0.953)


def test_a_figure_exactly_at_the_limit_is_allowed():
    """0.983 - 0.03 is 0.9530000000000001 in floating point."""
    assert held({"score.top1_accuracy": 0.953}, max_drop=0.03, versus="pretrain.top1_accuracy").is_met
    assert not held({"score.top1_accuracy": 0.95299}, max_drop=0.03, versus="pretrain.top1_accuracy").is_met


def test_a_drop_of_a_minimized_metric_is_a_rise():
    """A loss that falls would be refused, and one that rises allowed."""
    assert held({"score.loss": 0.05}, direction="minimize", max_drop=0.1, versus="pretrain.loss").is_met
    judged = held({"score.loss": 0.35}, direction="minimize", max_drop=0.1, versus="pretrain.loss")
    assert judged.text == "score.loss 0.35 is 0.05 above the highest allowed 0.3 (pretrain 0.2 + 0.1)"


def test_a_ratio_names_a_baseline_of_another_metric_in_full():
    judged = held({"export.packed_bytes": 3_000_000}, direction="minimize", max_ratio=0.5, versus="dense.size_bytes")
    assert judged.text == (
        "export.packed_bytes 3000000 is 1000000 above the highest allowed 2000000 (dense.size_bytes 4000000 × 0.5)"
    )
    assert judged.violation == 0.5


@pytest.mark.parametrize(("value", "is_met"), [(0.9, True), (1.0, True), (1.01, False), (0.5, True), (0.49, False)])
def test_bounds_hold_on_both_sides(value, is_met):
    assert held({"n.x": value}, min=0.5, max=1.0).is_met == is_met


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "fast"])
def test_what_was_not_measured_is_not_met_and_said(value):
    """A diverged trial would be chosen."""
    judged = held({"n.x": value}, max=1)
    assert not judged.is_met
    assert judged.violation == MISSING
    assert judged.text.startswith("n.x is ")


def test_a_missing_baseline_is_told():
    judged = held({"n.x": 1.0}, max_drop=0.1, versus="gone.x")
    assert judged.text == "n.x 1 has nothing to be compared with: gone.x is missing"
    assert not judged.is_met


def test_only_static_constraints_are_judged_before_anything_has_run():
    constraints = [Constraint(metric="a.gmacs", max=1, check="static"), Constraint(metric="a.accuracy", min=0.9)]
    (judged,) = judge_all(constraints, {"a.gmacs": 2.0}, baselines={}, directions={}, static_only=True)
    assert judged.metric == "a.gmacs"
    assert judged.violation == 1.0
