"""How a stage takes a model in and hands one out: checked on the way in, measured and described on the way out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stages.contract import StageContext, StageResult
from stages.data.base import Dataset
from stages.models.bundle import WEIGHTS_FILE, ModelBundle, load_bundle, save_bundle
from stages.models.zoo import CLASSIFICATION
from stages.training.loop import TrainingReport
from stages.training.tasks.base import Score, refuse_other_tasks

HISTORY_FILE = "history.json"
_OTHER_VALUES = {
    "latents": "The model takes latents: connect a data.encode node to `data`, or set autoencoder in evaluate.diffusion",
    "pixels": "The model takes pixels: give it the images, and no autoencoder",
}


def receive_model(
    context: StageContext, data: Dataset, *, port: str = "model", takes: str | None = CLASSIFICATION
) -> ModelBundle:
    """Load the model on `port`, in evaluation mode on the CPU.

    Args:
        context: of the stage.
        data: that the model is to be used on.
        port: of the stage.
        takes: the task that the stage takes models for; None for any.

    Raises:
        ValueError: the model is for another task, takes other images or knows other classes than the data have.
    """
    bundle = load_bundle(context.input(port))
    if takes is not None:
        refuse_other_tasks(bundle, stage=f"input {port!r}", takes=takes)
    found, expected = bundle.architecture.input_spec, data.input_spec
    if found != expected:
        hint = "Train the model on these data first" if found.values == expected.values else _OTHER_VALUES[found.values]
        raise ValueError(f"input {port!r} takes images {found}; the data have {expected}. {hint}")
    if bundle.architecture.class_names and bundle.architecture.class_names != data.class_names:
        raise ValueError(
            f"input {port!r} knows {len(bundle.architecture.class_names)} classes {_first(bundle.architecture.class_names)}; "
            f"the data have {len(data.class_names)}: {_first(data.class_names)}"
        )
    return bundle


def deliver_model(
    bundle: ModelBundle, *, context: StageContext, report: TrainingReport, metrics: Mapping[str, Any] | None = None
) -> StageResult:
    """Write the bundle, the training curve and the table of layers to the context's output; gather what the stage reports.

    Args:
        bundle: the trained model.
        context: of the stage.
        report: what `train` returned.
        metrics: the method's own figures; they follow from settings, inputs and seed.
    """
    result = deliver_measured(
        bundle,
        context=context,
        score=report.score,
        metrics={"final_loss": report.final_loss, "num_steps": report.num_steps, **(metrics or {})},
    )
    history = json.dumps(list(report.history), indent=1, allow_nan=False) + "\n"
    (context.output / HISTORY_FILE).write_text(history, encoding="utf-8")
    return replace(result, measurements={"training_s": report.seconds, "training_images_per_s": report.images_per_s})


def deliver_measured(
    bundle: ModelBundle, *, context: StageContext, score: Score, metrics: Mapping[str, Any] | None = None
) -> StageResult:
    """Write the bundle and the table of layers to the context's output; gather what every stage reports of the model it made.

    Args:
        bundle: the model, on the CPU.
        context: of the stage.
        score: of the model on the test images.
        metrics: the stage's own figures; they follow from settings, inputs and seed.
    """
    from stages.models.layer_table import save_layers
    from stages.models.measures import measure_model

    save_bundle(bundle, context.output)
    save_layers(bundle, context.output)
    return StageResult(
        metrics={
            **score.metrics,
            **measure_model(bundle),
            "size_bytes": (context.output / WEIGHTS_FILE).stat().st_size,
            **(metrics or {}),
        }
    )


def _first(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
