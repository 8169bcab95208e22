"""The stages `pretrain.load` and `pretrain.transfer`: a model as it is, fitted to the images and classes of the data."""

from __future__ import annotations

from pathlib import Path

from stages.contract import StageContext, StageResult
from stages.data.base import Dataset, load_stage_data
from stages.models.bundle import ModelBundle, load_bundle
from stages.models.weights import load_named, load_tensors
from stages.models.zoo import build_network
from stages.ops.seeding import prepare_process
from stages.ops.seeds import derive_seed
from stages.ops.weights_file import read_weights
from stages.pretrain.architectures import architecture_of
from stages.pretrain.settings import LoadSettings, TransferSettings
from stages.training.model_artifact import deliver_measured
from stages.training.tasks.base import task_of


def load(context: StageContext) -> StageResult:
    """Build the model, put the weights into it, measure it on the test images.

    Raises:
        ValueError: the weights are unknown, unsafe, damaged, or do not fit the model or the data.
        RuntimeError: they cannot be had from here.
    """
    prepare_process(context)
    settings = context.settings
    assert isinstance(settings, LoadSettings)
    data = load_stage_data(context)
    architecture = architecture_of(settings, data)
    seed = derive_seed(context.seed, "weights")
    if settings.weights == "random":
        model = build_network(architecture, seed=seed)
    elif settings.weights_file is None:
        model = load_named(architecture, source=settings.model, head=settings.head, seed=seed)
    else:
        path = Path(settings.weights_file)
        model = load_tensors(architecture, read_weights(path), head=settings.head, seed=seed, where=str(path))
    return deliver_loaded(ModelBundle(architecture=architecture, model=model), data=data, context=context)


def transfer(context: StageContext) -> StageResult:
    """Build the input's architecture for the data, put the input's weights into it, measure it on the test images.

    Raises:
        ValueError: the model carries transforms, or does not fit the data.
    """
    prepare_process(context)
    settings = context.settings
    assert isinstance(settings, TransferSettings)
    data = load_stage_data(context)
    before = load_bundle(context.input("model"))
    if before.transforms:
        names = ", ".join(spec.name for spec in before.transforms)
        raise ValueError(f"pretrain.transfer: the model carries {names}, made for its own images; transfer it before those")
    found, wanted = len(before.architecture.class_names), len(data.class_names)
    if settings.head == "keep" and before.architecture.class_names != data.class_names:
        raise ValueError(
            f"the model knows {found} classes and the data have {wanted}, or others; set head: new for a new classifier on the "
            "trained network"
        )
    architecture = before.architecture.model_copy(update={"input_spec": data.input_spec, "class_names": data.class_names})
    state, seed = before.model.state_dict(), derive_seed(context.seed, "weights")
    model = load_tensors(architecture, state, head=settings.head, seed=seed, where="the input model")
    return deliver_loaded(ModelBundle(architecture=architecture, model=model), data=data, context=context)


def deliver_loaded(bundle: ModelBundle, *, data: Dataset, context: StageContext) -> StageResult:
    """Measure a model that was not trained here, and hand it out."""
    score = task_of(bundle).evaluate(bundle.model.to(context.device).eval(), data.test, device=context.device)
    bundle.model.cpu()
    return deliver_measured(bundle, context=context, score=score)
