"""A search with shared stages beside the same search on plain Ray Tune: `python benchmarks/sweep.py [share|stop|front]`.

share   24 trials (3 patterns x 8 rates) that train, sparsify and fine-tune: epochs executed and seconds, ours over Tune's with
        every trial doing its whole pipeline.
stop    16 trials with ASHA and without: epochs executed, and the best accuracy of both.
front   NSGA-II and TPE beside random draws at as many trials: hypervolume of the fronts.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator import api
from orchestrator.sweeps.pareto import hypervolume
from orchestrator.workflow.settled import read_result
from orchestrator.workflow.sweep_result import SWEEP_STAGE, SweepResult

DENSE_EPOCHS, TUNE_EPOCHS = 10, 4
PATTERNS = ("2:4", "1:4", "1:8")
RATES = (0.0003, 0.0006, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.008)
DATA = "{name: digits, evaluate_on: validation}"


def workflow(sweep: str, *, tune_epochs: int = TUNE_EPOCHS) -> str:
    """The workflow whose trials train a small network, sparsify it and fine-tune it."""
    return f"""
version: 1
name: bench
nodes:
  search:
    sweep:
{sweep}
    nodes:
      train: {{stage: pretrain.classifier, params: {{model: cnn_micro, data: {DATA}, epochs: {DENSE_EPOCHS}}}}}
      sparsify: {{stage: sparsify.magnitude, inputs: {{model: train}}, params: {{data: {DATA}}}}}
      tune: {{stage: finetune.classifier, inputs: {{model: sparsify}}, params: {{data: {DATA}, epochs: {tune_epochs}}}}}
"""


SPACE = f"""
      space:
        sparsify.n_m: {{choice: {json.dumps(PATTERNS)}}}
        tune.learning_rate: {{choice: {json.dumps(RATES)}}}"""
WIDE = """
      space:
        sparsify.n_m: {choice: ["2:4", "1:4", "1:8", "1:16"]}
        tune.learning_rate: {loguniform: [0.0001, 0.02]}"""
ACCURACY = """
      objectives: {tune.top1_accuracy: maximize}"""
BOTH = """
      objectives: {tune.top1_accuracy: maximize, tune.num_nonzero_parameters: minimize}"""


def search(text: str, folder: Path, executor: str = "inline") -> tuple[SweepResult, int, float]:
    """Run the workflow in a store of its own: the sweep's result, training epochs executed, seconds."""
    file = folder / "bench.yaml"
    file.write_text(text)
    workspace = api.open_workspace(str(folder / "store"))
    began_s = time.monotonic()
    outcome = api.submit(api.plan(file, workspace=workspace), workspace=workspace, executor=executor)  # type: ignore[arg-type]
    seconds = time.monotonic() - began_s
    record = next(workspace.artifacts.all_records(SWEEP_STAGE))
    result = read_result(record, workspace.artifacts)
    assert result is not None
    epochs = sum(
        max((line.get("epoch") or 0 for line in workspace.ledger.progress(outcome.run, node.folder)[0]), default=0)
        for node in outcome.status.nodes.values()
        if node.attempt
    )
    return result, epochs, seconds


def on_plain_tune(folder: Path) -> tuple[float, int, float]:
    """The same 24 trials on Tune, two at a time, each doing its whole pipeline: best accuracy, epochs, seconds."""
    from ray import tune

    def trial(config: Mapping[str, Any]) -> None:
        tune.report({"top1_accuracy": whole_pipeline(config)})

    began_s = time.monotonic()
    space = {"n_m": tune.grid_search(list(PATTERNS)), "learning_rate": tune.grid_search(list(RATES))}
    run_config = tune.RunConfig(storage_path=str(folder), name="plain", verbose=0)
    settings = tune.TuneConfig(metric="top1_accuracy", mode="max", max_concurrent_trials=2)
    results = tune.Tuner(trial, param_space=space, tune_config=settings, run_config=run_config).fit()
    seconds = time.monotonic() - began_s
    best = results.get_best_result().metrics
    assert best is not None
    return best["top1_accuracy"], len(results) * (DENSE_EPOCHS + TUNE_EPOCHS), seconds


def whole_pipeline(config: Mapping[str, Any]) -> float:
    """Train, sparsify and fine-tune by the stages' own functions, without the engine."""
    from stages.catalog import find_stage, load_implementation
    from stages.contract import Artifact, local_context

    data = {"name": "digits", "evaluate_on": "validation"}
    steps: list[tuple[str, dict[str, Any]]] = [
        ("pretrain.classifier", {"model": "cnn_micro", "data": data, "epochs": DENSE_EPOCHS}),
        ("sparsify.magnitude", {"data": data, "n_m": config["n_m"]}),
        ("finetune.classifier", {"data": data, "epochs": TUNE_EPOCHS, "learning_rate": config["learning_rate"]}),
    ]
    inputs: dict[str, Artifact] = {}
    metrics: Mapping[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for index, (name, params) in enumerate(steps):
            spec, folder = find_stage(name), Path(place) / str(index)
            assert spec is not None
            context = local_context(spec.settings(**params), folder=folder, inputs=inputs)
            object.__setattr__(context, "num_threads", 1)
            metrics = load_implementation(spec)(context).metrics
            inputs = {
                "model": Artifact(kind="model", key="0" * 32, files={path.name: path for path in context.output.iterdir()})
            }
    return float(metrics["top1_accuracy"])


def share(folder: Path) -> None:
    """24 trials: ours, then plain Tune's."""
    ours, epochs, seconds = search(workflow("      sampler: grid" + ACCURACY + SPACE), folder, executor="ray")
    best = max(trial.metrics["tune.top1_accuracy"] for trial in ours.trials)
    plain_best, plain_epochs, plain_seconds = on_plain_tune(folder)
    say("share", trials=len(ours.trials), best=best, best_on_plain_tune=plain_best, epochs=epochs,
        epochs_on_plain_tune=plain_epochs, epochs_ratio=epochs / plain_epochs, seconds=seconds,
        seconds_on_plain_tune=plain_seconds, seconds_ratio=seconds / plain_seconds)  # fmt: skip


def stop(folder: Path) -> None:
    """16 trials of 12 epochs each, with ASHA and without."""
    found = {}
    asha = "\n      scheduler: {kind: asha, metric: tune.top1_accuracy, grace: 1, reduction_factor: 3}"
    for name, scheduler in (("none", ""), ("asha", asha)):
        (folder / name).mkdir()
        settings = "      trials: 16\n      sampler: random" + scheduler + ACCURACY + WIDE
        result, epochs, _ = search(workflow(settings, tune_epochs=12), folder / name)
        best = next(trial for trial in result.trials if trial.number == result.best)
        found[name] = epochs - DENSE_EPOCHS, best.metrics["tune.top1_accuracy"]
    say("stop", epochs=found["asha"][0], epochs_without=found["none"][0], epochs_ratio=found["asha"][0] / found["none"][0],
        best=found["asha"][1], best_without=found["none"][1])  # fmt: skip


def front(folder: Path) -> None:
    """24 trials each: hypervolume of accuracy against non-zeros, over 3 seeds."""
    volumes: dict[str, list[float]] = {"random": [], "tpe": [], "nsga2": []}
    for seed in range(3):
        for name, found in volumes.items():
            place = folder / f"{name}{seed}"
            place.mkdir()
            sampler = f"{{kind: {name}, population: 8}}"
            settings = f"      trials: 24\n      seed: {seed}\n      sampler: {sampler}" + BOTH + WIDE
            result, _, _ = search(workflow(settings, tune_epochs=2), place)
            points = [
                (trial.metrics["tune.top1_accuracy"], trial.metrics["tune.num_nonzero_parameters"] / 30_000)
                for trial in result.trials
                if trial.state == "done"
            ]
            found.append(hypervolume(points, reference=(0.0, 1.0), directions=["maximize", "minimize"]))
    say("front", **{name: statistics.mean(found) for name, found in volumes.items()})


def say(name: str, **figures: float) -> None:
    """One line of figures."""
    sys.stdout.write(f"{name}  " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()) + "\n")
    sys.stdout.flush()


BENCHMARKS: Mapping[str, Callable[[Path], None]] = {"share": share, "stop": stop, "front": front}


if __name__ == "__main__":
    for asked in sys.argv[1:] or list(BENCHMARKS):
        with tempfile.TemporaryDirectory(prefix="bench-sweep-") as temporary:
            BENCHMARKS[asked](Path(temporary))
