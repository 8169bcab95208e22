"""Forecasts of whole trials: equal to what the trial then reports, shared between trials, silent about what cannot be known."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.sweeps import forecast as forecasts
from orchestrator.sweeps.forecast import Forecaster
from orchestrator.workflow.plan import Selection
from stages.catalog import load_forecast

HEAD = """
version: 1
name: chain
nodes:
  pretrain:
    stage: pretrain.classifier
    params: {model: vit_micro, data: digits, epochs: 1, model_args: {depth: 3, embed_dim: 32}}
"""
CHAIN = f"""{HEAD}
  sparsify: {{stage: sparsify.magnitude, inputs: {{model: pretrain}}, params: {{data: digits, n_m: "2:4"}}}}
  quantize: {{stage: quantize.qat, inputs: {{model: sparsify}}, params: {{data: digits, epochs: 1, weight_bits: 4}}}}
  tokens: {{stage: compress_tokens.uniform, inputs: {{model: quantize}}, params: {{data: digits, keep_rate: 0.7}}}}
  tune: {{stage: finetune.distill, inputs: {{model: tokens, teacher: pretrain}}, params: {{data: digits, epochs: 1}}}}
  packed: {{stage: export.packed, inputs: {{model: tune}}}}
  score: {{stage: evaluate.classifier, inputs: {{model: tune, baseline: pretrain}}, params: {{data: digits}}}}
"""
SHORT = f"""{HEAD}
  sparsify: {{stage: sparsify.magnitude, inputs: {{model: pretrain}}, params: {{data: digits, n_m: "PATTERN"}}}}
  tune: {{stage: finetune.classifier, inputs: {{model: sparsify}}, params: {{data: digits, learning_rate: RATE}}}}
  onnx: {{stage: export.onnx, inputs: {{model: tune}}}}
  score: {{stage: evaluate.classifier, inputs: {{model: tune, exported: onnx}}, params: {{data: digits}}}}
"""


def forecast_of(forecaster, plan, *, outside=()):
    trial = {label: node for label, node in plan.nodes.items() if label not in outside}
    return forecaster.of_trial(trial, {label: plan.nodes[label] for label in outside})


def short(plan_text, *, pattern="2:4", rate=0.001):
    return plan_text(SHORT.replace("PATTERN", pattern).replace("RATE", str(rate)))


@pytest.fixture
def calls(monkeypatch):
    """How often each stage's forecast was called."""
    counted = Counter()

    def load(spec):
        forecast = load_forecast(spec)
        return forecast and (lambda settings, inputs: counted.update([spec.name]) or forecast(settings, inputs))

    monkeypatch.setattr(forecasts, "load_forecast", load)
    return counted


def test_a_trial_is_forecast_as_it_then_reports_whether_its_first_model_is_finished_or_not(plan_text, run_text, workspace):
    """Masks, bits and fewer tokens in one model, on top of a model of the trial itself, then of one that is there already."""
    plan = plan_text(CHAIN)
    unfinished = forecast_of(Forecaster(workspace.artifacts), plan)
    run_text(CHAIN, selection=Selection(until=("pretrain",)))
    finished = forecast_of(Forecaster(workspace.artifacts), plan, outside=("pretrain",))
    assert finished == {name: value for name, value in unfinished.items() if not name.startswith("pretrain.")}
    run_text(CHAIN)
    reported = {
        f"{label}.{name}": value
        for label, node in plan.nodes.items()
        for name, value in workspace.artifacts.find(node.spec.name, node.key).metrics.items()
    }
    assert unfinished == {name: reported[name] for name in unfinished}
    expected = {f"{label}.{name}" for label, node in plan.nodes.items() for name in node.spec.forecast_metrics}
    assert set(unfinished) == expected
    assert {"score.gmacs", "score.bops", "packed.size_bytes", "score.num_nonzero_parameters"} <= expected


def test_trials_that_differ_late_share_what_is_before(plan_text, workspace, calls):
    forecaster = Forecaster(workspace.artifacts)
    plans = [short(plan_text, rate=rate / 1000) for rate in range(1, 11)]
    found = [forecast_of(forecaster, plan) for plan in plans]
    assert calls == {"pretrain.classifier": 1, "sparsify.magnitude": 1, "finetune.classifier": 10, "evaluate.classifier": 10}
    assert all(one == found[0] for one in found)


def test_models_of_one_structure_are_counted_once(plan_text, workspace):
    """A learning rate changes every key below it and no count: a large network must not be run again for each."""
    from stages.models.skeleton import measure_skeleton

    measure_skeleton.cache_clear()
    forecaster = Forecaster(workspace.artifacts)
    for rate in range(1, 11):
        forecast_of(forecaster, short(plan_text, rate=rate / 1000))
    assert measure_skeleton.cache_info().misses == 2
    forecast_of(forecaster, short(plan_text, pattern="1:4"))
    assert measure_skeleton.cache_info().misses == 3


def test_a_stage_without_a_forecast_makes_what_needs_it_unknown_and_nothing_else(plan_text, workspace, monkeypatch):
    known = forecast_of(Forecaster(workspace.artifacts), short(plan_text))
    assert "score.gmacs_effective" in known
    assert "score.size_bytes" not in known, "an ONNX file's size is not known before it is written"
    monkeypatch.setattr(
        forecasts, "load_forecast", lambda spec: None if spec.name.startswith("sparsify") else load_forecast(spec)
    )
    left = forecast_of(Forecaster(workspace.artifacts), short(plan_text))
    assert {name.partition(".")[0] for name in left} == {"pretrain"}


def test_a_model_from_outside_that_is_not_there_makes_all_unknown(plan_text, workspace):
    assert forecast_of(Forecaster(workspace.artifacts), short(plan_text), outside=("pretrain",)) == {}


def test_settings_that_the_stage_will_refuse_are_left_to_the_stage(plan_text, workspace):
    """16 does not divide the 24 inputs of any layer: the trial fails by its own words, and not the whole search."""
    plan = plan_text(SHORT.replace("embed_dim: 32", "embed_dim: 24").replace("PATTERN", "2:16").replace("RATE", "0.001"))
    found = forecast_of(Forecaster(workspace.artifacts), plan)
    assert {name.partition(".")[0] for name in found} == {"pretrain"}


SEARCH = (
    HEAD
    + """
  search:
    sweep:
      sampler: grid
      space: {sparsify.n_m: {choice: ["2:4", "1:4"]}}
      objectives: {packed.size_bytes: minimize}
      constraints: [{metric: packed.size_bytes, max: 50000, check: static}]
    nodes:
      sparsify: {stage: sparsify.magnitude, inputs: {model: pretrain}, params: {data: digits}}
      packed: {stage: export.packed, inputs: {model: sparsify}}
"""
)


def test_a_trial_whose_forecast_breaks_a_static_constraint_is_struck_out_and_nothing_of_it_runs(run_text):
    result = run_text(SEARCH)
    assert result.state.value == "done"
    ran = {label for label, node in result.status.nodes.items() if node.state == "done"}
    assert ran == {"pretrain", "search/t0001/sparsify", "search/t0001/packed"}
